"""A signal: a series of numbers in [0, 1] about one model version, and the detectors on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from streamgauge.detectors import DetectorError, detector_from_state, make_detector
from streamgauge.stream.signals.index_map import IndexMap
from streamgauge.stream.signals.names import CLOCKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from streamgauge.detectors import Alarm, Detector
    from streamgauge.stream.config import DetectorConfig
    from streamgauge.stream.outcomes import Outcome


class Source(Protocol):
    """Makes outcomes the values of a signal, in order."""

    def values(self, outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
        """Return a value in [0, 1] for each outcome, NaN where it has none; shape (n,)."""
        ...

    def readings(self) -> dict[str, float]:
        """Return what is to be published of the source itself, by name."""
        ...

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on, but for what is sealed and stored apart."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `state()` described."""
        ...


@dataclass(frozen=True, slots=True)
class SignalAlarm:
    """An alarm of one detector; `index` and `onset` are outcome indices."""

    index: int
    onset: int
    signal: str
    detector: str
    alarm: Alarm


@dataclass(frozen=True, slots=True)
class DetectorFailure:
    """A detector's failure on the value of an outcome, its `n`-th; it goes on without the value."""

    index: int
    signal: str
    detector: str
    detail: str
    n: int


class Signal:
    """A source of values and the detectors on it.

    Args:
        name: the signal's name, one of `signal_names`.
        configs: every detector of the model by name; those of other signals are left out.
        source: makes the values that `update` is to take.

    Attributes:
        clock: what it has a value for: each outcome, or each prediction.
    """

    def __init__(self, name: str, configs: Mapping[str, DetectorConfig], source: Source) -> None:
        self.name = name
        self.clock = CLOCKS[name]
        self.source = source
        # By name: their order in a file decides nothing.
        self._configs = {key: c for key, c in sorted(configs.items()) if c.signal == name}
        self._detectors: dict[str, Detector] = {
            key: make_detector(c.kind, c.params) for key, c in self._configs.items()
        }
        # Each its own: a value that a detector refuses is none of those that it counts.
        self._index_maps = {name: IndexMap() for name in self._configs}
        self._n_failed = dict.fromkeys(self._configs, 0)
        self._n = 0
        self._total = 0.0

    def update(
        self, values: NDArray[np.float64], start: int
    ) -> list[SignalAlarm | DetectorFailure]:
        """Take the values of the outcomes from `start` on; NaN means that there is none.

        A detector that breaks takes a new baseline, and a value that it refuses is not for it.

        Returns:
            The alarms, and the detectors' failures number 1, 2, 4, 8 and so on: one that always
            fails is no flood. By outcome index, then by the detector's name.
        """
        present = np.flatnonzero(np.isfinite(values))
        values = values[present]
        for value in values.tolist():
            self._total += value
        self._n += len(values)
        found: list[SignalAlarm | DetectorFailure] = []
        for name in self._detectors:
            found += self._take(name, values, present + start)
        found.sort(key=lambda item: item.index)
        return found

    def _take(
        self, name: str, values: NDArray[np.float64], outcomes: NDArray[np.int64]
    ) -> list[SignalAlarm | DetectorFailure]:
        """Feed one detector the values of these outcomes."""
        detector, index_map = self._detectors[name], self._index_maps[name]
        before = detector.n_seen
        results = _fed(detector, values)
        refused = [position for position, said in results if isinstance(said, Exception)]
        index_map.record(before, np.delete(outcomes, refused) if refused else outcomes)
        found: list[SignalAlarm | DetectorFailure] = []
        for position, said in results:
            index = int(outcomes[position])
            if isinstance(said, Exception):
                found.extend(self._failed(name, index, said))
                continue
            onset = index_map.outcome(said.onset, said.index)
            found.append(SignalAlarm(index, onset, self.name, name, said))
            if said.kind == "drift":
                index_map.drifted(said.index)
        return found

    def _failed(self, name: str, index: int, error: Exception) -> list[DetectorFailure]:
        self._n_failed[name] = n = self._n_failed[name] + 1
        is_power_of_two = n & (n - 1) == 0
        return [DetectorFailure(index, self.name, name, str(error), n)] if is_power_of_two else []

    def rebaseline(self, names: Iterable[str]) -> None:
        """Give those of the named detectors that are on this signal a new baseline."""
        for name in names:
            if name in self._detectors:
                self._detectors[name].rebaseline()

    def readings(self) -> dict[str, float]:
        """Return the mean, each detector's numbers by `<detector>.<reading>`, the source's own."""
        values = {"mean": self._total / self._n} if self._n else {}
        for name, detector in self._detectors.items():
            for key, value in detector.readings().items():
                values[f"{name}.{key}"] = value
            if self._n_failed[name]:
                values[f"{name}.n_failed"] = float(self._n_failed[name])
        values.update(self.source.readings())
        return values

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on."""
        return {
            "source": self.source.state(),
            "n": self._n,
            "total": self._total,
            "n_failed": self._n_failed,
            "detectors": {
                name: [c.kind, c.params, self._detectors[name].state()]
                for name, c in self._configs.items()
            },
            "index_maps": {
                name: index_map.state(self._detectors[name].n_seen)
                for name, index_map in self._index_maps.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> list[str]:
        """Become what `state()` described.

        Returns:
            The names of the detectors that start afresh: those that are configured otherwise than
            their state, or whose state this version cannot read. One that the state does not know
            is new, and not named.
        """
        self.source.restore(state["source"])
        self._n, self._total = state["n"], state["total"]
        afresh = []
        for name, config in self._configs.items():
            if name not in state["detectors"]:
                continue
            self._n_failed[name] = state["n_failed"].get(name, 0)
            kind, params, stored = state["detectors"][name]
            if kind != config.kind or not self._fits(name, params, stored):
                afresh.append(name)
                continue
            try:
                self._detectors[name] = detector_from_state(stored)
            except ValueError:
                afresh.append(name)
            else:
                self._index_maps[name] = IndexMap(state["index_maps"][name])
        return afresh

    def _fits(self, name: str, params: Mapping[str, Any], stored: Mapping[str, Any]) -> bool:
        """Return whether a stored detector has the configured parameters, written out or not."""
        resolved = self._detectors[name].state().get("params")
        return params == self._configs[name].params or resolved == stored.get("params")


def _fed(
    detector: Detector, values: NDArray[np.float64]
) -> list[tuple[int, Alarm | DetectorError | ValueError]]:
    """Feed a detector what it takes; return its alarms and failures by position in `values`."""
    said: list[tuple[int, Alarm | DetectorError | ValueError]] = []
    pieces = [(0, values)]
    while pieces:
        start, piece = pieces.pop()
        before = detector.n_seen
        try:
            alarms = detector.update_many(piece)
        except DetectorError as error:
            detector.rebaseline()
            stop = start + error.index - before
            said += ((start + alarm.index - before, alarm) for alarm in error.alarms)
            said.append((stop, error))
            pieces.append((stop + 1, values[stop + 1 : start + len(piece)]))
        except ValueError as error:
            # It has taken none. Halve, until the value that it refuses is alone.
            middle = len(piece) // 2
            if middle:
                pieces += [(start + middle, piece[middle:]), (start, piece[:middle])]
            else:
                said.append((start, error))
        else:
            said += ((start + alarm.index - before, alarm) for alarm in alarms)
    return said
