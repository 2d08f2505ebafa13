"""When the tests that need a broker are run, skipped or failed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.kafka.jars import KafkaUnavailableError

if TYPE_CHECKING:
    from tests.support.kafka.cluster import Cluster


def start_or_skip(cluster: Cluster) -> None:
    """Start a cluster; where this machine cannot, the tests that want it are skipped.

    With CI=true they fail: a skip there would hide that nobody has tried Kafka.
    """
    try:
        cluster.start()
    except KafkaUnavailableError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true, and {error}", pytrace=False)
        pytest.skip(f"{error}; or set STREAMGAUGE_KAFKA=HOST:PORT")
