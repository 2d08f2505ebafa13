"""Many detectors of one kind as arrays: a million of them are not a million objects."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from streamgauge.detectors import checks
from streamgauge.detectors.compiled import (
    DIRECTION,
    GROW,
    MEAN_AFTER,
    MEAN_BEFORE,
    N_AFTER,
    N_FOUND,
    NOTHING,
    STATISTIC,
    THRESHOLD,
    compiled,
    compiled_making,
)
from streamgauge.detectors.factory import make_detector
from streamgauge.detectors.row import RowDetector, usable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import ArrayLike, NDArray

    from streamgauge.detectors.compiled import Loops

P = ParamSpec("P")
T = TypeVar("T")

_KIND = "Bank"
_FORMAT = 2
# A row begins with a cache line of 64 bytes: first when it was last updated, then the detector's
# row. Its slot says which line that is, and in the lowest bits which of the widths it has.
_LINE = 8
_WIDTH_BITS = 6
_ABSENT = -1
# While one row is at work the beginning of that of so many values later is on its way from memory.
_AHEAD = 12
_LINES_AHEAD = 4
# Values for which room for alarms is made at once.
_CHUNK = 1 << 17

_DAMAGED = "this state of a bank is damaged; start it anew"

_KINDS = np.array(["", "drift", "warning"])
_DIRECTIONS = np.array(["none", "up", "down"])


@dataclass(frozen=True, slots=True)
class BankAlarms:
    """Alarms as columns, in the order of the values that raised them.

    Attributes:
        position: of the value in the batch.
        id: of the detector.
        index: how many values that detector had seen before.
        kind: `drift` or `warning`.
        direction: `up`, `down` or `none`.
        statistic: the test statistic at the alarm, NaN where the detector keeps none.
        threshold: what the statistic is compared with, NaN where the detector keeps none.
        mean_before: mean of the values before the estimated onset, NaN where unknown.
        mean_after: mean of the values from the estimated onset on, NaN where unknown.
        onset: estimated index of the detector's first value after the change.
    """

    position: NDArray[np.int64]
    id: NDArray[np.int64]
    index: NDArray[np.int64]
    kind: NDArray[np.str_]
    direction: NDArray[np.str_]
    statistic: NDArray[np.float64]
    threshold: NDArray[np.float64]
    mean_before: NDArray[np.float64]
    mean_after: NDArray[np.float64]
    onset: NDArray[np.int64]


def _alone(
    method: Callable[Concatenate[Bank, P], T],
) -> Callable[Concatenate[Bank, P], T]:
    """Make a method refuse to run while another thread is in the bank."""

    @wraps(method)
    def alone(self: Bank, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            turn = self._turns.pop()  # at once, so that no two threads have it
        except IndexError:
            raise RuntimeError(
                "another thread is in this bank, which is for one at a time; use a lock"
            ) from None
        try:
            return method(self, *args, **kwargs)
        finally:
            self._turns.append(turn)

    return alone


class Bank:
    """Detectors of one kind on very many streams, as arrays.

    Each stream has a detector like the one given, and an id. A detector costs the memory of its
    row, in whole cache lines of 64 bytes, and 8 bytes; a row whose detector needs more memory is
    moved to a wider one, and narrower and removed ones are used again. An update takes the time
    of the detector's own and that of fetching its row from memory. The GIL is released, so that
    other threads run meanwhile, but one bank is for one thread at a time: a second one that
    enters gets a RuntimeError, and changes nothing. Arrays that are given are copied first.

    Args:
        detector: what kind of detector, with which parameters; what it has seen does not matter.

    >>> import numpy as np
    >>> from streamgauge.detectors import PageHinkley
    >>> bank = Bank(PageHinkley(threshold=10))
    >>> ids = bank.add(1000)
    >>> quiet = bank.update(ids.repeat(40), np.tile([0.2, 0.4], 20_000))
    >>> alarms = bank.update(ids[[7, 8]].repeat(30), np.repeat([0.9, 0.3], 30))
    >>> len(quiet.id), alarms.id, alarms.index, alarms.direction, alarms.onset
    (0, array([7]), array([60]), array(['up'], dtype='<U4'), array([39]))
    """

    def __init__(self, detector: RowDetector) -> None:
        if not isinstance(detector, RowDetector):
            raise ValueError(f"a bank takes one of our own detectors, got {detector!r}")
        self._detector = detector
        self._turns = [None]
        self._update = _updating(detector.loops)
        # The widths in the arena, with the time in front, and in whole lines.
        self._widths = np.array(detector.widths, dtype=np.int64) + 1
        self._lines = -(-self._widths // _LINE)
        self._arena = _aligned(0)
        self._slots = np.empty(0, dtype=np.int64)
        self._free_ids = np.empty(0, dtype=np.int64)
        # Of each width the rows for use again: the line of the first, which begins with that of
        # the next, and so on; and how many there are.
        self._free = np.tile(np.array([_ABSENT, 0]), (len(self._widths), 1))
        self._end = np.zeros(1, dtype=np.int64)  # the first line never used

    def __len__(self) -> int:
        return len(self._slots) - len(self._free_ids)

    @property
    def nbytes(self) -> int:
        """Bytes that the detectors take, with the room made for more."""
        return self._arena.nbytes + self._slots.nbytes + self._free_ids.nbytes

    @_alone
    def add(self, n: int, now: float = 0.0) -> NDArray[np.int64]:
        """Add `n` new detectors and return their ids; those of removed ones are used again.

        Raises:
            ValueError: `n` is not a whole number from 0, or `now` not finite.
        """
        n = checks.whole("n", n, low=0, high=2**40)
        now = checks.real("now", now, low=-np.inf, high=np.inf, open_at="low high")
        n_new = max(0, n - len(self._free_ids))
        kept, again = np.split(self._free_ids, [len(self._free_ids) - (n - n_new)])
        ids = np.concatenate([again[::-1], np.arange(n_new) + len(self._slots)])
        self._slots = np.concatenate([self._slots, np.full(n_new, _ABSENT)])
        self._free_ids = kept.copy()
        self._reserve(max(0, n - int(self._free[0, 1])) * int(self._lines[0]))
        row = np.concatenate([[now, 0.0], self._detector.baseline])
        _place(self._arena, self._slots, ids, row, self._lines, self._free, self._end)
        return ids

    @_alone
    def update(self, ids: ArrayLike, values: ArrayLike, now: float = 0.0) -> BankAlarms:
        """Give each of `values` to the detector of the id beside it, in order.

        Args:
            ids: of the detectors, one for each value, each as often as it likes.
            values: a one-dimensional array.
            now: the time, in the unit and from the origin that `idle` is asked in.

        Raises:
            ValueError: there is no such detector, or it cannot use a value; the message names
                the position, and none has been taken.
        """
        which = self._known(ids)
        one = self._detector
        # A copy, which no other thread can change once it is checked.
        array = np.array(values, dtype=np.float64)
        xs = usable(array, is_binary=one.is_binary, low=one.low, high=one.high)
        now = checks.real("now", now, low=-np.inf, high=np.inf, open_at="low high")
        if len(which) != len(xs):
            raise ValueError(f"{len(which)} ids do not fit {len(xs)} values")
        alarms = [
            self._take(start, which[start : start + _CHUNK], xs[start : start + _CHUNK], now)
            for start in range(0, max(1, len(xs)), _CHUNK)
        ]
        if len(alarms) == 1:
            return alarms[0]
        return BankAlarms(
            *(
                np.concatenate([getattr(part, field.name) for part in alarms])
                for field in fields(BankAlarms)
            )
        )

    def _take(
        self, start: int, ids: NDArray[np.int64], xs: NDArray[np.float64], now: float
    ) -> BankAlarms:
        at = np.empty(len(xs), dtype=np.int64)
        seen = np.empty(len(xs), dtype=np.int64)
        kinds = np.empty(len(xs), dtype=np.int8)
        found = np.empty((len(xs) + 1, N_FOUND))
        i = n = 0
        while True:
            i, n = self._update(
                self._arena, self._slots, ids, xs, now, i, n, self._detector.numbers,
                self._widths, self._lines, self._free, self._end, at, seen, kinds, found,
            )  # fmt: skip
            if i == len(xs):
                return _columns(start, ids, at[:n], seen[:n], kinds[:n], found[:n])
            self._reserve(int(self._lines[-1]))

    @_alone
    def idle(self, before: float) -> NDArray[np.int64]:
        """Return the ids of the detectors last updated, or added, earlier than `before`."""
        return np.array(_idle(self._arena, self._slots, before))

    @_alone
    def remove(self, ids: ArrayLike) -> None:
        """Forget detectors; their rows, and ids, are used again.

        Raises:
            ValueError: there is no such detector, or it is named twice; none has been removed.
        """
        which = self._known(ids)
        if len(np.unique(which)) != len(which):
            raise ValueError("an id to remove is there twice")
        _remove(self._arena, self._slots, which, self._free)
        self._free_ids = np.concatenate([self._free_ids, which])

    @_alone
    def rebaseline(self, ids: ArrayLike) -> None:
        """Let detectors forget the past and take a new baseline; their counts go on.

        Raises:
            ValueError: there is no such detector; all are as they were.
        """
        baseline = self._detector.baseline
        _rebaseline(self._arena, self._slots, self._known(ids), baseline, self._widths)

    @_alone
    def detector(self, id_: int) -> RowDetector:
        """Return a detector by itself that goes on as the one in the bank would.

        Raises:
            ValueError: there is no such detector.
        """
        [slot] = self._slots[self._known([id_])]
        first = (int(slot) >> _WIDTH_BITS) * _LINE
        width = int(self._widths[int(slot) & (1 << _WIDTH_BITS) - 1])
        return self._detector.with_row(self._arena[first + 1 : first + width])

    def n_seen(self, id_: int) -> int:
        """Return how many values a detector has seen."""
        return self.detector(id_).n_seen

    def readings(self, id_: int) -> dict[str, float]:
        """Return the numbers worth a chart now of a detector; finite."""
        return self.detector(id_).readings()

    @_alone
    def state(self) -> dict[str, Any]:
        """Everything needed to go on: a few arrays and scalars.

        `rows` has, one after the other, for each of `ids` when it was last updated and its row,
        of as many numbers as `widths` says.
        """
        ids = np.flatnonzero(self._slots != _ABSENT)
        widths = self._widths[self._slots[ids] & (1 << _WIDTH_BITS) - 1]
        rows = _gathered(self._arena, self._slots, ids, widths)
        n_seen = int(rows[np.cumsum(widths) - widths + 1].sum()) if len(ids) else 0
        return {
            "detector": _KIND,
            "format": _FORMAT,
            "kind": self._detector.kind,
            "row_format": self._detector.row_format,
            "params": self._detector.params,
            "n_seen": n_seen,
            "free_ids": self._free_ids.copy(),
            "ids": ids,
            "widths": widths,
            "rows": rows,
            "digest": _digest(self._detector, n_seen, self._free_ids, ids, widths, rows),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the bank that `state()` described; arrays may have become lists.

        Raises:
            ValueError: the state is of something else, of another format, or damaged.
        """
        fields = ("kind", "row_format", "free_ids", "ids", "widths", "rows", "digest")
        checks.check_state(state, _KIND, _FORMAT, *fields)
        if not isinstance(state["kind"], str) or not isinstance(state["params"], dict):
            raise ValueError(_DAMAGED)
        self = cls(make_detector(state["kind"], state["params"]))  # type: ignore[arg-type]
        if state["row_format"] != self._detector.row_format:
            raise ValueError(
                f"the rows of this state are of {state['kind']} in format {state['row_format']}, "
                f"and this version reads {self._detector.row_format}; start the bank anew"
            )
        try:
            free_ids, ids, widths = (
                np.array(state[name], dtype=np.int64) for name in ("free_ids", "ids", "widths")
            )
            rows = np.array(state["rows"], dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(_DAMAGED) from None
        n_seen = checks.whole("n_seen", state["n_seen"], low=0, high=2**63)
        digest = _digest(self._detector, n_seen, free_ids, ids, widths, rows)
        # Compiled code goes by all of these without looking.
        if (
            digest != state["digest"]
            or state["params"] != self._detector.params
            or not np.isin(widths, self._widths).all()
            or (len(widths), len(rows)) != (len(ids), widths.sum())
            or not _are_all(np.concatenate([free_ids, ids]))
        ):
            raise ValueError(_DAMAGED)
        self._free_ids = free_ids
        self._slots = np.full(len(ids) + len(free_ids), _ABSENT)
        which = np.searchsorted(self._widths, widths)
        self._reserve(int(self._lines[which].sum()))
        _scatter(self._arena, self._slots, ids, which, widths, self._lines, rows, self._end)
        return self

    def _known(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Ids as an array.

        Raises:
            ValueError: it is not one of whole numbers in one dimension, or there is no such id.
        """
        array = np.asarray(ids)
        if array.ndim != 1 or (array.dtype.kind not in "iu" and len(array)):
            raise ValueError(
                f"ids are a one-dimensional array of whole numbers, got {array.dtype} "
                f"of shape {array.shape}"
            )
        # A copy, which no other thread can change once it is checked.
        known = np.array(array, dtype=np.int64, order="C")
        position = _first_unknown(self._slots, known)
        if position >= 0:
            raise ValueError(f"no detector {known[position]} at position {position} of the ids")
        return known

    def _reserve(self, n_lines: int) -> None:
        """Make room for so many lines more."""
        used = int(self._end[0]) * _LINE
        wanted = used + n_lines * _LINE
        if wanted > len(self._arena):
            # In steps of a half, but not when a bank is made.
            larger = _aligned(max(wanted, used * 3 // 2))
            larger[:used] = self._arena[:used]
            self._arena = larger


def _aligned(n: int) -> NDArray[np.float64]:
    """Return an array whose first number is the first in a cache line."""
    array = np.empty(n + _LINE)
    skipped = -(array.ctypes.data // array.itemsize) % _LINE
    return array[skipped : skipped + n]


def _are_all(ids: NDArray[np.int64]) -> bool:
    """Return whether these are the numbers from 0 on, in any order."""
    return bool((np.sort(ids) == np.arange(len(ids))).all())


def _digest(detector: RowDetector, n_seen: int, *arrays: NDArray[Any]) -> str:
    """Of the rows, and of all that says what the numbers in them mean."""
    shapes = [array.shape for array in arrays]
    meaning = [detector.kind, detector.row_format, detector.params, n_seen, shapes]
    found = hashlib.blake2b(json.dumps(meaning, sort_keys=True).encode(), digest_size=16)
    for array in arrays:
        found.update(array.data)
    return found.hexdigest()


def _columns(
    start: int,
    ids: NDArray[np.int64],
    at: NDArray[np.int64],
    seen: NDArray[np.int64],
    kinds: NDArray[np.int8],
    found: NDArray[np.float64],
) -> BankAlarms:
    return BankAlarms(
        position=at + start,
        id=ids[at],
        index=seen - 1,
        kind=_KINDS[kinds],
        direction=_DIRECTIONS[found[:, DIRECTION].astype(np.int8)],
        statistic=found[:, STATISTIC].copy(),
        threshold=found[:, THRESHOLD].copy(),
        mean_before=found[:, MEAN_BEFORE].copy(),
        mean_after=found[:, MEAN_AFTER].copy(),
        onset=seen - found[:, N_AFTER].astype(np.int64),
    )


def _fetching(typingctx: Any, array: Any, position: Any) -> Any:
    del typingctx, position

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        address = builder.bitcast(builder.gep(data, [args[1]]), cgutils.voidptr_t)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # To be written; to be kept in all caches; data.
        builder.call(function, [address, number(1), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


# `_prefetch(array, position)` has the processor fetch the cache line that `array[position]` is in.
_prefetch: Callable[..., None] = intrinsic(_fetching)


@compiled
def _copy(source: NDArray[np.float64], i: int, target: NDArray[np.float64], j: int, n: int) -> None:
    for k in range(n):
        target[j + k] = source[i + k]


@compiled
def _taken(
    c: int,
    arena: NDArray[np.float64],
    lines: NDArray[np.int64],
    free: NDArray[np.int64],
    end: NDArray[np.int64],
) -> int:
    """Return the line of a free row of width number `c`, -1 where there is no room."""
    line = free[c, 0]
    if line >= 0:
        free[c, 0] = np.int64(arena[line * _LINE])
        free[c, 1] -= 1
        return int(line)
    line = end[0]
    if (line + lines[c]) * _LINE > len(arena):
        return -1
    end[0] += lines[c]
    return int(line)


@compiled
def _freed(c: int, line: int, arena: NDArray[np.float64], free: NDArray[np.int64]) -> None:
    arena[line * _LINE] = free[c, 0]
    free[c, 0] = line
    free[c, 1] += 1


@compiled
def _place(
    arena: NDArray[np.float64],
    slots: NDArray[np.int64],
    ids: NDArray[np.int64],
    row: NDArray[np.float64],
    lines: NDArray[np.int64],
    free: NDArray[np.int64],
    end: NDArray[np.int64],
) -> None:
    """Give each of `ids` a narrow row like `row`."""
    for id_ in ids:
        line = _taken(0, arena, lines, free, end)
        _copy(row, 0, arena, line * _LINE, len(row))
        slots[id_] = line << _WIDTH_BITS


@compiled
def _moved(
    id_: int,
    arena: NDArray[np.float64],
    slots: NDArray[np.int64],
    widths: NDArray[np.int64],
    lines: NDArray[np.int64],
    free: NDArray[np.int64],
    end: NDArray[np.int64],
) -> bool:
    """Move a detector to a row of the next width, where there is room."""
    slot = slots[id_]
    old, c = slot >> _WIDTH_BITS, slot & (1 << _WIDTH_BITS) - 1
    new = _taken(c + 1, arena, lines, free, end)
    if new < 0:
        return False
    source, target = old * _LINE, new * _LINE
    _copy(arena, source, arena, target, widths[c])
    arena[target + widths[c] : target + widths[c + 1]] = 0
    _freed(c, old, arena, free)
    slots[id_] = new << _WIDTH_BITS | c + 1
    return True


@cache
def _updating(loops: Loops) -> Callable[..., tuple[int, int]]:
    """Return the loop over (id, value) for the step of others.

    It returns how many values have been taken, not all where there was no room for a wider row,
    and how many alarms there have been.
    """
    step = loops.step

    def update(
        arena: NDArray[np.float64],
        slots: NDArray[np.int64],
        ids: NDArray[np.int64],
        xs: NDArray[np.float64],
        now: float,
        i: int,
        n: int,
        params: NDArray[np.float64],
        widths: NDArray[np.int64],
        lines: NDArray[np.int64],
        free: NDArray[np.int64],
        end: NDArray[np.int64],
        at: NDArray[np.int64],
        seen: NDArray[np.int64],
        kinds: NDArray[np.int8],
        found: NDArray[np.float64],
    ) -> tuple[int, int]:
        last = len(ids) - 1
        while i < len(ids):
            ahead = (slots[ids[min(i + _AHEAD, last)]] >> _WIDTH_BITS) * _LINE
            for line in range(_LINES_AHEAD):
                _prefetch(arena, ahead + line * _LINE)
            slot = slots[ids[i]]
            first, c = (slot >> _WIDTH_BITS) * _LINE, slot & (1 << _WIDTH_BITS) - 1
            row = arena[first + 1 : first + widths[c]]
            row[0] += 1
            kind = step(row, xs[i], params, found[n])
            if kind == GROW:
                row[0] -= 1
                if not _moved(ids[i], arena, slots, widths, lines, free, end):
                    break
                continue
            arena[first] = now
            if kind != NOTHING:
                at[n] = i
                seen[n] = np.int64(row[0])
                kinds[n] = kind
                n += 1
            i += 1
        return i, n

    return compiled(update)


@compiled
def _first_unknown(slots: NDArray[np.int64], ids: NDArray[np.int64]) -> int:
    """Position of the first id without a detector, -1 for none."""
    for i in range(len(ids)):
        if not 0 <= ids[i] < len(slots) or slots[ids[i]] < 0:
            return i
    return -1


@compiled_making
def _idle(arena: NDArray[np.float64], slots: NDArray[np.int64], before: float) -> NDArray[np.int64]:
    found = np.empty(len(slots), dtype=np.int64)
    n = 0
    for id_ in range(len(slots)):
        if slots[id_] >= 0 and arena[(slots[id_] >> _WIDTH_BITS) * _LINE] < before:
            found[n] = id_
            n += 1
    return found[:n]


@compiled
def _remove(
    arena: NDArray[np.float64],
    slots: NDArray[np.int64],
    ids: NDArray[np.int64],
    free: NDArray[np.int64],
) -> None:
    for id_ in ids:
        _freed(slots[id_] & (1 << _WIDTH_BITS) - 1, slots[id_] >> _WIDTH_BITS, arena, free)
        slots[id_] = _ABSENT


@compiled
def _rebaseline(
    arena: NDArray[np.float64],
    slots: NDArray[np.int64],
    ids: NDArray[np.int64],
    baseline: NDArray[np.float64],
    widths: NDArray[np.int64],
) -> None:
    for id_ in ids:
        first = (slots[id_] >> _WIDTH_BITS) * _LINE + 2
        _copy(baseline, 0, arena, first, len(baseline))
        rest = widths[slots[id_] & (1 << _WIDTH_BITS) - 1] - 2
        arena[first + len(baseline) : first + rest] = 0


@compiled_making
def _gathered(
    arena: NDArray[np.float64],
    slots: NDArray[np.int64],
    ids: NDArray[np.int64],
    widths: NDArray[np.int64],
) -> NDArray[np.float64]:
    rows = np.empty(widths.sum())
    start = 0
    for id_, width in zip(ids, widths):  # noqa: B905 - numba knows no `strict`
        _copy(arena, (slots[id_] >> _WIDTH_BITS) * _LINE, rows, start, width)
        start += width
    return rows


@compiled
def _scatter(
    arena: NDArray[np.float64],
    slots: NDArray[np.int64],
    ids: NDArray[np.int64],
    which: NDArray[np.int64],
    widths: NDArray[np.int64],
    lines: NDArray[np.int64],
    rows: NDArray[np.float64],
    end: NDArray[np.int64],
) -> None:
    start = 0
    for i in range(len(ids)):
        _copy(rows, start, arena, end[0] * _LINE, widths[i])
        slots[ids[i]] = end[0] << _WIDTH_BITS | which[i]
        end[0] += lines[which[i]]
        start += widths[i]
