"""Everything that one run measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from tests.quality.measures import Delays, FalseAlarms
from tests.quality.prequential import Prequential


@dataclass
class Results:
    """What was measured, and under which circumstances (`about`)."""

    about: dict[str, str]
    false_alarms: list[FalseAlarms] = field(default_factory=list)
    delays: list[Delays] = field(default_factory=list)
    prequential: list[Prequential] = field(default_factory=list)

    def add(self, measured):
        kinds = {
            FalseAlarms: self.false_alarms,
            Delays: self.delays,
            Prequential: self.prequential,
        }
        kinds[type(measured)].append(measured)

    def false_alarms_of(self, detector, source):
        for found in self.false_alarms:
            if (found.detector, found.source) == (detector, source):
                return found
        return None

    def delays_of(self, detector, change):
        for found in self.delays:
            if (found.detector, found.change) == (detector, change):
                return found
        return None

    def prequential_of(self, detector, stream):
        for found in self.prequential:
            if (found.detector, found.stream) == (detector, stream):
                return found
        return None

    def save(self, path):
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, *paths):
        """What was kept, of several runs together on the same machine."""
        found = [cls._load(path) for path in paths]
        commands = [results.about["command"] for results in found]
        minutes = sum(float(results.about["minutes"]) for results in found)
        return cls(
            found[0].about | {"command": "; ".join(commands), "minutes": f"{minutes:.1f}"},
            [row for results in found for row in results.false_alarms],
            [row for results in found for row in results.delays],
            [row for results in found for row in results.prequential],
        )

    @classmethod
    def _load(cls, path):
        stored = json.loads(path.read_text(encoding="utf-8"))
        for row in stored["prequential"]:
            row["delays"] = Delays(**row["delays"])
        return cls(
            stored["about"],
            [FalseAlarms(**row) for row in stored["false_alarms"]],
            [Delays(**row) for row in stored["delays"]],
            [Prequential(**row) for row in stored["prequential"]],
        )
