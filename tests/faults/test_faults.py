"""A short form of `make faults` and `make faults-controls`, with the session's three brokers.

STREAMGAUGE_FAULTS sets the number of faults, STREAMGAUGE_SEED which ones and when.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.faults.controls import CONTROLS, describe, is_noticed, run_control
from tests.faults.run import run, table
from tests.support.kafka.proxy import FaultProxy

N_FAULTS = int(os.environ.get("STREAMGAUGE_FAULTS", "20"))
SEED = int(os.environ.get("STREAMGAUGE_SEED", "0")) or random.SystemRandom().getrandbits(31)

pytestmark = [
    pytest.mark.faults,
    # The client leaves sockets of connections that have failed to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def proxy(kafka_cluster3):
    kafka_cluster3.mend()
    with FaultProxy.before(kafka_cluster3) as proxy:
        yield proxy


def test_nothing_is_lost_and_nothing_repeated(kafka_cluster3, proxy, tmp_path):
    outcome = run(kafka_cluster3, proxy, tmp_path, N_FAULTS, SEED)
    print("\n".join(table([outcome])))
    assert outcome.verdict.problems == []
    assert len(outcome.struck) >= N_FAULTS
    # The comparison is worth what there was to compare.
    counts = outcome.verdict.counts
    assert min(counts["retrain"], counts["alarms"], counts["metrics"], counts["commits"]) > 20


@pytest.mark.parametrize("safeguard", CONTROLS)
def test_without_a_safeguard_it_is_noticed(kafka_cluster3, proxy, tmp_path, safeguard):
    verdict = run_control(kafka_cluster3, proxy, tmp_path, safeguard, SEED)
    assert is_noticed(verdict), describe(safeguard, verdict)
    assert verdict.problems, describe(safeguard, verdict)
