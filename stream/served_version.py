"""The version of a model that is served: the one that may ask for a retrain."""

from __future__ import annotations

from heapq import heappush, heappushpop

from msgspec import Struct

_LATEST = 100
_TAKES_OVER = 75


class ServedVersionState(Struct, array_like=True):
    """All that `ServedVersion` remembers; `latest` is a heap of (event time, number, version)."""

    served: str = ""
    n_seen: int = 0
    latest: list[tuple[int, int, str]] = []


class ServedVersion:
    """The served version, told by the predictions: their versions, and when they were made.

    The first version is served until another one has made 75 of the model's 100 latest
    predictions. Latest is by event time, and by arrival where that is equal. So

    - a stray version, a typo or a canary takes nothing over, however long it lasts;
    - a roll-out and a roll-back count when most of the traffic has moved, and a version that
      keeps a small share of it does not come back;
    - of two versions that share the traffic evenly the earlier one stays: one change is asked
      for once, not for each of them;
    - late labels change nothing, those that carry their predictions neither: these were made
      before the latest.
    """

    def __init__(self, state: ServedVersionState | None = None) -> None:
        self._state = state or ServedVersionState()

    @property
    def served(self) -> str:
        """The served version, empty before the first prediction."""
        return self._state.served

    def see(self, version: str, predicted_ms: int) -> bool:
        """Note a prediction; return whether its version is served now and was not before."""
        state = self._state
        state.n_seen += 1
        entry = (predicted_ms, state.n_seen, version)
        if len(state.latest) < _LATEST:
            heappush(state.latest, entry)
        else:
            heappushpop(state.latest, entry)
        if version == state.served:
            return False
        n_its_own = sum(name == version for _, _, name in state.latest)
        if state.served and n_its_own < _TAKES_OVER:
            return False
        state.served = version
        return True

    def state(self) -> ServedVersionState:
        """Return everything needed to go on."""
        return self._state
