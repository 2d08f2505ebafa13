"""The results as tables, and whether the promises held."""

from __future__ import annotations

from dataclasses import dataclass

from tests.quality.contestants import CONTESTANTS
from tests.quality.measures import FalseAlarms, most_alarms
from tests.quality.plot import plot
from tests.quality.prequential import STREAMS
from tests.quality.streams import CHANGES, SOURCES

BEGIN, END = "<!-- written by `make quality`: begin -->", "<!-- written by `make quality`: end -->"

PREQUENTIAL = ("false per 100 k", "delay", "accuracy")


@dataclass(frozen=True)
class Verdict:
    """Whether a detector kept what it promises on one source."""

    measured: FalseAlarms
    false_alarm_every: float

    @property
    def holds(self):
        most = most_alarms(self.measured.n_values, self.false_alarm_every)
        return self.measured.n_alarms <= most

    def __str__(self):
        m = self.measured
        most = most_alarms(m.n_values, self.false_alarm_every)
        return (
            f"{m.detector} on {m.source}: {m.n_alarms} false alarms in {m.n_values:,} values, "
            f"{m.per_100k:.2f} per 100 k; at most {most} are allowed"
        )


def guarantees(all_measured, contestants=CONTESTANTS, sources=SOURCES):
    """A verdict for each measurement about which something is promised."""
    by_name = {source.name: source for source in sources}
    for measured in all_measured:
        contestant = contestants[measured.detector]
        if contestant.promises(by_name[measured.source]):
            yield Verdict(measured, contestant.false_alarm_every)


def tables(results):
    """What was measured, and three tables of it, in Markdown."""
    measured = {r.detector for r in (*results.false_alarms, *results.delays, *results.prequential)}
    names = [name for name in CONTESTANTS if name in measured]
    about = results.about
    return "\n".join(
        [
            f"{about['machine']}; {about['versions']}; `{about['command']}`, {about['minutes']} min.",
            "",
            "### False alarms per 100,000 values where nothing changes",
            "",
            *_table(
                ["detector", *(source.name for source in SOURCES), "values"],
                [_false_alarms_row(results, name) for name in names],
            ),
            "",
            "### Values until the alarm, median / 90 %",
            "",
            *_table(
                ["detector", *(change.name for change in CHANGES)],
                [_delays_row(results, name) for name in names],
            ),
            "",
            "### A Hoeffding tree that is reset on alarm",
            "",
            *_table(
                ["detector", *(f"{stream}: {what}" for stream in STREAMS for what in PREQUENTIAL)],
                [_prequential_row(results, name) for name in names if name in _scored(results)],
            ),
        ]
    )


def _scored(results):
    return {found.detector for found in results.prequential}


def _table(head, rows):
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _false_alarms_row(results, name):
    found = [results.false_alarms_of(name, source.name) for source in SOURCES]
    most = max((m.n_values for m in found if m), default=0)
    cells = ["" if m is None else _figures(m.per_100k) for m in found]
    return [name, *cells, f"{most / 1e6:g} M"]


def _figures(number):
    return f"{number:.2f}" if number < 10 else f"{number:,.0f}"


def _delays_row(results, name):
    found = [results.delays_of(name, change.name) for change in CHANGES]
    return [name, *("" if d is None else _delay(d) for d in found)]


def _delay(delays):
    def shown(q):
        delay = delays.quantile(q)
        return "never" if delay is None else f"{delay:,}"

    missed = f" ({delays.missed:.0%} missed)" if delays.missed else ""
    return f"{shown(0.5)} / {shown(0.9)}{missed}" if delays.missed < 1 else "never"


def _prequential_row(results, name):
    cells = [name]
    for stream in STREAMS:
        found = results.prequential_of(name, stream)
        if found is None:
            cells += [""] * len(PREQUENTIAL)
        else:
            cells += [_figures(found.per_100k), _delay(found.delays), f"{found.accuracy:.1%}"]
    return cells


def write(folder, results):
    """Put the tables between the marks in detectors.md, and the plot beside it."""
    page = folder / "detectors.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{page} lacks the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{tables(results)}\n{END}{after}", encoding="utf-8")
    plot(results, folder / "detectors.svg")
