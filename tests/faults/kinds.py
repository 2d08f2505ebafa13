"""The kinds of faults. Each strikes once, says when and whom, and mends what does not mend itself.

A kind is a generator: it yields a `Hit` when it has struck, and is resumed when the partitions
concerned work again. One that finds nothing to strike yields nothing.
"""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource

from streamgauge.consumers.kafka.topics import STATE_SUFFIX, internal_topic
from tests.faults.points import COMMIT_POINTS, TAKE_OVER_POINTS, arm, disarm
from tests.faults.settings import N_PARTITIONS, SESSION_S
from tests.faults.stage import LOOK_EVERY_S, HarnessError, wait_for
from tests.support.kafka.rules import (
    Api,
    ChangeResponse,
    CloseAfter,
    CloseBefore,
    DelayRequest,
    DelayResponse,
    DropRequest,
    DropResponse,
    Rule,
    fail,
    refuse,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from tests.faults.stage import Stage
    from tests.support.kafka.rules import Request

    Kind = Callable[[Stage, random.Random], Iterator["Hit"]]

ALL = frozenset(range(N_PARTITIONS))
REACH_TIMEOUT_S = 25.0


class Hit(NamedTuple):
    """A fault has struck: when, the partitions it concerns, and whose commits are no recovery."""

    time: float
    partitions: frozenset[int]
    not_by: int = 0


# Workers


def _an_owner(stage: Stage, rng: random.Random) -> str | None:
    """A worker that has something to lose, if there is one."""
    owners = {event.worker for event in stage.events.owners().values()}
    found = sorted(owners & set(stage.workers.alive()))
    return rng.choice(found) if found else None


def _signal_owner(stage: Stage, rng: random.Random, number: signal.Signals) -> Iterator[Hit]:
    """Send a signal to a worker that has something to lose; nothing where there is none."""
    name = _an_owner(stage, rng)
    owned = frozenset(stage.events.owned_by(name)) if name is not None else frozenset()
    now = time.time()
    if name is not None and owned and (pid := stage.workers.send(name, number)):
        yield Hit(now, owned, pid)


def kill_worker(stage: Stage, rng: random.Random) -> Iterator[Hit]:
    time.sleep(rng.uniform(0, 0.5))
    yield from _signal_owner(stage, rng, signal.SIGKILL)


def terminate_worker(stage: Stage, rng: random.Random) -> Iterator[Hit]:
    # It may commit what it has in hand.
    yield from _signal_owner(stage, rng, signal.SIGTERM)


def suspend_worker(stage: Stage, rng: random.Random) -> Iterator[Hit]:
    """Past the session time-out: others take over, and then it goes on as if it still owned."""
    for hit in _signal_owner(stage, rng, signal.SIGSTOP):
        try:
            yield hit
            time.sleep(rng.uniform(0, 2))
        finally:
            stage.workers.resume(hit.not_by)
        time.sleep(1)


def suspend_worker_briefly(stage: Stage, rng: random.Random) -> Iterator[Hit]:
    for hit in _signal_owner(stage, rng, signal.SIGSTOP):
        time.sleep(rng.uniform(0.5, SESSION_S))
        stage.workers.resume(hit.not_by)
        yield hit._replace(not_by=0)


def at_point(point: str, number: signal.Signals) -> Kind:
    def strike(stage: Stage, rng: random.Random) -> Iterator[Hit]:
        since = time.time()
        arm(stage.folder, point, number)
        if point in TAKE_OVER_POINTS:
            # Somebody must have something to take over.
            stage.workers.send(_an_owner(stage, rng) or rng.choice(stage.names), signal.SIGKILL)
        try:
            reached = wait_for(point, lambda: stage.events.fault_after(since), REACH_TIMEOUT_S)
        except HarnessError:
            if disarm(stage.folder):
                return
            reached = wait_for(point, lambda: stage.events.fault_after(since), 5)
        owned = stage.events.owned_by(reached.worker) | {reached.partition}
        try:
            yield Hit(reached.time, frozenset(owned), reached.pid)
            time.sleep(rng.uniform(0, 2))
        finally:
            stage.workers.resume(reached.pid)

    return strike


def storm(stage: Stage, rng: random.Random) -> Iterator[Hit]:
    """Members come and go faster than the group settles."""
    extras = [f"extra-{i}" for i in range(rng.randint(1, 3))]
    stage.workers.start(*extras)
    names = [*extras, *rng.sample(stage.names, 2)]
    for name in names:
        time.sleep(rng.uniform(0.5, 2.5))
        stage.workers.send(name, rng.choice((signal.SIGTERM, signal.SIGKILL)))
    stage.workers.forget(*extras)
    for name in extras:
        stage.workers.send(name, signal.SIGTERM)
    yield Hit(time.time(), ALL)


# Brokers


def _leader(stage: Stage, rng: random.Random) -> int:
    topics = stage.config.topics
    names = (topics.predictions, topics.retrain, internal_topic(stage.config, STATE_SUFFIX))
    return stage.cluster.leader_of(rng.choice(names), rng.randrange(N_PARTITIONS))


def _transaction_coordinator(stage: Stage, rng: random.Random) -> int:
    partition = rng.randrange(N_PARTITIONS)
    return stage.cluster.coordinator_of_transaction(f"{stage.app}-{partition}")


def _group_coordinator(stage: Stage, rng: random.Random) -> int:
    return stage.cluster.coordinator_of_group(stage.app)


def _any_broker(stage: Stage, rng: random.Random) -> int:
    return rng.choice(stage.cluster.nodes)


def kill_broker(choose: Callable[[Stage, random.Random], int]) -> Kind:
    def strike(stage: Stage, rng: random.Random) -> Iterator[Hit]:
        node = choose(stage, rng)
        now = time.time()
        stage.cluster.kill(node)
        is_back = threading.Timer(rng.uniform(0.5, 6), stage.cluster.start_node, (node,))
        is_back.start()
        try:
            yield Hit(now, ALL)
        finally:
            is_back.join()
            stage.cluster.wait_ready()
            stage.wait_in_sync()

    return strike


def suspend_broker(stage: Stage, rng: random.Random) -> Iterator[Hit]:
    node = rng.choice((_leader, _transaction_coordinator, _any_broker))(stage, rng)
    now = time.time()
    stage.cluster.pause(node)
    goes_on = threading.Timer(rng.choice((rng.uniform(2, 20), 20)), stage.cluster.resume, (node,))
    goes_on.start()
    try:
        yield Hit(now, ALL)
    finally:
        goes_on.join()
        stage.cluster.wait_ready()
        stage.wait_in_sync()


def rolling_restart(stage: Stage, rng: random.Random) -> Iterator[Hit]:
    for node in rng.sample(stage.cluster.nodes, len(stage.cluster.nodes)):
        now = time.time()
        stage.cluster.stop_node(node)
        stage.cluster.start_node(node)
        yield Hit(now, ALL)
        stage.cluster.wait_ready()
        stage.wait_in_sync()


# The network

MESSAGES = {
    Api.PRODUCE: "worker-{partition}-",
    Api.ADD_PARTITIONS_TO_TXN: "worker-{partition}-",
    Api.END_TXN: "worker-{partition}-",
    Api.INIT_PRODUCER_ID: "worker-{partition}-",
    Api.FIND_COORDINATOR: "worker-{partition}-",
    Api.FETCH: "input-",
    Api.LIST_OFFSETS: "restore-",
    Api.HEARTBEAT: "member-",
    Api.JOIN_GROUP: "member-",
    Api.SYNC_GROUP: "member-",
}
# Only sent where somebody takes over.
AT_TAKE_OVER = (
    Api.INIT_PRODUCER_ID,
    Api.FIND_COORDINATOR,
    Api.LIST_OFFSETS,
    Api.JOIN_GROUP,
    Api.SYNC_GROUP,
)
LOSSES = (DropRequest, DropResponse, CloseBefore, CloseAfter)
DELAYS = (DelayRequest, DelayResponse)

NOT_LEADER, REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS, AFTER_APPEND = 6, 7, 19, 20
LOADING, NOT_AVAILABLE, NOT_COORDINATOR = 14, 15, 16
UNKNOWN_MEMBER, REBALANCE = 25, 27
OUT_OF_ORDER, INVALID_EPOCH, INVALID_STATE, CONCURRENT, UNKNOWN_PRODUCER = 45, 47, 48, 51, 59
INVALID_RECORD = 87
# What brokers may answer, whether or not they have done what was asked.
ERRORS = {
    Api.PRODUCE: (
        *(refuse, fail),
        (
            NOT_LEADER,
            REQUEST_TIMED_OUT,
            NOT_ENOUGH_REPLICAS,
            AFTER_APPEND,
            OUT_OF_ORDER,
            INVALID_EPOCH,
            UNKNOWN_PRODUCER,
            INVALID_RECORD,
        ),
    ),
    Api.END_TXN: (
        refuse,
        fail,
        (NOT_COORDINATOR, LOADING, INVALID_EPOCH, INVALID_STATE, CONCURRENT),
    ),
    Api.ADD_PARTITIONS_TO_TXN: (refuse, fail, (CONCURRENT, NOT_COORDINATOR, INVALID_EPOCH)),
    Api.INIT_PRODUCER_ID: (refuse, refuse, (CONCURRENT, NOT_COORDINATOR, LOADING)),
    Api.FIND_COORDINATOR: (refuse, refuse, (NOT_AVAILABLE,)),
    Api.HEARTBEAT: (refuse, refuse, (UNKNOWN_MEMBER, REBALANCE, NOT_COORDINATOR)),
}


def _strike_message(
    stage: Stage,
    rng: random.Random,
    api: Api,
    rule: Callable[[str], Rule],
    partition: int | None = None,
) -> Iterator[Hit]:
    if partition is None:
        partition = rng.randrange(N_PARTITIONS)
    client = f"{stage.app}-{MESSAGES[api].format(partition=partition)}"
    chosen = stage.proxy.add(rule(client))
    if api in AT_TAKE_OVER:
        owner = stage.events.owners().get(partition)
        name = owner.worker if owner is not None else rng.choice(stage.names)
        stage.workers.send(name, rng.choice((signal.SIGKILL, signal.SIGTERM)))
    if not chosen.happened.wait(REACH_TIMEOUT_S):
        stage.proxy.clear()
        return
    now = time.time()
    if "partition" in MESSAGES[api]:
        yield Hit(now, frozenset({partition}))
    else:
        yield Hit(now, ALL)
    stage.proxy.clear()


def lose_message(api: Api) -> Kind:
    def strike(stage: Stage, rng: random.Random) -> Iterator[Hit]:
        action, nth, times = rng.choice(LOSSES)(), rng.randint(1, 4), rng.choice((1, 1, 2, 5))
        if api in AT_TAKE_OVER:
            nth = 1
        return _strike_message(
            stage, rng, api, lambda client: Rule(action, api, client=client, nth=nth, times=times)
        )

    return strike


def delay_message(api: Api) -> Kind:
    def strike(stage: Stage, rng: random.Random) -> Iterator[Hit]:
        action, times = rng.choice(DELAYS)(rng.uniform(0.5, 7)), rng.choice((1, 1, 3))
        return _strike_message(
            stage, rng, api, lambda client: Rule(action, api, client=client, times=times)
        )

    return strike


def answer_with_error(api: Api) -> Kind:
    def strike(stage: Stage, rng: random.Random) -> Iterator[Hit]:
        *ways, codes = ERRORS[api]
        action, times = rng.choice(ways)(rng.choice(codes)), rng.choice((1, 1, 4))
        return _strike_message(
            stage, rng, api, lambda client: Rule(action, api, client=client, times=times)
        )

    return strike


def old_end(stage: Stage, rng: random.Random) -> Iterator[Hit]:
    """A broker that does not know that it leads no more gives the end of the state as it was."""
    name = internal_topic(stage.config, STATE_SUFFIX)
    partition = rng.randrange(N_PARTITIONS)
    end_now = stage.end_of_state(partition)
    stage.wait_committed({partition}, time.time(), REACH_TIMEOUT_S)

    def change(response: Any) -> None:
        for answer in response.topics:
            for one in answer.partitions if answer.name == name else ():
                if one.partition_index == partition:
                    one.offset = min(one.offset, end_now)

    def asks(request: Request) -> bool:
        return any(
            topic.name == name and partition in {p.partition_index for p in topic.partitions}
            for topic in request.decode().topics
        )

    def rule(client: str) -> Rule:
        # A take-over asks twice: where the state begins, and where it ends.
        action, times = ChangeResponse(change), 2 * rng.randint(1, 2)
        return Rule(action, Api.LIST_OFFSETS, client=client, times=times, when=asks)

    yield from _strike_message(stage, rng, Api.LIST_OFFSETS, rule, partition)


def break_connections(stage: Stage, rng: random.Random) -> Iterator[Hit]:
    now = time.time()
    stage.proxy.disconnect(*rng.sample(stage.cluster.nodes, rng.randint(1, 3)))
    yield Hit(now, ALL)


def black_hole(stage: Stage, rng: random.Random) -> Iterator[Hit]:
    """Workers reach a broker no more, and their brokers know nothing of it."""
    nodes = rng.sample(stage.cluster.nodes, rng.randint(1, 3))
    now = time.time()
    stage.proxy.black_hole(*nodes)
    time.sleep(rng.uniform(0.5, 12))
    stage.proxy.heal()
    yield Hit(now, ALL)


# Data


def poison(stage: Stage, rng: random.Random) -> Iterator[Hit]:
    now = time.time()
    stage.traffic.poison(rng.randint(1, 40))
    yield Hit(now, ALL)


COMPACTION = {
    "segment.ms": "1000",
    "segment.bytes": str(1 << 20),
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "1000",
    "delete.retention.ms": "100",
}


def forced_compaction(stage: Stage, rng: random.Random) -> Iterator[Hit]:
    """The state is compacted at once, all the time, while others restore from it."""
    name = internal_topic(stage.config, STATE_SUFFIX)
    with KafkaAdminClient(bootstrap_servers=stage.cluster.bootstrap.split(",")) as admin:
        before = admin.describe_configs([ConfigResource("TOPIC", name)], config_filter="all")
        known = before["topic"][name]
        admin.alter_configs([ConfigResource("TOPIC", name, COMPACTION)])
        time.sleep(rng.uniform(3, 6))
        try:
            yield from _signal_owner(stage, rng, signal.SIGKILL)
        finally:
            settings = {key: known[key]["value"] for key in COMPACTION}
            admin.alter_configs([ConfigResource("TOPIC", name, settings)])


# MLflow


def mlflow_down(stage: Stage, rng: random.Random) -> Iterator[Hit]:
    """The server is gone for a while, which must not keep a worker from anything."""
    if stage.charts is None:
        return
    stage.charts.stop_server()
    now = time.time()
    try:
        yield Hit(now, ALL)
        time.sleep(rng.uniform(0, 10))
    finally:
        stage.charts.start_server()


def sink_killed(stage: Stage, rng: random.Random) -> Iterator[Hit]:
    if stage.charts is None:
        return
    time.sleep(rng.uniform(0, 2))
    stage.charts.restart_sink()
    yield Hit(time.time(), ALL)


SUSPEND_POINTS = (
    "before_init",
    "after_restore",
    "before_begin",
    "between_parts",
    "after_send",
    "before_commit",
)


# All of them, each with how often it comes, relative to the others.


def all_kinds() -> dict[str, tuple[int, Kind]]:
    kinds: dict[str, tuple[int, Kind]] = {
        "worker killed": (8, kill_worker),
        "worker terminated": (6, terminate_worker),
        "worker suspended, a zombie": (8, suspend_worker),
        "worker suspended briefly": (3, suspend_worker_briefly),
        "members in a storm": (4, storm),
        "broker killed: leader": (4, kill_broker(_leader)),
        "broker killed: transactions": (4, kill_broker(_transaction_coordinator)),
        "broker killed: group": (2, kill_broker(_group_coordinator)),
        "broker killed: any": (2, kill_broker(_any_broker)),
        "broker suspended": (6, suspend_broker),
        "brokers restarted in turn": (1, rolling_restart),
        "end offsets old": (3, old_end),
        "connections broken": (4, break_connections),
        "network silent": (4, black_hole),
        "poison": (3, poison),
        "compaction forced": (3, forced_compaction),
        "MLflow down": (1, mlflow_down),
        "sink killed": (1, sink_killed),
    }
    for point in (*TAKE_OVER_POINTS, *COMMIT_POINTS):
        kinds[f"killed {_words(point)}"] = (3, at_point(point, signal.SIGKILL))
    for point in SUSPEND_POINTS:
        kinds[f"suspended {_words(point)}"] = (3, at_point(point, signal.SIGSTOP))
    for api in MESSAGES:
        kinds[f"{_words(api.name)} lost"] = (3, lose_message(api))
    for api in (Api.PRODUCE, Api.END_TXN, Api.INIT_PRODUCER_ID, Api.FETCH, Api.HEARTBEAT):
        kinds[f"{_words(api.name)} delayed"] = (1, delay_message(api))
    for api in ERRORS:
        kinds[f"{_words(api.name)} refused"] = (2, answer_with_error(api))
    return kinds


def _words(name: str) -> str:
    return name.lower().replace("_", " ")


__all__ = ["ALL", "LOOK_EVERY_S", "Hit", "Kind", "all_kinds"]
