"""`streamgauge tail`: follows what is published, as JSON lines or as a live table."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TextIO, TypeVar

import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from streamgauge.consumers.published import UnreadableRecordError, document, is_about, read
from streamgauge.consumers.terminal.format import clean
from streamgauge.consumers.terminal.views import LinesView, MetricsView, View, line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from streamgauge.consumers.broker import Reader
    from streamgauge.consumers.published import Published, TopicKind
    from streamgauge.stream.records import Record

POLL_S = 0.5

T = TypeVar("T")


def tail(
    reader: Reader,
    kind: TopicKind,
    *,
    model: str | None = None,
    as_json: bool = False,
    follow: bool = True,
    has_older: bool = False,
    out: TextIO | None = None,
) -> None:
    """Show the records of a reader as they come, until interrupted or, not following, the end.

    A record that cannot be read is named on standard error and passed over. A closed pipe and
    Ctrl-C end it quietly.

    Args:
        reader: follows the one topic of this kind.
        kind: what the topic holds.
        model: show this model only.
        as_json: one JSON object per line.
        follow: go on after the last record.
        has_older: whether there are records that the reader does not show; it is said meanwhile.
        out: standard output where None; a live table where it is a terminal.
    """
    out = out or sys.stdout
    try:
        if as_json or not out.isatty():
            n = _print_lines(reader, kind, model, as_json=as_json, follow=follow, out=out)
        else:
            n = _show_table(reader, kind, model, follow=follow, has_older=has_older, out=out)
        if n == 0:
            print(_nothing(kind, model), file=sys.stderr)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # Python flushes standard output once more at exit, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def _nothing(kind: TopicKind, model: str | None) -> str:
    what = {"retrain": "retrain requests", "dead-letters": "dead letters"}.get(kind, kind)
    return f"no {what}" if model is None else f"no {what} of model {clean(model)!r}"


def _readable(
    kind: TopicKind,
    records: Iterable[Record],
    model: str | None,
    show: Callable[[Record, Published], T],
) -> Iterator[T]:
    """Show those records that can be read and are about the model; name those that cannot."""
    for record in records:
        try:
            found = read(kind, record)
            shown = show(record, found) if model is None or is_about(found, model) else None
        except UnreadableRecordError as error:
            where = f"{record.topic}-{record.partition}@{record.offset}"
            print(clean(f"{where}: not a record of {kind} ({error.reason})"), file=sys.stderr)
            continue
        if shown is not None:
            yield shown


def _polls(reader: Reader, *, follow: bool) -> Iterator[list[Record]]:
    while (records := reader.poll(POLL_S)) or follow:
        yield records


def _print_lines(
    reader: Reader, kind: TopicKind, model: str | None, *, as_json: bool, follow: bool, out: TextIO
) -> int:
    def show(record: Record, found: Published) -> str:
        if as_json:
            return msgspec.json.encode(document(kind, record)).decode()
        return line(kind, found)

    n = 0
    for records in _polls(reader, follow=follow):
        for text in _readable(kind, records, model, show):
            out.write(text + "\n")
            n += 1
        out.flush()
    return n


def _as_read(_: Record, found: Published) -> Published:
    return found


def _show_table(
    reader: Reader,
    kind: TopicKind,
    model: str | None,
    *,
    follow: bool,
    has_older: bool,
    out: TextIO,
) -> int:
    n = 0
    view: View = MetricsView() if kind == "metrics" else LinesView(kind)
    console = Console(file=out)
    if not follow:
        for records in _polls(reader, follow=False):
            for found in _readable(kind, records, model, _as_read):
                view.add(found)
                n += 1
        if n:
            console.print(view)
        return n
    older = " (--from-start shows the old ones)" if has_older else ""
    waiting = Text(f"waiting for {kind.replace('-', ' ')} ...{older}", "dim")
    with Live(waiting, console=console, auto_refresh=False) as live:
        live.refresh()
        for records in _polls(reader, follow=True):
            for found in _readable(kind, records, model, _as_read):
                view.add(found)
                n += 1
            if n:
                live.update(view, refresh=True)
    return n
