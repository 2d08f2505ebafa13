"""Faults of every kind against a live cluster; nothing is to be lost and nothing repeated.

`python -m tests.faults.run --faults 300 --seed 1`, or `make faults N=300 SEED=1`; with
`--controls` the negative controls instead.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import signal
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, NamedTuple

from kafka.errors import KafkaError

from streamgauge.consumers.broker import BrokerError
from tests.faults.kinds import all_kinds
from tests.faults.stage import CUT, SHRUNK, HarnessError, Stage, say
from tests.faults.truncation import check_truncated
from tests.support.kafka.cluster import Cluster, ClusterError
from tests.support.kafka.proxy import FaultProxy
from tests.support.processes import heed_interrupts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.faults.kinds import Kind
    from tests.faults.oracle import Verdict

RECOVERY_TIMEOUT_S = 120.0
CHARTS_FROM = 50
SECOND_FAULT = 0.12  # how often another fault strikes before the first one is recovered from


class Struck(NamedTuple):
    """One fault, and how long it took until the partitions concerned were committed again."""

    kind: str
    recovery_s: float | None


class Outcome(NamedTuple):
    """A whole run."""

    seed: int
    struck: list[Struck]
    verdict: Verdict
    exits: dict[int, int]
    counts: dict[str, int]
    seconds: float


class Plan:
    """Which fault comes next: every kind in turn before any comes again, then by weight."""

    def __init__(self, rng: random.Random, only: str = "") -> None:
        self._rng = rng
        self._kinds = {name: kind for name, kind in all_kinds().items() if only in name}
        names = list(self._kinds)
        rng.shuffle(names)
        self._first = names

    def next(self) -> tuple[str, Kind]:
        if self._first:
            name = self._first.pop()
        else:
            weights = [weight for weight, _ in self._kinds.values()]
            (name,) = self._rng.choices(list(self._kinds), weights)
        return name, self._kinds[name][1]


def strike(
    stage: Stage, rng: random.Random, plan: Plan, struck: list[Struck], *, may_pair: bool = True
) -> None:
    """Let one fault happen, sometimes another one on top of it, and wait until all is well.

    Raises:
        HarnessError: it is not in the end.
    """
    name, kind = plan.next()
    say(f"{len(struck) + 1}: {name}")
    longest = None
    # Closed, whatever happens: it has something to mend.
    with closing(kind(stage, rng)) as hits:
        for hit in hits:
            if may_pair and rng.random() < SECOND_FAULT and not name.startswith("broker"):
                strike(stage, rng, plan, struck, may_pair=False)
            try:
                end = stage.wait_committed(
                    set(hit.partitions), hit.time, RECOVERY_TIMEOUT_S, not_by=hit.not_by
                )
            except HarnessError:
                struck.append(Struck(name, None))
                stage.workers.dump_stacks()
                faulthandler.dump_traceback(all_threads=True)
                raise
            longest = max(longest or 0.0, end - hit.time)
    if longest is None:
        say("   nothing to strike")
        return
    struck.append(Struck(name, longest))
    say(f"   recovered after {longest:.1f} s")


def run(
    cluster: Cluster,
    proxy: FaultProxy,
    folder: Path,
    n_faults: int,
    seed: int,
    only: str = "",
    *,
    with_charts: bool = False,
) -> Outcome:
    """A run with so many faults; what it came to."""
    say(f"seed {seed}, {n_faults} faults, in {folder}")
    began = time.monotonic()
    rng = random.Random(seed)
    plan = Plan(rng, only)
    struck: list[Struck] = []
    problems = []
    app = f"faults-{uuid.uuid4().hex[:8]}"
    with Stage(cluster, proxy, folder, app, seed, with_charts=with_charts) as stage:
        try:
            while len(struck) < n_faults:
                strike(stage, rng, plan, struck)
                if stage.watcher.problems:
                    break
                time.sleep(rng.uniform(0, 1))
        except (HarnessError, ClusterError) as error:
            problems.append(str(error))
            say(f"   {error}")
            cluster.mend()
        verdict = stage.finish()
        problems += [
            f"an end that is none of a fault: {e}" for e in stage.workers.exits if not e.is_fair
        ]
        # No fault has struck amid what never was.
        parts = stage.watcher.parts
        problems += [f"no {what} in the whole run" for what in (CUT, SHRUNK) if not parts[what]]
        verdict.counts.update(parts)
        verdict.problems[:0] = problems
        if not verdict.problems:
            say("a truncated changelog")
            try:
                verdict.problems += check_truncated(stage)
            except (HarnessError, BrokerError, KafkaError) as error:
                verdict.problems.append(f"truncated changelog: {error!r}")
        exits: dict[int, int] = defaultdict(int)
        for end in stage.workers.exits:
            exits[end.status] += 1
        counts = dict(stage.traffic.story.counts)
    return Outcome(seed, struck, verdict, dict(exits), counts, time.monotonic() - began)


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What a person wants to see of some runs, line by line."""
    by_kind: dict[str, list[float | None]] = defaultdict(list)
    for outcome in outcomes:
        for one in outcome.struck:
            by_kind[one.kind].append(one.recovery_s)
    everything = [s for times in by_kind.values() for s in times]
    width = max(map(len, by_kind), default=0)
    yield f"{'kind of fault':{width}}  count  survived  recovery p50  p99"
    for kind in [*sorted(by_kind), "all"]:
        times = by_kind.get(kind, everything)
        known = sorted(t for t in times if t is not None)
        line = f"{kind:{width}}  {len(times):5}  {len(known):8}"
        yield (
            f"{line}  {_quantile(known, 50):10.1f} s  {_quantile(known, 99):.1f} s"
            if known
            else line
        )
    for o in outcomes:
        c = o.verdict.counts
        yield (
            f"seed {o.seed}: {len(o.struck)} faults in {o.seconds:.0f} s; {c['commits']} commits, "
            f"{c['retrain']} retrain requests, {c['alarms']} alarms, {c['metrics']} metric points, "
            f"{c['dead_letters']} dead letters; {c[CUT]} x {CUT}, {c[SHRUNK]} x {SHRUNK}"
        )
        yield f"  input: {', '.join(f'{n} x {kind}' for kind, n in sorted(o.counts.items()))}"
        yield f"  ends of workers by status: {dict(sorted(o.exits.items()))}"
        yield (
            f"  lost {o.verdict.lost.total()} {dict(+o.verdict.lost)}, "
            f"repeated {o.verdict.repeated.total()} {dict(+o.verdict.repeated)}, "
            f"other problems {len(o.verdict.problems)}"
        )
        yield from (f"  PROBLEM {problem}" for problem in o.verdict.problems[:60])


def _quantile(values: Sequence[float], percent: int) -> float:
    return (
        quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]
    )


def main() -> int:
    heed_interrupts()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=20, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of faults and traffic; 0: any")
    parser.add_argument("--only", default="", help="kinds with these words in their names")
    parser.add_argument("--controls", action="store_true", help="the negative controls instead")
    parser.add_argument(
        "--charts",
        action="store_true",
        help=f"MLflow too, which takes much of two cores; always from {CHARTS_FROM} faults on",
    )
    parser.add_argument("--folder", type=Path, help="for logs; a new one by default")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="streamgauge-faults-"))
    seed = options.seed or random.SystemRandom().randrange(1, 1 << 31)
    with Cluster(folder / "cluster", 3) as cluster, FaultProxy.before(cluster) as proxy:
        if options.controls:
            from tests.faults.controls import run_controls  # noqa: PLC0415

            return run_controls(cluster, proxy, folder, seed)
        with_charts = options.charts or options.faults >= CHARTS_FROM
        outcome = run(
            *(cluster, proxy, folder / "run", options.faults, seed, options.only),
            with_charts=with_charts,
        )
    print("\n".join(table([outcome])))
    return 1 if outcome.verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
