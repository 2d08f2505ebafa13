"""Metrics, alarms, retrain requests and dead letters as a person sees them in a terminal."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from rich.table import Table
from rich.text import Text

from streamgauge.consumers.published import value_text
from streamgauge.consumers.terminal.format import (
    before_after,
    clean,
    moment,
    number,
    sparkline,
    without_year,
)
from streamgauge.stream.contracts import MetricPoint, rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType

    from streamgauge.consumers.published import DeadLetter, Published, RetrainEvent, TopicKind
    from streamgauge.stream.contracts import AlarmEvent, RetrainRequest

P = TypeVar("P")

WIDE = 110  # columns from which a table shows everything
LINES_MAX = 200  # alarms, requests and dead letters kept for the table
VERSIONS_MAX = 100  # model versions kept for the table
TREND = 16  # points in a sparkline

_ARROWS = {"up": "↑", "down": "↓", "none": " "}
_STYLES = {
    "drift": "red",
    "warning": "yellow",
    "improvement": "green",
    "data_problem": "magenta",
    "minor": "yellow",
    "moderate": "dark_orange",
    "severe": "red",
}
_SIGNALS = ("performance", "error", "learner_error", "join")
# The metric of each signal that gets the sparkline: the first of these that is there, else the mean
# of a detector, which is of late, else whichever comes first.
_MAIN = ("accuracy_window", "mae_window", "window_mean", "n_pending")


def _version(of: MetricPoint | AlarmEvent | RetrainRequest) -> str:
    return f"{clean(of.model)}/{clean(of.version)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column(Generic[P]):
    """A column of a table of lines.

    Attributes:
        title: its header.
        text: makes the cell of a record.
        least: the width it can be cut to; None keeps it whole.
        right: whether it is aligned to the right.
        wide_only: whether a narrow table leaves it out.
    """

    title: str
    text: Callable[[P], str]
    least: int | None = None
    right: bool = False
    wide_only: bool = False


def _alarm_change(alarm: AlarmEvent) -> str:
    if alarm.mean_before is None and alarm.detail:
        return clean(alarm.detail)
    return f"{_ARROWS[alarm.direction]} {before_after(alarm.mean_before, alarm.mean_after)}"


def _retrain_change(event: RetrainEvent) -> str:
    for name, metric in event.data.metrics.items():
        return f"{clean(name)} {before_after(metric.before, metric.after)}"
    return ""


def _source(letter: DeadLetter) -> str:
    return clean(f"{letter.topic}-{letter.partition}@{letter.offset}")


_ALARM_COLUMNS: tuple[Column[AlarmEvent], ...] = (
    Column(title="time", text=lambda a: moment(a.timestamp)),
    Column(title="model", text=_version, least=8),
    Column(title="signal", text=lambda a: clean(a.signal), wide_only=True),
    Column(title="detector", text=lambda a: clean(a.detector), least=12),
    Column(title="kind", text=lambda a: a.kind),
    Column(title="before → after", text=_alarm_change, least=15),
    Column(title="index", text=lambda a: number(a.index), right=True),
    Column(title="onset", text=lambda a: number(a.onset), right=True, wide_only=True),
)
_RETRAIN_COLUMNS: tuple[Column[RetrainEvent], ...] = (
    Column(title="time", text=lambda e: moment(e.attributes.get("time"))),
    Column(title="model", text=lambda e: _version(e.data), least=8),
    Column(title="episode", text=lambda e: number(e.data.episode), right=True),
    Column(title="severity", text=lambda e: e.data.severity),
    Column(title="reason", text=lambda e: e.data.reason, wide_only=True),
    Column(title="before → after", text=_retrain_change, least=19),
    Column(title="outcomes", text=lambda e: number(e.data.window.n_outcomes), right=True),
    Column(title="approval", text=lambda e: e.data.approval, wide_only=True),
)
_LETTER_COLUMNS: tuple[Column[DeadLetter], ...] = (
    Column(title="source", text=_source, least=16),
    Column(title="reason", text=lambda d: clean(d.reason)),
    Column(title="detail", text=lambda d: clean(d.detail), least=20),
    Column(title="value", text=lambda d: clean(value_text(d)), wide_only=True, least=20),
)
_COLUMNS: dict[TopicKind, tuple[Column[Any], ...]] = {
    "alarms": _ALARM_COLUMNS,
    "retrain": _RETRAIN_COLUMNS,
    "dead-letters": _LETTER_COLUMNS,
}


def line(kind: TopicKind, found: Published) -> str:
    """Return a record as one line of text, for a person whose terminal is a pipe."""
    if isinstance(found, MetricPoint):
        values = "  ".join(f"{clean(k)}={number(v)}" for k, v in found.values.items())
        time = moment(rfc3339(found.timestamp_ms))
        return f"{time}  {_version(found)}  {clean(found.signal)}  step={found.step}  {values}"
    return "  ".join(column.text(found) for column in _COLUMNS[kind])


class View(Protocol):
    """A table of the records seen so far, of one kind, that fits its console."""

    def add(self, found: Any) -> None: ...

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]: ...


class LinesView:
    """The newest records, one line each, the newest last; keeps `LINES_MAX`."""

    def __init__(self, kind: TopicKind) -> None:
        self._columns = _COLUMNS[kind]
        self._newest: deque[Published] = deque(maxlen=LINES_MAX)

    def add(self, found: Published) -> None:
        self._newest.append(found)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        wide = options.max_width >= WIDE
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        columns = [column for column in self._columns if wide or not column.wide_only]
        newest = list(self._newest)[-_height(console) :]
        cells = [[column.text(found) for column in columns] for found in newest]
        if not wide:
            cells = [[without_year(text) for text in row] for row in cells]
        widths = _fit(columns, cells, options.max_width)
        for column, width in zip(columns, widths, strict=True):
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                no_wrap=True,
                overflow="ellipsis",
                width=width,
            )
        for texts in cells:
            table.add_row(*(Text(text, _STYLES.get(text, "")) for text in texts))
        yield table


def _height(console: Console) -> int:
    """Lines of a table that fit: one is the header, one is kept for the cursor."""
    return max(1, console.height - 2)


def _fit(columns: Sequence[Column[Any]], cells: list[list[str]], width: int) -> list[int]:
    """Column widths: what the texts need, cut where it can be to what is left."""
    needed = [
        max([len(column.title), *(len(row[i]) for row in cells)])
        for i, column in enumerate(columns)
    ]
    over = sum(needed) + 2 * (len(columns) - 1) - width
    while over > 0:
        # The widest gives way first, so that two long columns end up alike.
        spare = {
            i: needed[i]
            for i, column in enumerate(columns)
            if column.least is not None and needed[i] > column.least
        }
        if not spare:
            break
        needed[max(spare, key=spare.__getitem__)] -= 1
        over -= 1
    return needed


class MetricsView:
    """The latest metrics of each model version, a line for each signal.

    Keeps the `VERSIONS_MAX` model versions that were heard of last.
    """

    def __init__(self) -> None:
        self._versions: OrderedDict[str, dict[str, _Latest]] = OrderedDict()

    def add(self, point: MetricPoint) -> None:
        version = _version(point)
        signals = self._versions.setdefault(version, {})
        self._versions.move_to_end(version)
        if len(self._versions) > VERSIONS_MAX:
            self._versions.popitem(last=False)
        signal = clean(point.signal)
        latest = signals.setdefault(signal, _Latest(deque(maxlen=TREND)))
        latest.add(point)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        lines: list[Text] = []
        for version in sorted(self._versions):
            signals = self._versions[version]
            step = max(latest.step for latest in signals.values())
            outcomes = f"  {number(step)} outcomes"
            name = Text(version, "bold")
            name.truncate(options.max_width - len(outcomes), overflow="ellipsis")
            lines.append(name + outcomes)
            lines += [
                Text(f"  {name:<12} {signals[name].text(options.max_width - 15)}".rstrip())
                for name in sorted(signals, key=_signal_order)
            ]
        hidden = len(lines) - _height(console)
        if hidden > 0:
            lines = [*lines[: _height(console) - 1], Text(f"... {hidden + 1} more lines", "dim")]
        for text in lines:
            text.truncate(options.max_width, overflow="ellipsis")
            yield text


def _signal_order(name: str) -> tuple[int, str]:
    return (_SIGNALS.index(name) if name in _SIGNALS else len(_SIGNALS), name)


@dataclass
class _Latest:
    """The latest values of a signal, and its main metric's last `TREND` values."""

    trend: deque[float]
    step: int = 0
    main: str = ""

    def __post_init__(self) -> None:
        self.values: dict[str, float] = {}

    def add(self, point: MetricPoint) -> None:
        self.values = point.values
        self.step = point.step
        of_late = (name for name in self.values if name.endswith(".mean"))
        names = (*(name for name in _MAIN if name in self.values), *of_late, *self.values)
        self.main = next(iter(names), "")
        if self.main:
            self.trend.append(self.values[self.main])

    def text(self, width: int) -> str:
        """Return the main metric with its trend, then as many of the others as fit whole."""
        if not self.main:
            return ""
        spark = sparkline(self.trend, TREND)
        text = f"{clean(self.main):<16}{number(self.values[self.main]):>7}  {spark:<{TREND}}"
        for name, value in self.values.items():
            item = f"  {clean(name)} {number(value)}"
            if name != self.main and len(text) + len(item) <= width:
                text += item
        return text
