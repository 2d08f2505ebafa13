"""Keeps the two input topics of a partition in step, by the timestamps of their records.

The merged order: compare the next prediction with the next label and take the one with the
smaller `timestamp_ms`, the prediction when they are equal. Within a topic it is offset order,
whatever the timestamps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamgauge.stream.records import Record


def mergeable_prefix(
    predictions: Sequence[Record],
    labels: Sequence[Record],
    *,
    more_predictions: bool,
    more_labels: bool,
    max_records: int,
) -> tuple[int, int]:
    """How many predictions and labels can be processed before more input has to be known.

    A topic with more records than are given here may go on with any timestamp, so nothing of the
    other one is taken past its last given record. The records taken are therefore a prefix of
    the merged order of the whole input, however it is cut. Both counts are 0 only where a topic
    that has more is given without any record, or where there is no input at all. Takes time
    linear in the number of records taken.

    Args:
        predictions: the next predictions of a partition, in offset order.
        labels: the next labels of the same partition, in offset order.
        more_predictions: whether predictions follow after the given ones.
        more_labels: whether labels follow after the given ones.
        max_records: the most to take of each topic, at least 1.
    """
    n_predictions, n_labels = len(predictions), len(labels)
    if n_predictions > max_records:
        n_predictions, more_predictions = max_records, True
    if n_labels > max_records:
        n_labels, more_labels = max_records, True

    i = j = 0
    while i < n_predictions and j < n_labels:
        if predictions[i].timestamp_ms <= labels[j].timestamp_ms:
            i += 1
        else:
            j += 1
    if i == n_predictions and not more_predictions:
        return n_predictions, n_labels
    if j == n_labels and not more_labels:
        return n_predictions, n_labels
    return i, j


def merge(predictions: Sequence[Record], labels: Sequence[Record]) -> list[tuple[bool, Record]]:
    """The records of one batch in merged order, each with whether it is a label.

    >>> from streamgauge.stream.records import Record
    >>> early, late = (Record("p", 0, i, t, None, b"") for i, t in enumerate((10, 30)))
    >>> label = Record("l", 0, 0, 20, None, b"")
    >>> [(is_label, record.timestamp_ms) for is_label, record in merge([early, late], [label])]
    [(False, 10), (True, 20), (False, 30)]
    """
    merged: list[tuple[bool, Record]] = []
    take = merged.append
    label_times: list[float] = [label.timestamp_ms for label in labels]
    label_times.append(math.inf)
    j = 0
    for prediction in predictions:
        timestamp_ms = prediction.timestamp_ms
        while label_times[j] < timestamp_ms:
            take((True, labels[j]))
            j += 1
        take((False, prediction))
    merged.extend((True, label) for label in labels[j:])
    return merged
