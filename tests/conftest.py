"""Brokers that the tests share, started when the first test asks for one."""

from __future__ import annotations

import os
import re
import signal
import uuid
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from hypothesis import settings

from tests.support.kafka.cluster import Cluster
from tests.support.kafka.proxy import FaultProxy
from tests.support.kafka.shared import start_or_skip

# How long an example takes says more about the machine than about us.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_configure(config):
    """Let children be stopped by Ctrl-C, wherever the tests run.

    Who is started in the background of a script ignores SIGINT, and so would all that it starts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Keep together, where several processes run the tests, what shares what takes long to make.

    That is a file, for its fixtures, and all that stands on the three brokers, which are started
    once. Each process has a single broker of its own: tests put proxies before it.
    """
    for item in items:
        on_three = "kafka_cluster3" in item.fixturenames
        group = "three brokers" if on_three else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


@dataclass(frozen=True)
class OutsideCluster:
    """A cluster that somebody else runs, known by its address alone."""

    bootstrap: str


@pytest.fixture(scope="session")
def kafka(tmp_path_factory):
    """One broker for all tests: ours, or the cluster at $STREAMGAUGE_KAFKA."""
    outside = os.environ.get("STREAMGAUGE_KAFKA")
    if outside:
        yield OutsideCluster(outside)
        return
    with _own_cluster(tmp_path_factory, 1, secured=True) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def kafka_cluster3(tmp_path_factory):
    """Three brokers that a test may hurt, if it mends them (`Cluster.mend`) in the end."""
    with _own_cluster(tmp_path_factory, 3) as cluster:
        yield cluster


@pytest.fixture
def kafka_proxy(kafka):
    """A proxy before the one broker, for clients that start at its `proxy_bootstrap`."""
    if not isinstance(kafka, Cluster):
        pytest.skip("STREAMGAUGE_KAFKA is set, and no proxy can stand before that cluster")
    with FaultProxy.before(kafka) as proxy:
        yield proxy


@pytest.fixture
def kafka_secured(kafka):
    """The one broker, with its listeners for SASL and TLS."""
    if not isinstance(kafka, Cluster):
        pytest.skip("STREAMGAUGE_KAFKA is set, and nothing is known of that cluster's security")
    return kafka


@pytest.fixture
def kafka_prefix(request):
    """What the names of a test's topics, groups and transactions begin with: no other's do."""
    test = re.sub(r"[^a-zA-Z0-9]+", "-", request.node.name).strip("-")[:60]
    return f"{test}-{uuid.uuid4().hex[:8]}"


@contextmanager
def _own_cluster(tmp_path_factory, n_brokers, **options):
    cluster = Cluster(tmp_path_factory.mktemp(f"kafka-{n_brokers}"), n_brokers, **options)
    start_or_skip(cluster)
    try:
        yield cluster
    finally:
        cluster.stop()
