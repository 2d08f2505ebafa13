"""The command `streamgauge run`, which dies or stops at the point of the protocol it is told.

`python -m tests.faults.worker_main CONFIG NAME FOLDER [resolve] [fencing] [restore]`: the words
at the end switch a safeguard off, to show that the harness notices. The program under test knows
nothing of this: its methods are wrapped from outside. What happens is noted in FOLDER.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path

from kafka.errors import KafkaTimeoutError

from streamgauge.consumers.cli import main as cli
from streamgauge.consumers.kafka import changelog as kafka_changelog
from streamgauge.consumers.kafka import transaction as kafka_transaction
from streamgauge.consumers.kafka.assignment import KafkaAssignment, _KafkaPartition
from streamgauge.consumers.kafka.topics import STATE_SUFFIX
from streamgauge.consumers.kafka.transaction import TransactionalWriter
from tests.faults.points import ARMED, EVENTS
from tests.faults.settings import PART_BYTES

SAFEGUARDS = ("resolve", "fencing", "restore")


class Notebook:
    """Notes of this process in the file that all workers share, a line each."""

    def __init__(self, name, folder):
        self._name = name
        self._file = os.open(folder / EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, event, partition=None, **more):
        line = {"time": time.time(), "worker": self._name, "pid": os.getpid(), "event": event}
        line |= {"partition": partition, **more}
        # One write to a file opened for appending: lines of several processes do not mix.
        os.write(self._file, json.dumps(line).encode() + b"\n")


class Points:
    """The places where a fault may be armed; reaching an armed one is the end, or a long stop."""

    def __init__(self, name, folder, notebook):
        self._name = name
        self._armed = folder / ARMED
        self._notebook = notebook

    def reach(self, point, partition, prepare=lambda: None):
        try:
            armed = json.loads(self._armed.read_text())
        except FileNotFoundError:
            return
        wanted = (armed["point"], armed["worker"] or self._name)
        if wanted != (point, self._name) or armed["partition"] not in (None, partition):
            return
        try:
            # Whoever gets the file away is the one.
            self._armed.rename(self._armed.with_suffix(f".{os.getpid()}"))
        except FileNotFoundError:
            return
        prepare()
        self._notebook.note("fault", partition, point=point)
        os.kill(os.getpid(), armed["signal"])


def wrap(owner, name, before=None, after=None):
    """Have functions run around a method: `after` is given the result and then the arguments."""
    method = getattr(owner, name)

    def wrapped(self, *args):
        if before is not None:
            before(self, *args)
        result = method(self, *args)
        if after is not None:
            after(result, self, *args)
        return result

    setattr(owner, name, wrapped)


def watch(points, notebook):
    """Every named point, and what the harness measures recovery by."""

    def before(point):
        return lambda writer, *_: points.reach(f"before_{point}", writer.partition)

    def after(point):
        return lambda _, writer, *__: points.reach(f"after_{point}", writer.partition)

    wrap(TransactionalWriter, "_fence", before("init"), after("init"))
    wrap(TransactionalWriter, "_begin", before("begin"), after("begin"))
    wrap(TransactionalWriter, "_send", None, after("send"))
    wrap(TransactionalWriter, "_resolve", None, after("resolve"))
    wrap(TransactionalWriter, "_commit", before("commit"), after("commit"))
    wrap(
        KafkaAssignment,
        "_restore",
        None,
        lambda _, __, partition: points.reach("after_restore", partition),
    )
    wrap(
        KafkaAssignment,
        "_take_over",
        None,
        lambda won, _, p: notebook.note("taken", p, sequence=won.checkpoint.sequence),
    )
    wrap(
        KafkaAssignment,
        "_give_up",
        lambda tasks, p: notebook.note("lost", p) if p in tasks._partitions else None,
    )
    wrap(
        KafkaAssignment,
        "commit",
        None,
        lambda _, __, p, commit: notebook.note("committed", p, sequence=commit.after.sequence),
    )


def part_of(row):
    """The number of the part of a chunk that a record holds, None where it is of something else."""
    name, _, number = (row.key or b"").rpartition(b"#")
    return int(number) if name and row.topic.endswith(STATE_SUFFIX) else None


def flush(producer):
    """Have what was sent so far written, where the brokers let it be."""
    with contextlib.suppress(KafkaTimeoutError):
        producer.flush(timeout=1)


def cut_small(points):
    """Make a chunk of the state be of many parts, and let a fault strike between two of them."""
    send = TransactionalWriter._send

    def choose_size(_, commit):
        # Another one each time, so that a chunk comes to have more parts, and fewer again.
        size = PART_BYTES[commit.after.sequence % len(PART_BYTES)]
        kafka_changelog.PART_BYTES_MAX = size

    def in_parts(self, rows):
        between = next((i for i in reversed(range(len(rows))) if part_of(rows[i])), None)
        for i, row in enumerate(rows):
            if i == between:
                points.reach("between_parts", self.partition, lambda: flush(self._producer))
            yield row

    wrap(kafka_changelog.Changelog, "rows", choose_size)
    TransactionalWriter._send = lambda self, rows: send(self, in_parts(self, rows))


def switch_off(safeguard, points):
    """Make the worker as careless as a worker without this part of the protocol would be."""
    if safeguard == "resolve":
        TransactionalWriter._resolve = lambda _, __: []
        kafka_transaction._check_place = lambda _, __: None
    elif safeguard == "fencing":
        make = kafka_transaction.make_producer

        def unfenced(config, role, **options):
            own = f"{options['transactional_id']}-{os.getpid()}"
            return make(config, role, **{**options, "transactional_id": own})

        kafka_transaction.make_producer = unfenced
    elif safeguard == "restore":
        kafka_transaction._check_place = lambda _, __: None

        def take_over(self, partition):
            changelog, taken_over = self._restore(partition)
            points.reach("between_restore_and_init", partition)
            writer = TransactionalWriter(self._config, partition)
            inputs = self._input.open(partition, taken_over.checkpoint)
            self._partitions[partition] = _KafkaPartition(
                writer, changelog, inputs, taken_over.checkpoint
            )
            return taken_over

        KafkaAssignment._take_over = take_over
    else:
        sys.exit(f"no safeguard {safeguard!r}; there are {', '.join(SAFEGUARDS)}")


def main():
    config, name, folder, *off = sys.argv[1:]
    notebook = Notebook(name, Path(folder))
    points = Points(name, Path(folder), notebook)
    for safeguard in off:
        switch_off(safeguard, points)
    cut_small(points)
    watch(points, notebook)
    # The parent may have started us while it ignored it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Where every thread is goes to the log when the harness wants to know.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    notebook.note("started")
    sys.argv = ["streamgauge", "run", "--no-sink", "-c", config]
    cli.main()


if __name__ == "__main__":
    main()
