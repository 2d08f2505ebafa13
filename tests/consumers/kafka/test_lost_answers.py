"""Answers of the group that get lost without the connection being broken."""

from __future__ import annotations

import pytest

from streamgauge.consumers.kafka.assignment import KafkaAssignment
from streamgauge.stream.records import MONITOR_INPUTS
from tests.support.kafka.apps import app_settings, make_app, take_over
from tests.support.kafka.rules import Api, DropResponse, Rule

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.mark.parametrize("api", [Api.JOIN_GROUP, Api.SYNC_GROUP])
def test_a_lost_answer_holds_a_worker_up_for_seconds_and_not_for_minutes(
    kafka, kafka_proxy, kafka_prefix, api
):
    settings = app_settings(kafka.proxy_bootstrap, kafka_prefix)
    app = make_app(settings, at=kafka.bootstrap)
    rule = Rule(DropResponse(), api, client=f"{app.app}-member-")
    kafka_proxy.add(rule)
    with KafkaAssignment(app, MONITOR_INPUTS) as tasks:
        # The client's own limit, at its default settings, is five minutes.
        take_over(tasks, 0)
    assert rule.happened.is_set()
