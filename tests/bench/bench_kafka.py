"""What an event costs on Kafka: the client's own poll, the whole worker, and the usual loop.

Run `python -m tests.bench.bench_kafka`; `--help` lists the options. Needs Java and Maven, or a
broker at `--kafka HOST:PORT`; without them it says so and does nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path

from kafka import TopicPartition
from rich.console import Console

from streamgauge.consumers.broker import Checkpoint
from streamgauge.consumers.config import load_config
from streamgauge.consumers.kafka.broker import KafkaBroker
from streamgauge.consumers.kafka.client import make_consumer
from streamgauge.consumers.kafka.topics import Admin
from streamgauge.consumers.terminal.tables import plain_table
from streamgauge.stream.engine import Engine
from streamgauge.stream.records import MONITOR_INPUTS
from tests.bench.measuring import describe, median_us, timed_commit
from tests.bench.naive import naive_loop
from tests.bench.workload import Sent, Workload, generate
from tests.support.kafka.cluster import Cluster
from tests.support.kafka.jars import KafkaUnavailableError

BIAS = """
What this does not show. It was written by the authors of one side. Broker, client and worker share
one machine, so the broker takes processor time from both sides; one partition, no network, no
replication. All input is in the log before it is read, so batches are as large as they can be. The
naive loop keeps nothing: if it is killed, everything is lost; ours commits its state, its position
and its outputs in a transaction for each batch. The worker's time is without joining the group and
taking the partition over. Times are wall clock on a machine that may be shared, medians over the
repetitions.
"""

POLL_MS = 500
POLL_RECORDS = 5000


def config_for(bootstrap, prefix, app):
    names = load_config({}).topics.model_dump()
    # Kafka deletes input by its own times, and those of the workload are long past.
    retention = {"age": "36500d"}
    return load_config(
        {
            "app": f"{prefix}-{app}",
            "broker": {"kind": "kafka", "bootstrap_servers": bootstrap, "retention": retention},
            "topics": {field: f"{prefix}-{name}" for field, name in names.items()},
        }
    )


def fresh(bootstrap, prefix):
    """A configuration whose worker has not seen the input yet."""
    config = config_for(bootstrap, prefix, uuid.uuid4().hex[:8])
    with Admin(config) as admin:
        admin.create(1, 1)
    return config


def produce(config, sent):
    with KafkaBroker(config) as broker, broker.producer() as producer:
        for topic, value, key, timestamp_ms in sent:
            producer.send(getattr(config.topics, topic), value, key, timestamp_ms=timestamp_ms)


@contextmanager
def consumer_at_start(config):
    topics = (config.topics.predictions, config.topics.labels)
    consumer = make_consumer(config, "bench")
    try:
        partitions = [TopicPartition(topic, 0) for topic in topics]
        consumer.assign(partitions)
        for where in partitions:
            consumer.seek(where, 0)
        yield consumer
    finally:
        consumer.close(autocommit=False)


def raw_poll(consumer, n_events):
    """As fast as the client hands out records."""
    n = 0
    while n < n_events:
        n += sum(map(len, consumer.poll(POLL_MS, POLL_RECORDS).values()))


def naive(consumer, n_events):
    """Poll, and do with each record what people do."""

    def records():
        n = 0
        while n < n_events:
            for polled in consumer.poll(POLL_MS, POLL_RECORDS).values():
                n += len(polled)
                for record in polled:
                    yield Sent(record.topic, record.value, record.key, record.timestamp)

    naive_loop(records())


def work(config, n_events, clock):
    """The worker's loop with a clock on each stage."""
    with KafkaBroker(config) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
        taken_over = {}
        while not taken_over:
            taken_over = tasks.rebalance().restored
        engine = Engine(config, state_key=b"bench")
        checkpoint, n = Checkpoint(offsets=(0, 0)), 0

        def until_done():
            nonlocal checkpoint, n
            while n < n_events:
                for batch in clock.time("poll", tasks.poll, POLL_MS / 1000):
                    commit = timed_commit(clock, engine, checkpoint, batch)
                    checkpoint = commit.after
                    clock.time("commit", tasks.commit, 0, commit)
                    n += len(batch)

        clock.time("worker", until_done)
        clock.seconds["commits"] = checkpoint.sequence


def measure_workload(bootstrap, workload, options):
    sent = generate(workload, options.events, options.seed)
    prefix = f"bench-{uuid.uuid4().hex[:8]}"
    inputs = fresh(bootstrap, prefix)
    produce(inputs, sent)

    def measure(clock):
        with consumer_at_start(inputs) as consumer:
            clock.time("raw poll", raw_poll, consumer, len(sent))
        work(fresh(bootstrap, prefix), len(sent), clock)
        with consumer_at_start(inputs) as consumer:
            clock.time("naive", naive, consumer, len(sent))

    return median_us(options.repeats, len(sent), measure)


def show(console, workload, us):
    numbers = ("us/event", "events/s", "share")
    table = plain_table(workload.name, *numbers, numbers=numbers)

    def row(name, cost, share=""):
        table.add_row(name, f"{cost:.2f}", f"{1e6 / cost:,.0f}", share)

    row("raw poll", us["raw poll"])
    row("worker", us["worker"])
    for name in ("poll", "process", "drain_chunks", "commit"):
        row(f"  {name}", us[name], f"{us[name] / us['worker']:.0%}")
    row("naive loop, no MLflow", us["naive"])
    console.print(table)
    console.print(
        f"the worker does {us['raw poll'] / us['worker']:.2f} of raw poll's events per second,"
        f" and {us['naive'] / us['worker']:.2f} of the naive loop's\n"
    )


@contextmanager
def bootstrap_of(options):
    if options.kafka:
        yield options.kafka
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            cluster = Cluster(Path(folder), 1)
            cluster.start()
        except KafkaUnavailableError as error:
            sys.exit(f"Kafka is not measured: {error}")
        try:
            yield cluster.bootstrap
        finally:
            cluster.stop()


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=100_000, help="in each workload")
    parser.add_argument("--repeats", type=int, default=3, help="the median counts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kafka", metavar="HOST:PORT", default=os.environ.get("STREAMGAUGE_KAFKA"))
    parser.add_argument("--json", action="store_true", help="one JSON object, us/event")
    options = parser.parse_args(arguments)
    gc.set_threshold(50_000, 20, 100)
    console = Console(stderr=options.json, soft_wrap=True, highlight=False)
    report = describe("tests.bench.bench_kafka", arguments, ("kafka-python", "crc32c", "river"))
    console.print(BIAS.strip(), style="dim")
    for name, value in report.items():
        console.print(f"{name}: {value}")
    console.print()
    workloads = [Workload(0, 1), Workload(10, 1), Workload(0, 100)]
    with bootstrap_of(options) as bootstrap:
        measure_workload(
            bootstrap, workloads[0], argparse.Namespace(events=4000, seed=1, repeats=1)
        )
        for workload in workloads:
            us = measure_workload(bootstrap, workload, options)
            report[workload.name] = us
            show(console, workload, us)
    if options.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
