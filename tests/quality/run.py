"""How often detectors alarm for nothing, and how soon when there is something.

Run `python -m tests.quality.run`; `--help` lists the options. It writes its tables into
docs/detectors.md and its plot beside it. With `--short` it writes nothing, and its status is 1
where a promised false-alarm rate is broken.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console
from rich.progress import track

from tests.bench.measuring import describe
from tests.quality import measures
from tests.quality.contestants import CONTESTANTS
from tests.quality.prequential import STREAMS, prequential
from tests.quality.report import guarantees, write
from tests.quality.results import Results
from tests.quality.streams import CHANGES, SOURCES

DOCS = Path(__file__).parents[2] / "docs"
# What the short form measures on.
SHORT_SOURCES = [
    "errors .01",
    "errors .2",
    "errors .5",
    "Beta(8,32)",
    "t(2.5)",
    "errors .2, rho .3",
]


def measure_false_alarms(name, source_name, options):
    contestant = CONTESTANTS[name]
    source = next(source for source in SOURCES if source.name == source_name)
    n = int(min(options.values, contestant.most[0]))
    return measures.false_alarms(contestant.detector(source), name, source, n, options.seed)


def measure_delays(name, change_name, options):
    contestant = CONTESTANTS[name]
    change = next(change for change in CHANGES if change.name == change_name)
    n = int(min(options.changes, contestant.most[1]))
    return measures.delays(
        lambda: contestant.detector(change.before),
        name,
        change,
        n,
        options.before,
        options.horizon,
        options.seed,
    )


def measure_prequential(name, stream_name, options):
    return prequential(
        CONTESTANTS[name],
        stream_name,
        options.prequential_seeds,
        options.concepts,
        options.seed,
    )


PARTS = {
    "false-alarms": measure_false_alarms,
    "delays": measure_delays,
    "prequential": measure_prequential,
}


def jobs(options):
    """What is to be measured, the longest first: function, detector, stream."""
    return sorted(_jobs(options), key=lambda job: job[0] is not measure_prequential)


def _jobs(options):
    for name in options.only or CONTESTANTS:
        contestant = CONTESTANTS[name]
        streams = {
            "false-alarms": [s.name for s in SOURCES if contestant.fits(s)],
            "delays": [c.name for c in CHANGES if contestant.fits(c.before)],
            "prequential": list(STREAMS) if contestant.scores_errors else [],
        }
        if options.short:
            is_promise = contestant.false_alarm_every is not None
            its = SHORT_SOURCES if is_promise else []
            streams = {"false-alarms": [s for s in streams["false-alarms"] if s in its]}
        for part in set(options.parts) & set(streams):
            yield from ((PARTS[part], name, stream) for stream in streams[part])


def measure(todo, options, console):
    # Not forked: the Java machine of CapyMOA and numba's threads would not survive it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        futures = [pool.submit(function, *names, options) for function, *names in todo]
        done = track(as_completed(futures), total=len(todo), console=console, transient=True)
        yield from (future.result() for future in done)


def arguments_of(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=int, help="stationary values for each detector and source")
    parser.add_argument("--changes", type=int, default=500, help="repeats of each change")
    parser.add_argument("--before", type=int, default=10_000, help="values before a change")
    parser.add_argument("--horizon", type=int, default=20_000, help="values after it")
    parser.add_argument("--concepts", type=int, default=5, help="of 20,000 values, in SINE1, MIXED")
    parser.add_argument("--prequential-seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=CONTESTANTS, help="detectors", metavar="NAME")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="of it all")
    parser.add_argument(
        "--short", action="store_true", help="only what is promised; writes nothing"
    )
    parser.add_argument("--keep", type=Path, help="keep what is found in this file, as it is found")
    parser.add_argument(
        "--again", type=Path, nargs="*", help="measure nothing; write what --keep has kept"
    )
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder to write to")
    options = parser.parse_args(argv)
    options.values = options.values or (2_000_000 if options.short else 20_000_000)
    return options


def main(argv):
    options = arguments_of(argv)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if options.again:
        results = Results.load(*options.again)
    else:
        results = Results(describe("tests.quality.run", argv, ("river", "numba", "numpy")))
        start_s = time.perf_counter()
        for measured in measure(jobs(options), options, console):
            results.add(measured)
            results.about["minutes"] = f"{(time.perf_counter() - start_s) / 60:.1f}"
            if options.keep:
                results.save(options.keep)
    for name, text in results.about.items():
        console.print(f"{name}: {text}", style="dim")
    verdicts = list(guarantees(results.false_alarms))
    for verdict in verdicts:
        print(f"{'holds ' if verdict.holds else 'BROKEN'} {verdict}")
    if not options.short:
        write(options.docs, results)
    return 0 if all(verdict.holds for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
