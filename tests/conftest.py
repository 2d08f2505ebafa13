"""Brokers that the tests share, started when the first test asks for one; and the command line."""

from __future__ import annotations

import os
import re
import uuid
from dataclasses import dataclass

import pytest
from hypothesis import settings

from tests.support.commands import commands_run
from tests.support.kafka.cluster import Cluster
from tests.support.kafka.proxy import FaultProxy
from tests.support.kafka.shared import SharedBroker, start_or_skip
from tests.support.processes import heed_interrupts

# How long an example takes says more about the machine than about us.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_configure():
    """Let children be stopped by Ctrl-C, wherever the tests run."""
    heed_interrupts()


@dataclass(frozen=True)
class OutsideCluster:
    """A cluster that somebody else runs, known by its address alone."""

    bootstrap: str


@pytest.fixture(scope="session", autouse=True)
def shared_broker(tmp_path_factory):
    """The broker of this run's processes, which is started when a test first asks for `kafka`."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    n_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    with SharedBroker(folder, n_processes) as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka(shared_broker):
    """One broker for all tests: ours, or the cluster at $STREAMGAUGE_KAFKA."""
    outside = os.environ.get("STREAMGAUGE_KAFKA")
    if outside:
        return OutsideCluster(outside)
    start_or_skip(shared_broker)
    return shared_broker


@pytest.fixture(scope="session")
def kafka_cluster3(tmp_path_factory):
    """Three brokers that a test may hurt, if it mends them (`Cluster.mend`) in the end."""
    if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") != "1":
        pytest.fail("tests that hurt a cluster come one after another: give no -n", pytrace=False)
    cluster = Cluster(tmp_path_factory.mktemp("kafka-3"), 3)
    start_or_skip(cluster)
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def kafka_proxy(kafka):
    """A proxy before the one broker, for clients that start at its `proxy_bootstrap`."""
    if not isinstance(kafka, SharedBroker):
        pytest.skip("STREAMGAUGE_KAFKA is set, and no proxy can stand before that cluster")
    with FaultProxy.before(kafka) as proxy:
        yield proxy


@pytest.fixture
def kafka_secured(kafka):
    """The one broker, with its listeners for SASL and TLS."""
    if not isinstance(kafka, SharedBroker):
        pytest.skip("STREAMGAUGE_KAFKA is set, and nothing is known of that cluster's security")
    return kafka


@pytest.fixture
def kafka_prefix(request):
    """What the names of a test's topics, groups and transactions begin with: no other's do."""
    test = re.sub(r"[^a-zA-Z0-9]+", "-", request.node.name).strip("-")[:60]
    return f"{test}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def streamgauge(monkeypatch, capsys):
    """Runs a command in this process: its status, and what it printed."""
    with commands_run(monkeypatch, capsys) as run:
        yield run
