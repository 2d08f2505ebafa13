"""Replays a CSV file as a deployed model would have lived it: predictions now, labels later.

The first rows train a model, which is then frozen. Each further row becomes a prediction, and
later a label. `CsvReplay` is the pure part (rows to events); `replay` sends them to a broker.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from streamgauge.consumers.terminal.format import counted
from streamgauge.consumers.traffic.csv_rows import (
    ColumnError,
    CsvError,
    CsvRow,
    CsvValue,
    Target,
    are_many,
    are_names,
    count_rows,
    infer_task,
    parse_value,
    read_rows,
)
from streamgauge.consumers.traffic.frozen_model import (
    Answer,
    FrozenModel,
    FrozenModelError,
    default_learner,
    make_learner,
)
from streamgauge.consumers.traffic.labels import ROW_MS, START_MS, Event, EventWriter, LabelSchedule
from streamgauge.consumers.traffic.send import send_events
from streamgauge.detectors.errors import StreamgaugeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streamgauge.consumers.broker import Producer
    from streamgauge.stream.config import Task, Topics


_NAME_LENGTH_MAX = 200  # of models and versions in events


class ReplayError(StreamgaugeError, ValueError):
    """An option or the file as a whole cannot be used; the message says which and why."""


class OptionError(ReplayError):
    """An option cannot be used; `option` is its name in `ReplayOptions`, `problem` says why."""

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option}: {problem}")
        self.option = option
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """The choices of a replay.

    Attributes:
        path: a CSV file, gzipped where its name ends in `.gz`.
        target: the column to predict.
        model: the model's name in the events.
        version: the model's version in the events.
        task: taken from the target where it is None.
        drop: columns that are left out.
        delimiter: what is between two values of a line.
        decimal: what is before the decimals of a number, `.` or `,`.
        train_rows: rows the model learns from; they are not published.
        learner: import path of a River model; None takes `default_learner`.
        delay_ms: from a prediction to its label, event time.
        jitter_ms: further delay of a label, uniform from 0 to this.
        duplicates: probability that a label comes twice.
        missing: probability that a label never comes.
        start_ms: event time of the file's first row; rows are one second apart.
        end_ms: event time before which all has happened, epoch milliseconds, whatever `start_ms`
            says; the file is read once more for it, to count its rows.
        seed: of the label schedule and of the order in which the training rows are learned.
    """

    path: Path
    target: str
    model: str
    version: str = "1"
    task: Task | None = None
    drop: tuple[str, ...] = ()
    delimiter: str = ","
    decimal: str = "."
    train_rows: int = 1000
    learner: str | None = None
    delay_ms: int = 0
    jitter_ms: int = 0
    duplicates: float = 0.0
    missing: float = 0.0
    start_ms: int = START_MS
    end_ms: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("model", "version"):
            length = len(getattr(self, name))
            if not 1 <= length <= _NAME_LENGTH_MAX:
                raise OptionError(name, f"1 to {_NAME_LENGTH_MAX} characters, got {length}")
        if self.train_rows < 1:
            raise OptionError("train_rows", f"at least 1, got {self.train_rows}")
        for name in ("delay_ms", "jitter_ms"):
            if getattr(self, name) < 0:
                raise OptionError(name, f"at least 0, got {getattr(self, name)}")
        for name in ("duplicates", "missing"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(name, f"a probability, got {getattr(self, name)}")


class TextColumn(NamedTuple):
    """A column that holds text, and the first cell that does; `line` as editors count."""

    name: str
    line: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySummary:
    """The work of a replay, in numbers.

    Attributes:
        task: what the model was taken for.
        n_rows: rows of the file that were read.
        n_train: the first of them, which trained the model.
        n_predictions: predictions sent.
        n_labels: labels sent, repeats not counted.
        n_duplicates: labels sent again.
        n_missing: predictions whose label was never sent.
        training_accuracy: of the trained model on its training rows; None for regression.
        training_mae: mean absolute error on the training rows; None for classification.
        unused_columns: columns whose text the default learner cannot use.
    """

    task: Task
    n_rows: int
    n_train: int
    n_predictions: int
    n_labels: int
    n_duplicates: int
    n_missing: int
    training_accuracy: float | None
    training_mae: float | None
    unused_columns: tuple[TextColumn, ...] = field(default=())

    def describe(self) -> str:
        """Return the summary in two or three lines."""
        score = (
            f"accuracy {self.training_accuracy:.3f}"
            if self.training_accuracy is not None
            else f"mean absolute error {self.training_mae:.4g}"
        )
        lines = [
            f"{self.task}: trained on {self.n_train:,} rows, {score} on them",
            (
                f"sent {self.n_predictions:,} predictions and {self.n_labels:,} labels"
                f" ({self.n_duplicates:,} sent twice, {self.n_missing:,} never)"
            ),
        ]
        if self.unused_columns:
            cells = (f"{c.name} (line {c.line}: {c.text[:30]!r})" for c in self.unused_columns)
            lines.append(f"left out, text that the default learner cannot use: {', '.join(cells)}")
        return "\n".join(lines)


class CsvReplay:
    """The pure part: trains on the first rows when made, then gives the events of the others.

    The file is read once, as the events are taken; memory is that of the training rows while
    training and of the labels not yet due afterwards.

    Raises:
        ReplayError: see `read_rows`, `make_learner` and `FrozenModel`; or the file has no
            more than `train_rows` rows, or a target does not fit the task.
    """

    def __init__(self, options: ReplayOptions) -> None:
        self._options = options
        self._rows = read_rows(
            options.path, options.target, options.drop, options.delimiter, options.decimal
        )
        try:
            training = list(islice(self._rows, options.train_rows))
        except ColumnError as error:
            raise OptionError(error.option, str(error)) from None
        if len(training) < options.train_rows:
            raise OptionError(
                "train_rows",
                f"{options.path}: {len(training):,} rows, fewer than the "
                f"{options.train_rows:,} to train on",
            )
        values = [parse_value(row.target) for row in training]
        self.task: Task = options.task or infer_task(values)
        if self.task == "classification" and _all_numbers(values) and are_many(values):
            raise OptionError(
                "task",
                f"classification, and {options.target!r} has {len(set(values)):,} distinct numbers"
                f" in {len(values):,} rows, too many for classes or with fractions;"
                " use --task regression, or a target with classes",
            )
        if self.task == "classification" and are_names(values):
            raise OptionError(
                "target",
                f"{options.target!r} has {len(set(values)):,} distinct values in"
                f" {len(values):,} rows, such as {values[0]!r}, too many for classes;"
                " use another column, or --decimal comma where these are numbers",
            )
        # Where some class is text, `7` is the name of a class too.
        self._text_target = self.task == "classification" and any(
            isinstance(value, str) for value in values
        )
        self._deploy(training)
        self._schedule: LabelSchedule[tuple[int, Target]] = LabelSchedule(
            delay_ms=options.delay_ms,
            jitter_ms=options.jitter_ms,
            duplicates=options.duplicates,
            missing=options.missing,
            seed=options.seed,
        )
        self._n_predictions = 0
        self._start_ms = options.start_ms
        if options.end_ms is not None:
            n_rows = count_rows(options.path, options.delimiter)
            lasts_ms = n_rows * ROW_MS + options.delay_ms + options.jitter_ms
            self._start_ms = options.end_ms - lasts_ms

    def events(self) -> Iterator[Event]:
        """Predictions in the order of the file, labels between them when they are due."""
        writer = EventWriter(self._options.model, self._options.version, self.task)
        for row in self._rows:
            now_ms = self._start_ms + row.number * ROW_MS
            target = self._target(row)
            yield writer.prediction(self._id(row.number), now_ms, self._predict(row), row.features)
            self._n_predictions += 1
            self._schedule.add((row.number, target), now_ms)
            yield from self._labels(writer, now_ms)
        yield from self._labels(writer, math.inf)

    def summary(self) -> ReplaySummary:
        """Return what has been done so far."""
        n_train = self._options.train_rows
        return ReplaySummary(
            task=self.task,
            n_rows=n_train + self._n_predictions,
            n_train=n_train,
            n_predictions=self._n_predictions,
            n_labels=self._schedule.n_labels,
            n_duplicates=self._schedule.n_duplicates,
            n_missing=self._schedule.n_missing,
            training_accuracy=self._score if self.task == "classification" else None,
            training_mae=self._score if self.task == "regression" else None,
            unused_columns=self._unused_columns,
        )

    def _deploy(self, training: list[CsvRow]) -> None:
        path = self._options.learner
        try:
            learner = make_learner(path, self.task) if path else default_learner(self.task)
        except FrozenModelError as error:
            raise OptionError("learner", str(error)) from None
        pairs = [(row.features, self._target(row)) for row in training]
        self._model = FrozenModel(
            learner, self.task, pairs, numeric_only=path is None, seed=self._options.seed
        )
        self._unused_columns = _text_columns(training) if path is None else ()
        self._score = self._score_on(training, [target for _, target in pairs])

    def _score_on(self, rows: list[CsvRow], targets: list[Target]) -> float:
        answers: list[Any] = [self._predict(row).value for row in rows]
        pairs = zip(answers, targets, strict=True)
        if self.task == "regression":
            return float(sum(abs(answer - target) for answer, target in pairs)) / len(rows)
        return sum(bool(answer == target) for answer, target in pairs) / len(rows)

    def _target(self, row: CsvRow) -> Target:
        target = row.target if self._text_target else parse_value(row.target)
        if target is None:
            raise self._at(row, f"the target is {row.target!r}, which stands for no value")
        if self.task == "regression" and isinstance(target, str):
            raise self._at(row, f"the target is {row.target!r}, regression needs a number")
        return target

    def _predict(self, row: CsvRow) -> Answer:
        try:
            return self._model.predict(row.features)
        except FrozenModelError as error:
            raise self._at(row, str(error)) from error.__cause__

    def _labels(self, writer: EventWriter, now_ms: float) -> Iterator[Event]:
        for arrival in self._schedule.due(now_ms):
            number, target = arrival.label
            yield writer.label(self._id(number), arrival.timestamp_ms, target)

    def _id(self, number: int) -> str:
        return f"{self._options.model}-{number}"

    def _at(self, row: CsvRow, problem: str) -> ReplayError:
        return ReplayError(f"{self._options.path}: line {row.line}: {problem}")


def _all_numbers(values: list[CsvValue]) -> bool:
    return not any(isinstance(value, str) for value in values)


def _text_columns(rows: list[CsvRow]) -> tuple[TextColumn, ...]:
    found: dict[str, TextColumn] = {}
    for row in rows:
        for name, value in row.features.items():
            if isinstance(value, str) and name not in found:
                found[name] = TextColumn(name, row.line, value)
    return tuple(found[name] for name in rows[0].features if name in found)


def replay(
    options: ReplayOptions,
    producer: Producer,
    topics: Topics,
    *,
    rate: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> ReplaySummary:
    """Train a model on the first rows of a file and send its predictions and labels.

    Args:
        options: what to replay.
        producer: takes the events; it is flushed at least every thousand rows and at the end.
        topics: the names of the input topics.
        rate: rows per second; None is as fast as possible.
        progress: called with the number of predictions sent, after each flush.

    Raises:
        ReplayError: see `CsvReplay`. An error in a later row comes after the rows before it have
            been sent; a note on it, as on a KeyboardInterrupt, says how many.
    """
    if rate is not None and not rate > 0:
        raise OptionError("rate", f"more than 0 rows per second, got {rate}")
    run = CsvReplay(options)
    n_sent: Counter[str] = Counter()

    def events() -> Iterator[Event]:
        for event in run.events():
            yield event
            n_sent[event.kind] += 1

    try:
        send_events(events(), producer, topics, rate=rate, progress=progress)
    except (ReplayError, CsvError, KeyboardInterrupt) as error:
        counts = " and ".join(counted(n_sent[kind], kind) for kind in ("prediction", "label"))
        error.add_note(f"{counts} were sent before that")
        raise
    return run.summary()
