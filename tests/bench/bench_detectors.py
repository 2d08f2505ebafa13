"""What a value costs: our detectors against those of River and others, and banks of many.

Run `python -m tests.bench.bench_detectors`; `--help` lists the options.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tracemalloc

import numpy as np
from rich.console import Console

from streamgauge.consumers.terminal.tables import plain_table
from streamgauge.detectors import Bank, make_detector
from streamgauge.detectors.kinds import KINDS
from tests.bench import peers
from tests.bench.measuring import describe, median_us

BIAS = """
What this does not show. It was written by the authors of one side. `update_many` is given a whole
array that lies in memory; values that come one by one pay the price of `update`. Every detector
runs with its package's defaults, which are not the same everywhere, and drift indices of River
alone are meant to be ours. Each has a stream to itself, warm in the cache; among other work it is
slower. Frouros and CapyMOA are told to reset after a drift; River and ours do that by themselves.
Compilation is done before. Times are processor time of the thread, so that other work on the
machine counts only by what it takes of the cache: medians over the repetitions, each of which runs
all contenders in turn. In the banks every detector is as likely as
any other to have the next value, which is the worst case for the processor's cache.
"""

# Bits for the detectors of errors; the others take losses from 0 to 1.
BINARY = {"DDM", "EDDM", "FHDDM", "HDDM_A", "HDDM_W"}
# Who would take minutes gets so many values; a ratio compares times for one value.
FEWER = {("River", "KSWIN"): 4000, ("Frouros", "KSWIN"): 2000, ("Frouros", "ADWIN"): 10_000}
CHANGE_EVERY = 2000
# Memory is that of so many detectors, after so many values.
N_KEPT = 20
N_REMEMBERED = 5000
BANK_BATCH = 100_000
# Of every one of so many detectors of a bank the alarms are compared with a detector of its own.
BANK_SAMPLE = 50


def stream(kind, n, seed):
    """Errors or losses whose mean is .2 and .35 in turn."""
    rng = np.random.default_rng(seed)
    means = np.where(np.arange(n) // CHANGE_EVERY % 2, 0.35, 0.2)
    return (
        (rng.random(n) < means).astype(float)
        if kind in BINARY
        else rng.beta(20 * means, 20 * (1 - means))
    )


# Ours


def run_array(detector, xs):
    return [alarm.index for alarm in detector.update_many(xs) if alarm.kind == "drift"]


def run_one_by_one(detector, xs):
    found = []
    update = detector.update
    for x in xs:
        alarm = update(x)
        if alarm is not None and alarm.kind == "drift":
            found.append(alarm.index)
    return found


def given_to(package, kind, numbers, options):
    """The numbers as a peer takes them, and as many as it has time for."""
    few = numbers[: min(options.peer_values, FEWER.get((package, kind), options.peer_values))]
    if (package, kind) == ("River", "FHDDM"):
        # For River's, ones are successes.
        return [1 - int(x) for x in few]
    return [int(x) for x in few] if kind in BINARY else few


def measure_kind(kind, options, packages):
    """Nanoseconds for a value by contender, and their drifts."""
    xs = stream(kind, options.values, options.seed)
    numbers = xs.tolist()
    contenders = {
        "update_many": (lambda: make_detector(kind), run_array, xs),
        "update": (lambda: make_detector(kind), run_one_by_one, numbers[: options.peer_values]),
    }
    for package in packages:
        if kind in peers.NAMES[package]:
            contenders[package] = (
                lambda package=package: peers.make(package, kind),
                peers.RUN[package],
                given_to(package, kind, numbers, options),
            )
    drifts = {}

    def measure(clock):
        for name, (make, run, given) in contenders.items():
            drifts[name] = clock.time(name, run, make(), given)

    # What is compiled or imported once is no cost of a value.
    for make, run, given in contenders.values():
        run(make(), given[:2000])
    us = median_us(options.repeats, 1, measure, now_s=time.thread_time)
    ns = {name: us[name] * 1e3 / len(contenders[name][2]) for name in contenders}
    seen = {name: len(given) for name, (_, _, given) in contenders.items()}
    return {"ns": ns, "drifts": drifts, "seen": seen}


def memory_of(make, run, given, n):
    """Bytes of a detector that has seen some values."""
    run(make(), given)
    tracemalloc.start()
    try:
        kept = [make() for _ in range(n)]
        for detector in kept:
            run(detector, given)
        traced, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What River keeps in Rust is not traced; it is no smaller than it is when written.
    in_rust = [d._helper for d in kept if hasattr(d, "_helper")]
    return (traced + sum(len(helper.__getstate__()) for helper in in_rust)) / n


def measure_memory(kind, options):
    """Bytes of a detector that has seen some values, ours and River's."""
    xs = stream(kind, N_REMEMBERED, options.seed)
    found = {"ours": memory_of(lambda: make_detector(kind), run_array, xs, N_KEPT)}
    if kind in peers.NAMES["River"]:
        given = [int(x) for x in xs] if kind in BINARY else xs.tolist()
        few = FEWER.get(("River", kind), N_REMEMBERED) // 10 if kind == "KSWIN" else N_REMEMBERED
        n = 2 if kind == "KSWIN" else N_KEPT
        river = lambda: peers.make("River", kind)  # noqa: E731
        found["River"] = memory_of(river, peers.run_river, given[:few], n)
    return found


# Banks


def bank_batches(n_detectors, n_values, seed):
    """Which detectors have the next values, and these: errors that become many half-way."""
    rng = np.random.default_rng(seed)
    for start in range(0, n_values, BANK_BATCH):
        rate = 0.1 if 2 * start < n_values else 0.7
        ids = rng.integers(0, n_detectors, BANK_BATCH)
        yield ids, (rng.random(BANK_BATCH) < rate).astype(float)


def measure_bank(kind, n_detectors, options):
    """Nanoseconds for a value, bytes for a detector, and how many do not alarm as one alone."""
    bank = Bank(make_detector(kind))
    ids = bank.add(n_detectors)
    sample = set(range(0, n_detectors, n_detectors // BANK_SAMPLE))
    alone = {i: make_detector(kind) for i in sample}
    n_alone = dict.fromkeys(sample, 0)
    n_bank = dict.fromkeys(sample, 0)
    seconds = []
    for at, values in bank_batches(n_detectors, options.bank_values, options.seed):
        start_s = time.thread_time()
        alarms = bank.update(ids[at], values)
        seconds.append(time.thread_time() - start_s)
        for i in sample:
            n_alone[i] += len(alone[i].update_many(values[at == i]))
            n_bank[i] += int(np.count_nonzero(alarms.id == ids[i]))
    return {
        "ns": float(np.median(seconds)) / BANK_BATCH * 1e9,
        "bytes": bank.nbytes / n_detectors,
        "n_alarms": sum(n_alone.values()),
        "n_differ": sum(n_alone[i] != n_bank[i] for i in sample),
    }


# Showing


def compared(theirs, ours, n):
    """Whether the drifts are the same among the first `n` values."""
    ours = [i for i in ours if i < n]
    n_differ = len(set(theirs) ^ set(ours))
    return f"{len(ours)} equal" if n_differ == 0 else f"{n_differ} differ"


def show_speed(console, report, packages):
    columns = ["update_many", "update"]
    for package in packages:
        columns += [package, "times", "drifts"]
    table = plain_table("ns for a value", *columns, numbers=columns)
    for kind, found in report["kinds"].items():
        ns = found["ns"]
        row = [kind, f"{ns['update_many']:.0f}", f"{ns['update']:,.0f}"]
        for package in packages:
            if package not in ns:
                row += ["", "", ""]
                continue
            same = compared(
                found["drifts"][package], found["drifts"]["update_many"], found["seen"][package]
            )
            row += [f"{ns[package]:,.0f}", f"{ns[package] / ns['update_many']:,.0f}", same]
        table.add_row(*row)
    console.print(table)
    console.print("times: how many times as long as our update_many, in the same run\n")


def show_memory(console, report):
    table = plain_table("bytes for a detector", "ours", "River", numbers=("ours", "River"))
    for kind, found in report["memory"].items():
        table.add_row(kind, *(f"{found[k]:,.0f}" if k in found else "" for k in ("ours", "River")))
    console.print(table)
    console.print(f"numbers, objects and all, after {N_REMEMBERED:,} values with changes\n")


def show_banks(console, report, options):
    columns = ("ns for a value", "bytes for a detector", "as one alone")
    table = plain_table("bank", *columns, numbers=columns)
    for name, found in report["banks"].items():
        table.add_row(
            name,
            f"{found['ns']:.0f}",
            f"{found['bytes']:,.0f}",
            f"{found['n_differ']} of {BANK_SAMPLE} differ, {found['n_alarms']} alarms",
        )
    console.print(table)
    console.print(
        f"{options.bank_values:,} values in random order, batches of {BANK_BATCH:,}; of"
        f" {BANK_SAMPLE} detectors of each bank the alarms are counted against one alone"
    )


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=int, default=1_000_000, help="of each array")
    parser.add_argument(
        "--peer-values", type=int, default=50_000, help="one by one, ours and theirs"
    )
    parser.add_argument("--repeats", type=int, default=5, help="the median counts")
    parser.add_argument("--bank-values", type=int, default=10_000_000, help="for each bank")
    parser.add_argument("--bank-sizes", type=int, nargs="*", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--bank-kinds", nargs="*", default=["ADWIN", "PageHinkley"])
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), help="detectors to measure")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object, ns and bytes")
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json, soft_wrap=True, highlight=False, width=160)
    packages = peers.installed()
    report = vars(options) | describe(
        "tests.bench.bench_detectors",
        arguments,
        ("river", "numba", "numpy", *(p.lower() for p in packages if p != "River")),
    )
    console.print(BIAS.strip(), style="dim")
    console.print()
    for name in ("machine", "versions", "seed", "values", "repeats", "command"):
        console.print(f"{name}: {report[name]}")
    for package in peers.MODULES.keys() - set(packages):
        console.print(f"{package} is not installed, and not compared; `make peers` installs it")
    console.print()
    report["kinds"] = {kind: measure_kind(kind, options, packages) for kind in options.kinds}
    report["memory"] = {kind: measure_memory(kind, options) for kind in options.kinds}
    report["banks"] = {
        f"{size:,} {kind}": measure_bank(kind, size, options)
        for kind in options.bank_kinds
        for size in options.bank_sizes
    }
    if options.json:
        print(json.dumps(report))
        return
    if options.kinds:
        show_speed(console, report, packages)
        show_memory(console, report)
    if options.bank_sizes:
        show_banks(console, report, options)


if __name__ == "__main__":
    main(sys.argv[1:])
