"""The named points of take-over and commit, and the files by which harness and workers speak."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import signal
    from pathlib import Path

EVENTS = "events.jsonl"
ARMED = "armed.json"

TAKE_OVER_POINTS = ("before_init", "after_init", "after_restore")
COMMIT_POINTS = (
    "before_begin",
    "after_begin",
    "between_parts",
    "after_send",
    "after_resolve",
    "before_commit",
    "after_commit",
)


class Event(NamedTuple):
    """Something that a worker has noted."""

    time: float
    worker: str
    pid: int
    event: str
    partition: int | None
    sequence: int | None = None
    point: str | None = None


class EventLog:
    """What the workers of a run have noted so far, in the order in which they did."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / EVENTS
        self._path.touch()
        self._place = 0
        self._events: list[Event] = []

    def events(self) -> list[Event]:
        with self._path.open("rb") as file:
            file.seek(self._place)
            # The last line may not be whole yet.
            lines, newline, _ = file.read().rpartition(b"\n")
        self._place += len(lines) + len(newline)
        self._events += [Event(**json.loads(line)) for line in lines.splitlines()]
        return self._events

    def owners(self) -> dict[int, Event]:
        """For each partition the take-over by its last owner, unless that has given it up."""
        owners: dict[int, Event] = {}
        for event in self.events():
            if event.event == "taken":
                owners[event.partition] = event
            elif event.event == "lost" and owners.get(event.partition, event).pid == event.pid:
                owners.pop(event.partition, None)
        return owners

    def owned_by(self, worker: str) -> set[int]:
        return {p for p, event in self.owners().items() if event.worker == worker}

    def next_commits(self, since: float, *, not_by: int = 0) -> dict[int, float]:
        """For each partition when it was first committed after a moment, by any other process."""
        found: dict[int, float] = {}
        for event in reversed(self.events()):
            if event.time <= since:
                break
            if event.event == "committed" and event.pid != not_by:
                found[event.partition] = event.time
        return found

    def fault_after(self, since: float) -> Event | None:
        """The armed point that was reached after a moment."""
        for event in reversed(self.events()):
            if event.time <= since:
                return None
            if event.event == "fault":
                return event
        return None


def arm(
    folder: Path,
    point: str,
    number: signal.Signals,
    *,
    worker: str | None = None,
    partition: int | None = None,
) -> None:
    """Have the first worker that comes to a point send itself a signal there."""
    armed = {"point": point, "signal": int(number), "worker": worker, "partition": partition}
    draft = folder / f"{ARMED}.draft"
    draft.write_text(json.dumps(armed))
    draft.rename(folder / ARMED)


def disarm(folder: Path) -> bool:
    """Whether nobody has come to the armed point yet; nobody will now."""
    try:
        (folder / ARMED).unlink()
    except FileNotFoundError:
        return False
    return True
