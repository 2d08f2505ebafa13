"""The places of a model's outcomes: for any past one, times, offsets and mean loss since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamgauge.stream.outcomes import OutcomeColumns

_BLOCK = 32
_BLOCKS_PER_SIZE = 8
_NO_OFFSET_MIN = 2**62


class Block(Struct, array_like=True):
    """Consecutive outcomes: how many, their loss, and the ranges they came from."""

    size: int
    n: int = 0
    loss_sum: float = 0.0
    predicted_ms_min: int = _NO_OFFSET_MIN
    timestamp_ms_max: int = 0
    prediction_min: int = _NO_OFFSET_MIN
    prediction_max: int = -1
    label_min: int = _NO_OFFSET_MIN
    label_max: int = -1

    def absorb(self, other: Block) -> None:
        """Become the union with the block that follows."""
        self.n += other.n
        self.loss_sum += other.loss_sum
        self.predicted_ms_min = min(self.predicted_ms_min, other.predicted_ms_min)
        self.timestamp_ms_max = max(self.timestamp_ms_max, other.timestamp_ms_max)
        self.prediction_min = min(self.prediction_min, other.prediction_min)
        self.prediction_max = max(self.prediction_max, other.prediction_max)
        self.label_min = min(self.label_min, other.label_min)
        self.label_max = max(self.label_max, other.label_max)

    @property
    def mean_loss(self) -> float | None:
        """Mean loss of the block's outcomes, None where there are none."""
        return self.loss_sum / self.n if self.n else None


class WindowIndex:
    """An exponential histogram of outcomes: recent ones in blocks of 32, older ones coarser.

    Any window that reaches back n outcomes is found to within about n/8; memory is 8 blocks for
    each doubling of the stream.
    """

    def __init__(self, blocks: list[Block] | None = None) -> None:
        self._blocks = blocks or [Block(_BLOCK)]

    def record(self, columns: OutcomeColumns, start: int, stop: int) -> None:
        """Take the outcomes [start, stop) of `columns`."""
        while start < stop:
            block = self._blocks[-1]
            if block.n == block.size:
                self._blocks.append(Block(_BLOCK))
                self._merge()
                continue
            end = min(stop, start + block.size - block.n)
            _fill(block, columns, start, end)
            start = end

    def split(self, outcome_index: int) -> tuple[Block, Block]:
        """Return all before the block that holds an outcome, and all from that block on."""
        before, since = Block(0), Block(0)
        n = 0
        for block in self._blocks:
            (before if n + block.n <= outcome_index else since).absorb(block)
            n += block.n
        return before, since

    def _merge(self) -> None:
        size = _BLOCK
        while True:
            full = [i for i, block in enumerate(self._blocks[:-1]) if block.size == size]
            if len(full) <= _BLOCKS_PER_SIZE:
                return
            older, newer = full[0], full[1]
            self._blocks[older].absorb(self._blocks[newer])
            size *= 2
            self._blocks[older].size = size
            del self._blocks[newer]

    def state(self) -> list[Block]:
        """Return the blocks, oldest first."""
        return self._blocks


def running_sum(total: float, values: NDArray[np.float64]) -> float:
    """Return `total` plus the values, added one by one: the same bits however they are cut."""
    return float(np.cumsum(np.concatenate(([total], values)))[-1])


def _fill(block: Block, columns: OutcomeColumns, start: int, end: int) -> None:
    block.n += end - start
    block.loss_sum = running_sum(block.loss_sum, columns.losses[start:end])
    block.predicted_ms_min = min(block.predicted_ms_min, int(columns.predicted_ms[start:end].min()))
    block.timestamp_ms_max = max(block.timestamp_ms_max, int(columns.timestamp_ms[start:end].max()))
    block.label_min = min(block.label_min, int(columns.label[start:end].min()))
    block.label_max = max(block.label_max, int(columns.label[start:end].max()))
    predictions = columns.prediction[start:end]
    known = predictions[predictions >= 0]
    if len(known):
        block.prediction_min = min(block.prediction_min, int(known.min()))
        block.prediction_max = max(block.prediction_max, int(known.max()))
