"""A signal: a series of numbers in [0, 1] about one model version, and the detectors on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from detectors import detector_from_state, make_detector

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from detectors import Alarm, Detector
    from stream.config import DetectorConfig


@dataclass(frozen=True, slots=True)
class Found:
    """An alarm of one detector; `index` and `onset` are outcome indices."""

    index: int
    onset: int
    signal: str
    detector: str
    alarm: Alarm


class Signal:
    """The detectors of one signal.

    Args:
        name: the signal's name.
        configs: every detector of the model by name; those of other signals are left out.
    """

    def __init__(self, name: str, configs: Mapping[str, DetectorConfig]) -> None:
        self.name = name
        self._configs = {key: c for key, c in configs.items() if c.signal == name}
        self._detectors: dict[str, Detector] = {
            key: make_detector(c.kind, c.params) for key, c in self._configs.items()
        }
        self._n = 0
        self._total = 0.0

    def update(self, values: NDArray[np.float64], start: int) -> list[Found]:
        """Take the values of the outcomes from `start` on; NaN means that there is none.

        Returns:
            The alarms, by outcome index, then by detector in the configuration's order.
        """
        present = np.flatnonzero(np.isfinite(values))
        values = values[present]
        for value in values.tolist():
            self._total += value
        self._n += len(values)
        found = []
        for name, detector in self._detectors.items():
            before = detector.n_seen
            for alarm in detector.update_many(values):
                index = start + int(present[alarm.index - before])
                onset = max(0, index - (alarm.index - alarm.onset))
                found.append(Found(index, onset, self.name, name, alarm))
        found.sort(key=lambda item: item.index)
        return found

    def rebaseline(self, names: Iterable[str]) -> None:
        """Give those of the named detectors that are on this signal a new baseline."""
        for name in names:
            if name in self._detectors:
                self._detectors[name].rebaseline()

    def readings(self) -> dict[str, float]:
        """The signal's mean and each detector's numbers, by `<detector>.<reading>`."""
        values = {"mean": self._total / self._n} if self._n else {}
        for name, detector in self._detectors.items():
            for key, value in detector.readings().items():
                values[f"{name}.{key}"] = value
        return values

    def state(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {
            "n": self._n,
            "total": self._total,
            "detectors": {
                name: [c.kind, c.params, self._detectors[name].state()]
                for name, c in self._configs.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> list[str]:
        """Become what `state()` described; the names of detectors that had to start afresh.

        A detector that is configured otherwise than its state, or whose state this version
        cannot read, starts afresh.
        """
        self._n, self._total = state["n"], state["total"]
        afresh = []
        for name, config in self._configs.items():
            kind, params, stored = state["detectors"].get(name, (None, None, None))
            if (kind, params) != (config.kind, config.params):
                afresh.append(name)
                continue
            try:
                self._detectors[name] = detector_from_state(stored)
            except ValueError:
                afresh.append(name)
        return afresh
