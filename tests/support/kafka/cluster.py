"""A real Apache Kafka on loopback: one broker or three, as processes that a test may hurt.

`python -m tests.support.kafka.cluster start` leaves one running for a person, `stop` ends it.
"""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

from kafka.protocol.metadata import CoordinatorType

from tests.support.kafka.addresses import Addresses
from tests.support.kafka.java import Java
from tests.support.kafka.ports import hold_port
from tests.support.kafka.queries import brokers_seen, coordinator_seen, partition_seen
from tests.support.kafka.security import Security
from tests.support.kafka.settings import LOGGING, SECURED, listeners, node_properties
from tests.support.processes import ProcessGroup

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

TIMEOUT_S = 90.0
POLL_S = 0.05
TAIL_LINES = 25


class ClusterError(Exception):
    """The cluster did not do what it was told; where a broker is to blame, its log's tail."""


class Cluster(Addresses):
    """Brokers 1 to n, each with a controller, in one folder.

    Args:
        folder: where everything goes. What an earlier cluster of as many nodes has left there is
            gone on with.
        n_brokers: 1 or 3.
        first_port: the brokers' own addresses are on this port and the next ones; on any that
            are free when None.
        secured: whether there are listeners with SASL and TLS too: SASL_PLAINTEXT, SASL_SSL, and
            SSL, which asks for the client's certificate.
        n_proxies: how many proxies there may be before each broker at the same time.
        settings: server properties that go before the tests' own.
    """

    def __init__(
        self,
        folder: Path,
        n_brokers: int = 1,
        *,
        first_port: int | None = None,
        secured: bool = False,
        n_proxies: int = 1,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        folder = folder.absolute()
        super().__init__(folder, n_brokers, Security(folder / "security") if secured else None)
        self._n_proxies = n_proxies
        self._first_port = first_port
        self._settings = dict(settings or {})
        self._held: list[socket.socket] = []
        self._group: ProcessGroup | None = None
        self._java: Java | None = None
        self._brokers: dict[int, subprocess.Popen[bytes]] = {}
        self._up: set[int] = set()  # those that are meant to answer

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Where it is

    def pid(self, node: int) -> int:
        return self._brokers[node].pid

    def log_path(self, node: int) -> Path:
        return self.folder / f"node-{node}.log"

    # All of it

    def start(self) -> None:
        """Start every broker and wait until they are ready for work.

        Raises:
            KafkaUnavailableError: this machine has no Java, or cannot fetch Kafka.
            ClusterError: a broker does not come up, or the folder is of another cluster.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        logging = self.folder / "log4j2.properties"
        logging.write_text(LOGGING, encoding="utf-8")
        self._java = Java(logging)
        try:
            self._choose_ports()
            self._group = ProcessGroup()
            self._format()
            for node in self.nodes:
                self.start_node(node)
            self.wait_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it at once. Its folder stays, and in it all that was acknowledged."""
        self._up.clear()
        if self._group is not None:
            self._group.kill()
            self._group = None
        while self._held:
            self._held.pop().close()

    def wait_ready(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until every node that is up answers, sees the others and finds coordinators.

        Raises:
            ClusterError: one of them has ended, or it takes too long.
        """
        up = frozenset(self._up)
        for node in up:
            port = self.port(node)
            self._until(f"node {node} ready", lambda p=port: up <= brokers_seen(p), timeout_s)
        # The first question for a coordinator creates the topic that it needs.
        for kind in (CoordinatorType.GROUP, CoordinatorType.TRANSACTION):
            self._coordinator(kind, "any", timeout_s)

    def _choose_ports(self) -> None:
        names = (*listeners(self._n_proxies), *(SECURED if self.security else ()))
        for node in self.nodes:
            first = 0 if self._first_port is None else self._first_port + node - 1
            try:
                held = {name: hold_port(0 if i else first) for i, name in enumerate(names)}
            except OSError as error:
                raise ClusterError(f"port {first}: {error.strerror}") from None
            self.ports[node] = {name: held[name].getsockname()[1] for name in held}
            self._held += held.values()
        if sys.platform != "linux":
            # Nobody else may listen on a bound port there: free a moment ago has to do.
            while self._held:
                self._held.pop().close()

    def _format(self) -> None:
        """Write every node's properties, and lay out the storage of those that have none."""
        settings = {**(self.security.settings() if self.security else {}), **self._settings}
        users = self.security.storage_options() if self.security else ()
        tool = ("kafka.tools.StorageTool", "format", "-t", self._cluster_id(), *users, "-c")
        archive = self._java.wants_archive()
        formatting = {}
        for node in self.nodes:
            data = self.folder / f"node-{node}"
            properties = data.with_suffix(".properties")
            text = node_properties(node, self.ports, data, settings)
            properties.write_text(text, encoding="utf-8")
            if not (data / "meta.properties").exists():
                command = self._java.command(*tool, str(properties), archive=archive)
                formatting[node] = self._group.start(command, self.log_path(node))
                archive = False  # one is enough
        for node, process in formatting.items():
            if process.wait():
                raise ClusterError(f"the storage of node {node} was not laid out{self._tail(node)}")
        self._java.keep_archive()

    def _cluster_id(self) -> str:
        path = self.folder / "cluster.json"
        if not path.exists():
            # Kafka's tool takes one that begins with a hyphen for an option.
            cluster_id = "s" + secrets.token_urlsafe(16)[1:]
            path.write_text(json.dumps({"id": cluster_id, "n_brokers": len(self.nodes)}))
        known = json.loads(path.read_text())
        if known["n_brokers"] != len(self.nodes):
            raise ClusterError(
                f"{self.folder} has a cluster of {known['n_brokers']}, not of {len(self.nodes)}"
            )
        return known["id"]

    # One node

    def start_node(self, node: int) -> None:
        """Start a node that is down; does not wait for it."""
        properties = str(self.folder / f"node-{node}.properties")
        command = self._java.command("kafka.Kafka", properties)
        self._brokers[node] = self._group.start(command, self.log_path(node))
        self._up.add(node)

    def stop_node(self, node: int, timeout_s: float = 30.0) -> None:
        """Let it hand over and end, as a rolling restart does; killed when it takes too long."""
        self.resume(node)
        self._up.discard(node)
        self._brokers[node].terminate()
        try:
            self._brokers[node].wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill(node)

    def kill(self, node: int) -> None:
        """SIGKILL."""
        self._up.discard(node)
        self._brokers[node].kill()
        self._brokers[node].wait()

    def pause(self, node: int) -> None:
        """SIGSTOP: its connections stay open, and nothing comes out of them."""
        self._up.discard(node)
        self._brokers[node].send_signal(signal.SIGSTOP)

    def resume(self, node: int) -> None:
        """SIGCONT."""
        self._brokers[node].send_signal(signal.SIGCONT)
        self._up.add(node)

    def restart(self, node: int) -> None:
        """Stop it if it is up, start it, and wait until it has its place again."""
        if self._brokers[node].poll() is None:
            self.stop_node(node)
        self.start_node(node)
        self.wait_ready()

    def mend(self) -> None:
        """Let every node go on or start again, and wait until they are ready."""
        for node in self.nodes:
            if self._brokers[node].poll() is None:
                self.resume(node)
            else:
                self.start_node(node)
        self.wait_ready()

    # Who does what

    def leader_of(self, topic: str, partition: int) -> int:
        """The node that leads a partition; waits while none does."""

        def leader() -> int | None:
            seen = self._partition(topic, partition)
            return seen.leader_id if seen is not None and seen.leader_id in self._up else None

        return self._until(f"a leader of {topic}-{partition}", leader)

    def wait_in_sync(self, topic: str, partition: int) -> None:
        """Wait until every replica of a partition has all of it."""

        def in_sync() -> bool:
            seen = self._partition(topic, partition)
            return seen is not None and set(seen.isr_nodes) == set(seen.replica_nodes)

        self._until(f"{topic}-{partition} in sync", in_sync)

    def coordinator_of_transaction(self, transactional_id: str) -> int:
        """The node that coordinates the transactions of an id; waits while none does."""
        return self._coordinator(CoordinatorType.TRANSACTION, transactional_id)

    def coordinator_of_group(self, group_id: str) -> int:
        """The node that coordinates a consumer group; waits while none does."""
        return self._coordinator(CoordinatorType.GROUP, group_id)

    def _coordinator(self, kind: CoordinatorType, key: str, timeout_s: float = TIMEOUT_S) -> int:
        def coordinator() -> int | None:
            node = coordinator_seen(self.port(self._any_up()), kind, key)
            return node if node in self._up else None

        return self._until(f"a coordinator of {key}", coordinator, timeout_s)

    def _partition(self, topic: str, partition: int) -> Any:
        return partition_seen(self.port(self._any_up()), topic, partition)

    def _any_up(self) -> int:
        if not self._up:
            raise ClusterError("no node is up")
        return min(self._up)

    def _until(self, what: str, found: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> Any:
        """The first true answer of a function.

        Raises:
            ClusterError: there is none in time, or a node that should be up has ended.
        """
        deadline = time.monotonic() + timeout_s
        while not (answer := found()):
            for node in self._up:
                if (status := self._brokers[node].poll()) is not None:
                    raise ClusterError(f"node {node} ended with {status}{self._tail(node)}")
            if time.monotonic() > deadline:
                tails = "".join(self._tail(node) for node in self.nodes)
                raise ClusterError(f"not within {timeout_s:.0f} s: {what}{tails}")
            time.sleep(POLL_S)
        return answer

    def _tail(self, node: int) -> str:
        path = self.log_path(node)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join([f"\n{path} ends with:", *lines[-TAIL_LINES:]])


if __name__ == "__main__":
    from tests.support.kafka.service import main

    main()
