"""A cluster as its clients know it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.kafka.wire import HOST

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.kafka.security import Security


class Addresses:
    """The addresses of a cluster, whoever runs it.

    Attributes:
        folder: of the cluster.
        nodes: the brokers' ids.
        ports: of each node by listener; PROXIED is its proxy's, which is to forward to PROXY.
        security: what a client needs for the listeners with SASL and TLS.
    """

    def __init__(self, folder: Path, n_brokers: int, security: Security | None) -> None:
        self.folder = folder
        self.nodes = tuple(range(1, n_brokers + 1))
        self.ports: dict[int, dict[str, int]] = {}
        self.security = security

    @property
    def bootstrap(self) -> str:
        """The brokers' own addresses, as clients take them."""
        return self.addresses("PLAINTEXT")

    @property
    def proxy_bootstrap(self) -> str:
        """The addresses at which the test is to put a proxy before each broker.

        A client that starts there is told of no others, and so stays behind the proxies.
        """
        return self.addresses("PROXIED")

    def port(self, node: int, listener: str = "PLAINTEXT") -> int:
        """A port of a node."""
        return self.ports[node][listener]

    def addresses(self, listener: str) -> str:
        """The addresses of a listener, as clients take them."""
        return ",".join(f"{HOST}:{self.port(node, listener)}" for node in self.nodes)
