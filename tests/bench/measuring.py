"""Seconds by name, medians over repetitions, and what a report says of its circumstances."""

from __future__ import annotations

import gc
import os
import platform
import shlex
import statistics
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

from streamgauge.consumers.broker import Checkpoint, Commit


class Clock:
    """Seconds by name, added up; of the wall's clock, or of that given."""

    def __init__(self, now_s=time.perf_counter):
        self.now_s = now_s
        self.seconds = defaultdict(float)

    def time(self, name, call, *arguments):
        start_s = self.now_s()
        result = call(*arguments)
        self.seconds[name] += self.now_s() - start_s
        return result


def median_us(repeats, n_events, measure, now_s=time.perf_counter):
    """Microseconds per event by name: the median of `repeats` runs of `measure(clock)`."""
    clocks = []
    for _ in range(repeats):
        gc.collect()
        clock = Clock(now_s)
        measure(clock)
        clocks.append(clock.seconds)
    return {
        name: statistics.median(seconds[name] for seconds in clocks) / n_events * 1e6
        for name in clocks[0]
    }


def describe(program, arguments, packages):
    """Machine, versions and command."""
    return {
        "machine": f"{platform.machine()}, {_processor()}, {os.cpu_count()} cores,"
        f" {platform.system()} {platform.release()}",
        "versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{package} {version(package)}" for package in packages),
        "command": shlex.join(["python", "-m", program, *arguments]),
    }


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if "model name" in line), "unknown")


def timed_commit(clock, engine, before, batch):
    """What the worker makes of a batch, with a clock on each of its stages."""
    outputs = clock.time("process", engine.process, batch.inputs)
    chunks = clock.time("drain_chunks", engine.drain_chunks)
    offsets = tuple(
        n + len(records) for n, records in zip(before.offsets, batch.inputs, strict=True)
    )
    after = Checkpoint(before.sequence + 1, offsets, engine.digest, "")
    return Commit(before, after, outputs, chunks)
