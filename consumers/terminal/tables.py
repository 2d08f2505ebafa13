"""Tables for a person at a terminal."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.filesize import decimal
from rich.table import Table

from streamgauge.stream.contracts import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streamgauge.consumers.broker import TopicInfo
    from streamgauge.consumers.mlflow.history import MetricHistory


def plain_table(*columns: str, numbers: Sequence[str] = ()) -> Table:
    """Return an empty table in the house style; columns in `numbers` are right-aligned."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column, justify="right" if column in numbers else "left", no_wrap=column in numbers
        )
    return table


def topics_table(topics: Sequence[TopicInfo], *, counts_markers: bool = False) -> Table:
    """One line for each topic; times are UTC.

    Inputs bear the time at which they were written, outputs the event time of what they tell.

    Args:
        topics: what to show.
        counts_markers: whether `n_records` counts what transactions leave in the topic as well.
    """
    numbers = ("parts", "records", "size")
    table = plain_table("topic", *numbers, "oldest", "newest", numbers=numbers)
    table.caption = "\n".join(_notes(topics, counts_markers=counts_markers)) or None
    table.caption_justify = "left"
    for topic in topics:
        table.add_row(
            topic.name,
            str(topic.n_partitions),
            f"{topic.n_records:,}",
            "-" if topic.n_bytes is None else decimal(topic.n_bytes),
            _minute(topic.oldest_timestamp_ms),
            _minute(topic.newest_timestamp_ms),
        )
    return table


def _notes(topics: Sequence[TopicInfo], *, counts_markers: bool) -> Iterator[str]:
    if counts_markers:
        yield "records: offsets in use; each transaction's marker takes one, as do aborted records"
    if any(topic.oldest_timestamp_ms is not None for topic in topics):
        yield "times in UTC: of writing for inputs, event time for what streamgauge publishes"


def metrics_tables(histories: Sequence[MetricHistory]) -> Iterator[Table]:
    """Return a table for each run, one line for each of its metrics."""
    numbers = ("points", "last step", "last", "min", "max")
    for (model, version, run_id), rows in groupby(
        histories, key=lambda row: (row.model, row.version, row.run_id)
    ):
        table = plain_table("metric", *numbers, numbers=numbers)
        table.title, table.title_justify = f"{model}/{version}  run {run_id}", "left"
        for row in rows:
            table.add_row(
                row.key,
                f"{row.n_points:,}",
                f"{row.last_step:,}",
                *(f"{value:.4g}" for value in (row.last_value, row.min_value, row.max_value)),
            )
        yield table


def _minute(timestamp_ms: int | None) -> str:
    return "-" if timestamp_ms is None else rfc3339(timestamp_ms)[:16].replace("T", " ")
