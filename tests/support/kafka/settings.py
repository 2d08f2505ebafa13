"""What a broker of the tests is told: its properties and how it logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.kafka.wire import HOST

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECURED = ("SASL_PLAINTEXT", "SASL_SSL", "SSL")

# Java writes to its standard output, which is a file for each node: a crash of the virtual
# machine itself is then in the same place.
LOGGING = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %m (%c)%n%ex
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
"""


def listeners(n_proxies: int) -> tuple[str, ...]:
    """What a node has a port for besides `SECURED`."""
    return ("PLAINTEXT", "CONTROLLER", *(name for n in range(n_proxies) for name in proxied(n)))


def proxied(number: int) -> tuple[str, str]:
    """The listener that a proxy forwards to, and the name of the port that is its own."""
    return ("PROXY", "PROXIED") if number == 0 else (f"PROXY_{number}", f"PROXIED_{number}")


def node_properties(
    node: int, ports: Mapping[int, Mapping[str, int]], data: Path, more: Mapping[str, str]
) -> str:
    """The server.properties of one node.

    Args:
        node: its id.
        ports: of every node by id: one for each listener, and PROXIED, which it gives out as the
            port of its listener PROXY; and so on, as from `proxied`.
        data: its folder.
        more: what goes before the settings here.
    """
    mine = ports[node]
    bound = {name: port for name, port in mine.items() if not name.startswith("PROXIED")}
    advertised = {
        name: mine[name.replace("PROXY", "PROXIED")] for name in bound if name != "CONTROLLER"
    }
    voters = ",".join(f"{n}@{HOST}:{theirs['CONTROLLER']}" for n, theirs in ports.items())
    settings = {
        "process.roles": "broker,controller",
        "node.id": node,
        "controller.quorum.voters": voters,
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": _urls(bound),
        "advertised.listeners": _urls(advertised),
        "listener.security.protocol.map": ",".join(f"{name}:{_protocol(name)}" for name in bound),
        "log.dirs": data,
        **_replication(len(ports)),
        **QUICK,
        **more,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _urls(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items())


def _protocol(listener: str) -> str:
    return listener if listener in SECURED else "PLAINTEXT"


def _replication(n_nodes: int) -> dict[str, int]:
    n_in_sync = min(2, n_nodes)
    internal = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
    return {
        "default.replication.factor": n_nodes,
        "min.insync.replicas": n_in_sync,
        "transaction.state.log.min.isr": n_in_sync,
        "share.coordinator.state.topic.min.isr": n_in_sync,
        **{f"{topic}.replication.factor": n_nodes for topic in internal},
        **{f"{topic}.num.partitions": 3 for topic in internal},
    }


# Not `group.initial.rebalance.delay.ms`: for 3 s a group that is new, or was thrown out, gathers
# before anybody is given a partition, and workers have to live with that.
QUICK = {
    "auto.create.topics.enable": "false",
    "broker.heartbeat.interval.ms": 500,
    "broker.session.timeout.ms": 4000,
    "group.min.session.timeout.ms": 1000,
    "log.cleaner.backoff.ms": 500,
    "log.cleaner.dedupe.buffer.size": 8 * 1024 * 1024,
    # Records of tests carry the times of their story, which is long over.
    "log.retention.ms": -1,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
}
