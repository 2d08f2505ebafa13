"""The join: predictions wait for their labels, labels that came first wait for their predictions.

One `ModelJoin` serves one model of one partition. Every decision becomes a change (see
join_changes.py) that is applied at once and kept until the next commit, so that a commit writes
what changed and not the whole buffer, and a restored join is the same whatever the configuration is
by then.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from streamgauge.stream.join_changes import (
    EarlyLabel,
    Expire,
    Forget,
    Hold,
    Keep,
    Mark,
    Match,
    Orphan,
    PendingPrediction,
    Release,
    Wait,
    WaitEarly,
)
from streamgauge.stream.outcomes import Outcome, same_value
from streamgauge.stream.totals import JoinCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from streamgauge.stream.config import JoinSettings
    from streamgauge.stream.events import Label, Prediction, Value
    from streamgauge.stream.join_changes import JoinChange

# Ages are checked once in this many steps of the age, not at each event.
_SWEEPS_PER_AGE = 64
# When a full buffer must make room it drops this share at once, so that dropping stays cheap.
_DROP_SHARE = 100


class ModelJoin:
    """Predictions and labels of one model in, outcomes out.

    Memory is bounded by `config`'s entry counts; time per event is constant on average.

    Args:
        model: the model's name.
        config: bounds and label maturity.
        keep_features: whether outcomes carry the features; they are the bulk of the memory.
    """

    def __init__(self, model: str, config: JoinSettings, *, keep_features: bool = False) -> None:
        self.model = model
        self.counts = JoinCounts()
        self._config = config
        self._keep_features = keep_features
        self._pending: dict[str, PendingPrediction] = {}
        self._early: dict[str, EarlyLabel] = {}
        self._joined: dict[str, Value] = {}
        self._held: list[tuple[int, int, Outcome]] = []
        self._held_seq = 0
        self._watermark_ms = 0
        self._sweep_ms = 0
        self._changes: list[JoinChange] = []

    @property
    def n_pending(self) -> int:
        """Predictions that wait for their label."""
        return len(self._pending)

    @property
    def watermark_ms(self) -> int:
        """The latest event time seen."""
        return self._watermark_ms

    @property
    def n_early(self) -> int:
        """Labels that wait for their prediction."""
        return len(self._early)

    @property
    def n_held(self) -> int:
        """Outcomes that wait for label maturity."""
        return len(self._held)

    @property
    def over_at_ms(self) -> int:
        """Event time from which nothing that waits here can be joined any more.

        0 where nothing but labels has come: there may be no such model.
        """
        if not (self.counts.n_predictions or self.counts.n_outcomes or self._held):
            return 0
        config = self._config
        return self._watermark_ms + max(config.pending_age, config.early_age, config.label_maturity)

    def close(self, out: list[Outcome]) -> None:
        """Let go of all that waits: release what is held, count the rest as dropped."""
        released = [heappop(self._held)[2] for _ in range(len(self._held))]
        self.counts.n_outcomes += len(released)
        out.extend(released)
        self._change(Expire(len(self._pending)))
        self._change(Orphan(len(self._early)))

    def waiting(self, prediction_id: str) -> PendingPrediction | None:
        """Return the prediction that waits for the label of this id, None where there is none."""
        return self._pending.get(prediction_id)

    def add_prediction(self, event: Prediction, offset: int, out: list[Outcome]) -> None:
        """Take a prediction; append the outcomes it completes or releases to `out`."""
        self.counts.n_predictions += 1
        key = event.prediction_id
        timestamp_ms = event.timestamp_ms
        if key in self._pending or key in self._joined:
            self.counts.n_duplicate_predictions += 1
        else:
            pending = PendingPrediction(
                event.version,
                event.prediction,
                event.probability,
                event.features if self._keep_features else None,
                event.task,
                timestamp_ms,
                offset,
            )
            early = self._early.get(key)
            if early is None:
                self._change(Wait(key, pending))
                if len(self._pending) > self._config.pending_max:
                    self._change(Expire(_n_to_drop(self._pending, self._config.pending_max)))
            else:
                self._complete(key, pending, early, out)
        self._advance(timestamp_ms, out)

    def add_label(self, event: Label, offset: int, out: list[Outcome]) -> None:
        """Take a label; append the outcomes it completes or releases to `out`."""
        self.counts.n_labels += 1
        key = event.prediction_id
        timestamp_ms = event.timestamp_ms
        first = self._joined.get(key)
        if first is None and (waiting := self._early.get(key)) is not None:
            first = waiting.y_true
        if first is not None:
            if same_value(first, event.label):
                self.counts.n_duplicate += 1
            else:
                self.counts.n_correction += 1
        else:
            early = EarlyLabel(
                event.label,
                event.features if self._keep_features else None,
                timestamp_ms,
                offset,
            )
            pending = self._pending.get(key) or self._carried(event, timestamp_ms)
            if pending is not None:
                self._complete(key, pending, early, out)
            else:
                self._wait_early(key, early)
        self._advance(timestamp_ms, out)

    def _carried(self, event: Label, timestamp_ms: int) -> PendingPrediction | None:
        if event.prediction is None or event.version is None:
            return None
        predicted_ms = event.timestamp_predicted_ms
        return PendingPrediction(
            event.version,
            event.prediction,
            event.probability,
            None,
            event.task,
            timestamp_ms if predicted_ms is None else predicted_ms,
            -1,
        )

    def _wait_early(self, key: str, early: EarlyLabel) -> None:
        limit = self._config.early_max
        self._change(WaitEarly(key, early))
        if len(self._early) > limit:
            self._change(Orphan(_n_to_drop(self._early, limit)))

    def _complete(
        self, key: str, pending: PendingPrediction, early: EarlyLabel, out: list[Outcome]
    ) -> None:
        self._change(Match(key, early.y_true))
        if len(self._joined) > self._config.joined_max:
            self._change(Forget(_n_to_drop(self._joined, self._config.joined_max)))
        outcome = Outcome(
            pending.version,
            early.y_true,
            pending.y_pred,
            pending.probability,
            pending.features or early.features,
            pending.task,
            pending.predicted_ms,
            early.timestamp_ms,
            None if pending.offset < 0 else pending.offset,
            early.offset,
        )
        if self._config.label_maturity or self._held:
            self._change(Hold(outcome))
        else:
            self.counts.n_outcomes += 1
            out.append(outcome)

    def _advance(self, timestamp_ms: int, out: list[Outcome]) -> None:
        """Move the watermark; release what has matured or is too much, drop what is too old."""
        advanced = timestamp_ms > self._watermark_ms
        if advanced:
            self._watermark_ms = timestamp_ms
        if self._held:
            self._release(out)
        if advanced and timestamp_ms >= self._sweep_ms:
            self._sweep()

    def _release(self, out: list[Outcome]) -> None:
        mature_ms = self._watermark_ms - self._config.label_maturity
        n_before = len(out)
        out.extend(self._mature(mature_ms))
        while len(self._held) > self._config.held_max:
            self.counts.n_released_early += 1
            out.append(heappop(self._held)[2])
        n_released = len(out) - n_before
        if n_released:
            self.counts.n_outcomes += n_released
            # Popped already: logged for a restored join to pop as many.
            self._changes.append(Release(n_released))

    def _mature(self, mature_ms: int) -> Iterable[Outcome]:
        while self._held and self._held[0][0] <= mature_ms:
            yield heappop(self._held)[2]

    def _sweep(self) -> None:
        config = self._config
        self._sweep_ms = self._watermark_ms + max(
            1, min(config.pending_age, config.early_age) // _SWEEPS_PER_AGE
        )
        oldest_ms = self._watermark_ms - config.pending_age
        n_expired = _count_while(p.predicted_ms < oldest_ms for p in self._pending.values())
        if n_expired:
            self._change(Expire(n_expired))
        oldest_ms = self._watermark_ms - config.early_age
        n_orphaned = _count_while(e.timestamp_ms < oldest_ms for e in self._early.values())
        if n_orphaned:
            self._change(Orphan(n_orphaned))

    def _change(self, change: JoinChange) -> None:
        self._changes.append(change)
        self._apply(change)

    def _apply(self, change: JoinChange) -> None:
        """Do what a change says; the only place that touches the buffers."""
        if type(change) is Wait:
            self._pending[change.key] = change.pending
        elif type(change) is Match:
            self._pending.pop(change.key, None)
            self._early.pop(change.key, None)
            self._joined[change.key] = change.y_true
        elif type(change) is WaitEarly:
            self._early[change.key] = change.early
        elif type(change) is Expire:
            self.counts.n_expired += change.n
            _drop_oldest(self._pending, change.n)
        elif type(change) is Orphan:
            self.counts.n_orphaned += change.n
            _drop_oldest(self._early, change.n)
        elif type(change) is Forget:
            _drop_oldest(self._joined, change.n)
        elif type(change) is Mark:
            self._watermark_ms, self._sweep_ms = change.watermark_ms, change.sweep_ms
            self._held_seq, self.counts = change.held_seq, change.counts
        else:
            self._apply_to_held(change)

    def _apply_to_held(self, change: JoinChange) -> None:
        if type(change) is Hold:
            outcome = change.outcome
            heappush(self._held, (outcome.predicted_ms, self._held_seq, outcome))
            self._held_seq += 1
        elif type(change) is Release:
            for _ in range(change.n):
                heappop(self._held)
        elif type(change) is Keep:
            outcome = change.outcome
            heappush(self._held, (outcome.predicted_ms, change.seq, outcome))

    def drain_changes(self) -> list[JoinChange]:
        """Return what has changed since the last call; the last is a mark of all else."""
        changes, self._changes = self._changes, []
        changes.append(self._mark())
        return changes

    def entries(self) -> Iterator[JoinChange]:
        """Return changes that make a new join what this one is; take them before the next event."""
        yield from (Match(key, y_true) for key, y_true in self._joined.items())
        yield from (WaitEarly(key, early) for key, early in self._early.items())
        yield from (Wait(key, pending) for key, pending in self._pending.items())
        # Sorted, for a heap's order tells how it came about.
        yield from (Keep(seq, outcome) for _, seq, outcome in sorted(self._held))
        yield self._mark()

    def _mark(self) -> Mark:
        counts = replace(self.counts)
        return Mark(self._watermark_ms, self._sweep_ms, self._held_seq, counts)

    def redo(self, changes: Iterable[JoinChange]) -> None:
        """Apply what `entries` and then `drain_changes` gave, in order."""
        for change in changes:
            self._apply(change)


def _count_while(old: Iterable[bool]) -> int:
    n = 0
    for is_old in old:
        if not is_old:
            break
        n += 1
    return n


def _n_to_drop(entries: dict[str, Any], limit: int) -> int:
    return len(entries) - limit + limit // _DROP_SHARE


def _drop_oldest(entries: dict[str, Any], n: int) -> None:
    for key in list(islice(entries, n)):
        del entries[key]
