"""What an event costs: the whole path on the embedded broker, each stage, and the usual loop.

Run `python -m tests.bench.bench_embedded`; `--help` lists the options.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from rich.console import Console

from streamgauge.consumers.broker import Checkpoint
from streamgauge.consumers.clock import wall_clock_ms
from streamgauge.consumers.config import load_config
from streamgauge.consumers.embedded.broker import EmbeddedBroker
from streamgauge.consumers.mlflow.sink import MLflowSink
from streamgauge.consumers.mlflow.store import connect
from streamgauge.consumers.terminal.tables import plain_table
from streamgauge.stream.align import merge
from streamgauge.stream.engine import Engine
from streamgauge.stream.events import decode_label, decode_prediction
from streamgauge.stream.join import ModelJoin
from streamgauge.stream.monitor import Monitor
from streamgauge.stream.records import MONITOR_INPUTS
from tests.bench.measuring import Clock, describe, median_us, timed_commit
from tests.bench.naive import naive_loop
from tests.bench.workload import Workload, generate
from tests.support.harness import monitor_worker

BIAS = """
What this does not show. It was written by the authors of one side. One process and one client on
one machine: no network, no Kafka, no second producer at the same time. Labels come 1000 rows after
their prediction, none is missing or twice, and the worker finds the whole input written when it
starts, so its batches are as large as they can be: a live stream has smaller ones and pays more
for each event. The naive loop reads from memory and keeps nothing: if it is killed, everything is
lost; ours reads from and commits to a file. The naive loop has no bound on what waits, no guard
against repeats and bad input, no evidence and no retrain request, and pays nothing for lacking
them. Times are wall clock on a machine that may be shared, medians over the repetitions, and
garbage collection is rare (as in `streamgauge run`) for both sides. An event is a prediction or a
label.
"""

LEARNER = "river.tree.HoeffdingTreeClassifier"


WORKLOADS = [Workload(0, 1), Workload(10, 1), Workload(0, 100), Workload(10, 100)]


# Ours


def config_for(folder, *, learner=False):
    defaults = {"learner": {"path": LEARNER}} if learner else {}
    return load_config({"broker": {"data_dir": str(folder)}, "defaults": defaults})


def produce(broker, sent):
    with broker.producer() as producer:
        for topic, value, key, timestamp_ms in sent:
            producer.send(topic, value, key, timestamp_ms=timestamp_ms)


def work(broker, config):
    with broker.join_group(MONITOR_INPUTS) as tasks:
        worker = monitor_worker(config, tasks, state_key=b"bench")
        worker.start()
        # As `run --until-idle`, without its last wait for more input.
        while worker.step(0.0, wall_clock_ms()):
            pass


def drain_to_mlflow(broker, config):
    with MLflowSink(config, broker) as sink:
        while sink.step(0.0):
            pass


def whole_path(sent, clock, *, learner=False, sink=False):
    """Produce, work to the end; with `sink` log to MLflow as well, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_for(Path(folder), learner=learner)
        with EmbeddedBroker(config) as broker:
            clock.time("produce", produce, broker, sent)
            clock.time("worker", work, broker, config)
            if sink:
                migrate(config)
                clock.time("sink", drain_to_mlflow, broker, config)


def migrate(config):
    """MLflow makes its database once; that is no cost of an event."""
    connect(config)


def stages(sent, clock):
    """Each stage alone, on the same events, cut into batches as the worker cuts them."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_for(Path(folder))
        with EmbeddedBroker(config) as broker:
            produce(broker, sent)
            with broker.join_group(MONITOR_INPUTS) as tasks:
                tasks.rebalance()
                engine = Engine(config, state_key=b"bench")
                checkpoint = Checkpoint(offsets=(0, 0))
                batches = []
                while polled := clock.time("poll", tasks.poll, 0.0):
                    (batch,) = polled
                    batches.append(batch)
                    commit = timed_commit(clock, engine, checkpoint, batch)
                    checkpoint = commit.after
                    clock.time("commit", tasks.commit, 0, commit)
            parts_of_process(config, batches, clock)


def parts_of_process(config, batches, clock):
    """The three large parts of `engine.process`, each over everything."""

    model = config.defaults
    joins = defaultdict(lambda: ModelJoin("", model.join))
    monitors = defaultdict(lambda: Monitor(model, "classification"))
    for batch in batches:
        merged = clock.time("decode", decode, config, batch)
        outcomes = clock.time("join", join, joins, merged)
        clock.time("monitor", monitor, monitors, outcomes)
        for its_join in joins.values():
            its_join.drain_changes()


def decode(config, batch):
    limits = config.events
    return [
        (
            is_label,
            (decode_label if is_label else decode_prediction)(r.value, r.timestamp_ms, limits),
        )
        for is_label, r in merge(batch.inputs)
    ]


def join(joins, merged):
    outcomes = defaultdict(list)
    for offset, (is_label, event) in enumerate(merged):
        of_model = joins[event.model]
        take = of_model.add_label if is_label else of_model.add_prediction
        take(event, offset, outcomes[event.model])
    return outcomes


def monitor(monitors, outcomes):
    for model, its_outcomes in outcomes.items():
        if its_outcomes:
            monitors[model].update(its_outcomes)


def naive_with_mlflow(sent, clock):
    """The naive loop with `mlflow.log_metric` for each outcome, into a SQLite store."""
    import mlflow  # noqa: PLC0415 - three seconds, and pytest collects this file

    with tempfile.TemporaryDirectory() as folder:
        config = config_for(Path(folder))
        migrate(config)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        with mlflow.start_run():
            # Its first call makes what the others find.
            mlflow.log_metric("error", 0.0)
            clock.time("naive, MLflow", lambda: naive_loop(sent, log_metric=mlflow.log_metric))


# Measuring and showing


def warm_up(seed):
    """What is done once in a process is no cost of an event."""
    few = generate(Workload(2, 2), 2000, seed)
    whole_path(few, Clock(), learner=True)
    stages(few, Clock())
    naive_loop(few, learner=True)


def measure_workload(workload, options):
    sent = generate(workload, options.events, options.seed)

    def measure(clock):
        whole_path(sent, clock)
        stages(sent, clock)
        clock.time("naive", naive_loop, sent)

    return median_us(options.repeats, len(sent), measure)


def measure_learner(options):
    sent = generate(Workload(10, 1), options.events // 5, options.seed)

    def measure(clock):
        whole_path(sent, clock, learner=True)
        clock.time("naive", lambda: naive_loop(sent, learner=True))

    return median_us(options.repeats, len(sent), measure)


def measure_mlflow(options):
    """Ours with all it logs, and the naive loop over its first outcomes."""
    sent = generate(WORKLOADS[0], options.events, options.seed)
    ours = median_us(1, len(sent), lambda clock: whole_path(sent, clock, sink=True))
    n_logged = options.mlflow_outcomes
    few = generate(WORKLOADS[0], 2 * n_logged, options.seed)
    return ours | median_us(1, len(few), lambda clock: naive_with_mlflow(few, clock))


def show_stages(console, workload, us):
    whole = us["produce"] + us["worker"]
    table = plain_table(
        workload.name, "us/event", "events/s", "share", numbers=("us/event", "events/s", "share")
    )

    def row(name, cost, of=whole):
        share = "" if of is None else f"{cost / of:.0%}"
        table.add_row(name, f"{cost:.2f}", f"{1e6 / cost:,.0f}", share)

    row("whole path", whole)
    row("  produce", us["produce"])
    row("  worker", us["worker"])
    for name in ("poll", "process", "drain_chunks", "commit"):
        row(f"    {name}", us[name])
        if name == "process":
            for part in ("decode", "join", "monitor"):
                row(f"      {part}, alone", us[part])
    row("naive loop, no MLflow", us["naive"], of=None)
    console.print(table)
    core = us["process"] + us["drain_chunks"]
    console.print(
        f"against the naive loop without MLflow ({us['naive']:.2f} us): pure core"
        f" {_ratio(us['naive'], core)}, worker {_ratio(us['naive'], us['worker'])}, whole path"
        f" {_ratio(us['naive'], whole)}\n"
    )


def _ratio(theirs, ours):
    return f"{theirs / ours:.2f}x as fast"


def show_comparison(console, title, rows, base, note):
    table = plain_table(title, "us/event", "events/s", numbers=("us/event", "events/s"))
    for name, cost in rows.items():
        table.add_row(name, f"{cost:.2f}", f"{1e6 / cost:,.0f}")
    console.print(table)
    console.print(f"ours is {_ratio(rows[base], rows['ours'])} as the naive loop; {note}\n")


def show(console, report):
    for workload, us in zip(WORKLOADS, report["workloads"].values(), strict=True):
        show_stages(console, workload, us)
    us = report["learner"]
    show_comparison(
        console,
        "10 features, 1 model, River's HoeffdingTreeClassifier",
        {"ours": us["produce"] + us["worker"], "naive loop": us["naive"]},
        "naive loop",
        "ours also writes the learner's whole state with each commit.",
    )
    us = report["mlflow"]
    show_comparison(
        console,
        "no features, 1 model, into MLflow (SQLite)",
        {
            "ours": us["produce"] + us["worker"] + us["sink"],
            "  of it the sink, a process of its own in `run`": us["sink"],
            "naive loop": us["naive, MLflow"],
        },
        "naive loop",
        "ours logs a point for each 100 outcomes, the naive loop one for each outcome.\n"
        f"The naive loop was measured on {report['mlflow_outcomes']} outcomes only, and is taken"
        " to cost as much for each of the others.",
    )


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=50_000, help="in each workload")
    parser.add_argument("--repeats", type=int, default=3, help="the median counts")
    parser.add_argument("--mlflow-outcomes", type=int, default=300, help="of the naive loop")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object, us/event")
    options = parser.parse_args(arguments)
    gc.set_threshold(50_000, 20, 100)
    console = Console(stderr=options.json, soft_wrap=True, highlight=False)
    report = vars(options) | describe(
        "tests.bench.bench_embedded", arguments, ("river", "mlflow", "msgspec", "numpy")
    )
    console.print(BIAS.strip(), style="dim")
    console.print()
    for name in ("machine", "versions", "seed", "events", "repeats", "command"):
        console.print(f"{name}: {report[name]}")
    console.print()
    warm_up(options.seed)
    report["workloads"] = {w.name: measure_workload(w, options) for w in WORKLOADS}
    report["learner"] = measure_learner(options)
    report["mlflow"] = measure_mlflow(options)
    if options.json:
        print(json.dumps(report))
    else:
        show(console, report)


if __name__ == "__main__":
    main(sys.argv[1:])
