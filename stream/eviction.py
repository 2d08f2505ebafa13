"""The model that has been idle longest, so that it makes room for a new one."""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamgauge.stream.model import Model

_Key = tuple[int, int, str]


class EvictionQueue:
    """The models by the event time at which they may be forgotten, and that of their last event.

    Memory is an entry for each model; time is logarithmic in their number, on average. The answer
    depends on the models alone, and not on what was asked before.

    Args:
        models: by name; what is added and removed there is to be told here.
    """

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models
        # Times only grow, so an entry is never later than its model's: enough to find the first.
        self._heap = [_key(model) for model in models.values()]
        heapify(self._heap)

    def add(self, name: str) -> None:
        """Take note of a new model."""
        heappush(self._heap, _key(self._models[name]))

    def longest(self, now_ms: int) -> str | None:
        """Return the model idle longest of those that may be forgotten by now, None where none may.

        Those of which only labels have come may be forgotten at any time, and go first.
        """
        while self._heap:
            first = self._heap[0]
            key = _key(self._models[first[2]])
            if key == first:
                return first[2] if first[0] < now_ms else None
            heapreplace(self._heap, key)
        return None

    def remove_longest(self) -> None:
        """Take note that the model that `longest` has just named is no more."""
        heappop(self._heap)


def _key(model: Model) -> _Key:
    return model.join.over_at_ms, model.join.watermark_ms, model.name
