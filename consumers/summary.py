"""The summary of a run: everything committed so far, as one JSON object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from streamgauge.consumers.published import documents, read_all
from streamgauge.consumers.terminal.format import counted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from streamgauge.consumers.broker import Broker
    from streamgauge.consumers.config import Config
    from streamgauge.stream.records import Record
    from streamgauge.stream.totals import Totals

_ALARM_FIELDS = (
    "model",
    "version",
    "signal",
    "detector",
    "kind",
    "direction",
    "index",
    "timestamp",
    "onset",
)


def summarize(
    broker: Broker, config: Config, partitions: Collection[int], totals: Totals, seconds: float
) -> dict[str, Any]:
    """Sum up what has been seen and found since the topics were made, and how long the run was.

    Counts and findings go together: both are of the partitions that the worker had at its end, and
    cover earlier runs as well, so that a run that was killed and started again sums up the same as
    one that was not.

    Args:
        broker: where the findings are.
        config: the whole configuration.
        partitions: those that the totals are of.
        totals: the counts.
        seconds: how long this run was, with its waiting but without its start and its end.
    """

    def found(topic: str) -> Iterator[Record]:
        return (r for r in read_all(broker, topic) if r.partition in partitions)

    alarms = documents("alarms", found(config.topics.alarms))
    return {
        "partitions": sorted(partitions),
        "n_partitions": broker.n_partitions,
        **msgspec.structs.asdict(totals),
        "alarms": [{field: alarm[field] for field in _ALARM_FIELDS} for alarm in alarms],
        "retrain_requests": list(documents("retrain", found(config.topics.retrain))),
        "seconds": round(seconds, 3),
    }


def describe(summary: Mapping[str, Any]) -> str:
    """Return a summary as one line."""
    n_repeated = summary["n_duplicate_predictions"]
    repeated = f" ({n_repeated:,} of known ids, ignored)" if n_repeated else ""
    n_held = summary["n_held"]
    held = f" ({n_held:,} held by label_maturity)" if n_held else ""
    return (
        f"in all{_of_which(summary)} {counted(summary['n_predictions'], 'prediction')}{repeated},"
        f" {counted(summary['n_labels'], 'label')},"
        f" {counted(summary['n_outcomes'], 'outcome')}{held},"
        f" {counted(summary['n_dead_letters'], 'dead letter')};"
        f" {counted(len(summary['alarms']), 'alarm')},"
        f" {counted(len(summary['retrain_requests']), 'retrain request')};"
        f" ran for {summary['seconds']:.1f} s"
    )


def _of_which(summary: Mapping[str, Any]) -> str:
    """Return which partitions were summed up, where it was not all of them."""
    partitions = summary["partitions"]
    if len(partitions) == summary["n_partitions"]:
        return ""
    noun = "partition" if len(partitions) == 1 else "partitions"
    return f", of {noun} {', '.join(map(str, partitions))}:" if partitions else ", of no partition:"
