"""Where faults happen: a cluster with its proxy, workers, traffic, and a reader that never stops."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from kafka import TopicPartition
from kafka.protocol.metadata import MetadataRequest

from streamgauge.consumers.broker import BrokerError, JournalEntry
from streamgauge.consumers.kafka.broker import KafkaBroker
from streamgauge.consumers.kafka.journal import StoredEntry
from streamgauge.consumers.kafka.ranges import RangeReader
from streamgauge.consumers.kafka.topics import (
    JOURNAL_SUFFIX,
    STATE_SUFFIX,
    internal_topic,
    written_topics,
)
from tests.faults.charts import Charts
from tests.faults.oracle import Oracle, hanging_transactions
from tests.faults.points import EventLog
from tests.faults.settings import N_PARTITIONS, create_topics, make_config, write_config
from tests.faults.traffic import Traffic
from tests.faults.workers import Workers
from tests.support.kafka.wire import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from streamgauge.consumers.config import Config
    from streamgauge.consumers.kafka.reader import TopicReader
    from streamgauge.stream.records import Record
    from tests.faults.oracle import Verdict
    from tests.faults.workers import Exit
    from tests.support.kafka.cluster import Cluster
    from tests.support.kafka.proxy import FaultProxy

CUT, SHRUNK = "chunk of several parts", "part of a chunk that became smaller"
LOOK_EVERY_S = 0.05
START_TIMEOUT_S = 120.0
DRAIN_TIMEOUT_S = 180.0
# Longer than a transaction that nobody ends may stay open.
HANGING_TIMEOUT_S = 45.0


class HarnessError(Exception):
    """The run cannot go on, or did not come to an end."""


def wait_for(what: str, found: Callable[[], Any], timeout_s: float) -> Any:
    """The first true answer of a function.

    Raises:
        HarnessError: there is none in time.
    """
    deadline_s = time.monotonic() + timeout_s
    while not (answer := found()):
        if time.monotonic() > deadline_s:
            raise HarnessError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(LOOK_EVERY_S)
    return answer


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Watcher:
    """Reads all that is published while the faults happen, as a consumer of it would."""

    def __init__(self, config: Config, broker: KafkaBroker) -> None:
        self.seen: dict[tuple[str, int, int], Record] = {}
        self.journal: dict[int, JournalEntry] = {}
        self.problems: list[str] = []
        self.parts: Counter[str] = Counter()
        self._broker = broker
        self._journal_topic = internal_topic(config, JOURNAL_SUFFIX)
        self._state_topic = internal_topic(config, STATE_SUFFIX)
        self._n_parts: dict[tuple[int, bytes], int] = {}
        self._counted: dict[int, int] = {}
        self._topics = written_topics(config)
        self._ids: set[bytes] = set()
        self._retrain = config.topics.retrain
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        reader: TopicReader | None = None
        while not self._closing.is_set():
            try:
                if reader is None:
                    reader = self._broker.reader(self._topics)
                for record in reader.poll(0.5):
                    self._take(record)
            except BrokerError:
                time.sleep(0.5)
        if reader is not None:
            reader.close()

    def _take(self, record: Record) -> None:
        if record.topic == self._state_topic:
            # A new reader starts at the beginning.
            if record.offset >= self._counted.get(record.partition, 0):
                self._counted[record.partition] = record.offset + 1
                self._count_part(record)
            return
        place = (record.topic, record.partition, record.offset)
        if place in self.seen:
            return
        self.seen[place] = record
        if record.topic == self._journal_topic:
            stored = StoredEntry.decode(record.value, record.topic)
            entry = stored.journal_entry(record.partition)
            last = self.journal.get(entry.partition)
            if last is not None and entry.sequence != last.sequence + 1:
                self._complain(f"commit {entry.sequence} after {last.sequence} in {entry}")
            self.journal[entry.partition] = entry
        elif record.topic == self._retrain:
            event_id = dict(record.headers)["ce_id"]
            if event_id in self._ids:
                self._complain(f"request {event_id!r} once more, in {place}")
            self._ids.add(event_id)

    def _count_part(self, record: Record) -> None:
        """Count what the faults are to meet: chunks of several parts, and of fewer than before."""
        name, _, number = (record.key or b"").rpartition(b"#")
        if number == b"0":
            n_parts = int(dict(record.headers).get("parts", b"0"))
            self._n_parts[record.partition, name] = n_parts
            self.parts[CUT] += n_parts > 1
        elif record.value is None and self._n_parts.get((record.partition, name)):
            self.parts[SHRUNK] += 1

    def _complain(self, problem: str) -> None:
        self.problems.append(f"{time.strftime('%H:%M:%S')} amid the faults: {problem}")


class Stage:
    """One run's setting; a context manager.

    Args:
        cluster: three brokers.
        proxy: before them; the workers' way to them.
        folder: for what the workers write.
        app: names everything on the cluster; no other run has it.
        seed: of the traffic.
        workers: their names.
        off: safeguards that the workers do without.
        with_charts: whether a sink writes to an MLflow server, and both may be hurt.
    """

    def __init__(
        self,
        cluster: Cluster,
        proxy: FaultProxy,
        folder: Path,
        app: str,
        seed: int,
        *,
        workers: Sequence[str] = ("w1", "w2", "w3"),
        off: Sequence[str] = (),
        with_charts: bool = False,
    ) -> None:
        self.charts: Charts | None = None
        self._with_charts = with_charts
        self.cluster = cluster
        self.proxy = proxy
        self.folder = folder
        self.app = app
        self.names = tuple(workers)
        self.config = make_config(app, cluster.bootstrap)
        self._seed = seed
        self._off = off
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.events = EventLog(self.folder)
            create_topics(write_config(self.config, self.folder / "direct.yaml"))
            behind = make_config(self.app, self.cluster.proxy_bootstrap)
            path = write_config(behind, self.folder / "worker.yaml")
            self.broker = enter(KafkaBroker(self.config))
            self._reader = RangeReader(self.config, "stage")
            self._stack.callback(self._reader.close)
            self.watcher = enter(Watcher(self.config, self.broker))
            self.traffic = enter(Traffic(self.broker, self.config.topics, self._seed))
            self.workers = enter(Workers(path, self.folder, self._off))
            self.workers.start(*self.names)
            if self._with_charts:
                self.charts = enter(Charts(self.config, self.folder))
            self.wait_committed(set(range(N_PARTITIONS)), time.time(), START_TIMEOUT_S)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.clear()
        self.proxy.heal()
        self._stack.close()

    def wait_committed(
        self, partitions: set[int], since: float, timeout_s: float, *, not_by: int = 0
    ) -> float:
        """When the last of these partitions was committed again after a moment.

        Raises:
            HarnessError: one of them was not.
        """

        def times() -> list[float] | None:
            found = self.events.next_commits(since, not_by=not_by)
            return [found[p] for p in partitions] if partitions <= found.keys() else None

        return max(wait_for(f"commits of {sorted(partitions)}", times, timeout_s))

    def wait_in_sync(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until every replica of every partition has all of it: the next broker may go."""
        wait_for("every replica in sync", self._in_sync, timeout_s)

    def _in_sync(self) -> bool:
        try:
            answer = ask(self.cluster.port(1), MetadataRequest[12](topics=None))
        except OSError:
            return False
        partitions = [p for topic in answer.topics for p in topic.partitions]
        return all(len(p.isr_nodes) == len(p.replica_nodes) for p in partitions) and all(
            p.leader_id > 0 for p in partitions
        )

    def end_of_state(self, partition: int) -> int:
        """The offset after what has been committed of a partition's state."""
        where = TopicPartition(internal_topic(self.config, STATE_SUFFIX), partition)
        return self._reader.committed_ends([where])[where]

    def finish(self, *, is_patient: bool = True) -> Verdict:
        """End the traffic, let the workers come to its end, stop them, and judge.

        Args:
            is_patient: whether all of the input is hoped to be processed, and so waited for.

        What does not come to its end is one of the verdict's problems.
        """
        self.proxy.clear()
        self.proxy.heal()
        problems: list[str] = []

        def attempt(step: Callable[[], object]) -> None:
            try:
                step()
            except (HarnessError, BrokerError, TimeoutError) as error:
                problems.append(f"{type(error).__name__}: {error}")

        def no_transaction() -> bool:
            return not hanging_transactions(self.config)

        drain_s = DRAIN_TIMEOUT_S if is_patient else 10.0
        attempt(self.wait_in_sync)
        attempt(self.traffic.finish)
        attempt(lambda: wait_for("all input processed", self._is_drained, drain_s))
        say("all input processed")
        ended: list[Exit] = []
        attempt(lambda: ended.extend(self.workers.stop()))
        # One that has only just been started again knows of no signal yet.
        problems += [f"{e}" for e in ended if e.status not in (0, -signal.SIGTERM)]
        # In any case: one that is open keeps the oracle, too, from what was committed after it.
        attempt(lambda: wait_for("no open transaction", no_transaction, HANGING_TIMEOUT_S))
        problems += hanging_transactions(self.config)
        self._let_the_watcher_end()
        say("workers stopped; asking the oracle")
        verdict = Oracle(self.config, self.traffic.story.poison, self.watcher.seen).judge()
        if self.charts is not None:
            topics = self.config.topics
            charted = (topics.metrics, topics.alarms, topics.retrain)
            seen = [record for (topic, *_), record in self.watcher.seen.items() if topic in charted]
            verdict.add(self.charts.problems(seen))
        verdict.problems[:0] = [*problems, *self.watcher.problems]
        return verdict

    def _is_drained(self) -> bool:
        topics, last = self.config.topics, self.watcher.journal
        return last.keys() == set(range(N_PARTITIONS)) and all(
            self._reader.bounds(topics.predictions, p)[1] == entry.offsets_to[0]
            and self._reader.bounds(topics.labels, p)[1] == entry.offsets_to[1]
            for p, entry in last.items()
        )

    def _let_the_watcher_end(self) -> None:
        """Give it time to read what was committed last."""
        n = -1
        while n < len(self.watcher.seen):
            n = len(self.watcher.seen)
            time.sleep(2.0)
