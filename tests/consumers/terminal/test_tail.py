"""What tail shows: JSON that programs can read, tables that fit, and a quiet end."""

from __future__ import annotations

import base64
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from streamgauge.consumers.config import load_config
from streamgauge.consumers.embedded.broker import EmbeddedBroker
from streamgauge.consumers.published import UnreadableRecordError, document, read
from streamgauge.consumers.terminal.tail import tail
from streamgauge.consumers.terminal.views import (
    LINES_MAX,
    VERSIONS_MAX,
    LinesView,
    MetricsView,
    line,
)
from streamgauge.stream.contracts import AlarmEvent, MetricPoint
from streamgauge.stream.records import Record
from tests.support.processes import killed_at_last

ROOT = Path(__file__).parents[3]


def record(value, headers=(), key=b"demo", topic="t", offset=0):
    return Record(
        topic,
        0,
        offset,
        0,
        key,
        value if isinstance(value, bytes) else json.dumps(value).encode(),
        headers,
    )


def metric_point(model="demo", signal="error", step=100, **values):
    return MetricPoint(
        model=model,
        version="1",
        signal=signal,
        step=step,
        timestamp_ms=1_704_067_200_000,
        values=values,
    )


def metric(*given, **values):
    return metric_point(*given, **values).model_dump(mode="json")


def alarm_event(**given):
    return AlarmEvent.model_validate(
        {
            "alarm_id": "a1", "model": "demo", "version": "1", "signal": "error", "detector": "page_hinkley",
            "kind": "drift", "direction": "up", "index": 5951, "timestamp": "2024-01-01T01:49:13Z", "onset": 5900,
            "statistic": 50.1, "threshold": 50.0, "mean_before": 0.004, "mean_after": 0.2, **given,
        }
    )  # fmt: skip


def alarm(**given):
    return alarm_event(**given).model_dump(mode="json")


RETRAIN = {
    "model": "demo", "version": "1", "partition": 0, "sequence": 3, "episode": 2, "severity": "severe",
    "reason": "drift", "approval": "manual", "alarms": [alarm()], "metrics": {"error": {"before": 0.004, "after": 0.2}},
    "window": {
        "outcome_from": 0, "outcome_to": 1234, "n_outcomes": 1234, "time_from": "2024-01-01T00:00:00.000Z",
        "time_to": "2024-01-01T01:49:13.000Z", "predictions": None,
        "labels": {"topic": "labels", "partition": 0, "offset_from": 0, "offset_to": 1234},
    },
}  # fmt: skip
CLOUD_EVENT = (
    ("ce_specversion", b"1.0"), ("ce_id", b"abc"), ("ce_source", b"/streamgauge"), ("ce_subject", b"demo/1"),
    ("ce_type", b"io.streamgauge.retrain.requested.v1"), ("ce_time", b"2024-01-01T01:49:13Z"),
    ("content-type", b"application/json"),
)  # fmt: skip
REFUSED = (
    ("source_topic", b"predictions"), ("source_partition", b"0"), ("source_offset", b"1234"),
    ("reason", b"invalid_event"), ("detail", "model: Expected `str`, got `int`; give its näme".encode()),
)  # fmt: skip


def rendered(view, width, height=24):
    console = Console(
        width=width, height=height, file=io.StringIO(), record=True, force_terminal=True
    )
    console.print(view)
    return console.export_text().splitlines()


# --- documents


def test_metrics_and_alarms_are_as_published():
    assert document("metrics", record(metric(mean=0.1))) == metric(mean=0.1)
    assert document("alarms", record(alarm())) == alarm()


def test_a_retrain_request_is_a_cloud_event():
    assert document("retrain", record(RETRAIN, CLOUD_EVENT)) == {
        "specversion": "1.0", "id": "abc", "source": "/streamgauge", "subject": "demo/1",
        "type": "io.streamgauge.retrain.requested.v1", "time": "2024-01-01T01:49:13Z",
        "datacontenttype": "application/json", "data": RETRAIN,
    }  # fmt: skip


def test_a_dead_letter_says_where_it_came_from_and_why():
    # The refused record's own headers follow ours and may bear the same names.
    headers = (*REFUSED, ("reason", b"mine"), ("trace", b"\xff"))
    letter = document("dead-letters", record(b'{"model": 7}', headers))
    assert letter == {
        "topic": "predictions", "partition": 0, "offset": 1234, "reason": "invalid_event",
        "detail": "model: Expected `str`, got `int`; give its näme", "value": '{"model": 7}',
    }  # fmt: skip


@given(st.binary())
def test_a_dead_letters_value_can_be_had_back(value):
    letter = document("dead-letters", record(value, REFUSED))
    if "value" in letter:
        assert letter["value"].encode() == value
    else:
        assert base64.b64decode(letter["value_base64"]) == value
        with pytest.raises(UnicodeDecodeError):
            value.decode()


# --- tables


def metrics_view(
    n_points=30, models=("demo", "credit-risk-in-the-nordic-countries-and-the-baltics-retail-2024")
):
    view = MetricsView()
    for model in models:
        for k in range(1, n_points + 1):
            view.add(
                metric_point(
                    model,
                    "join",
                    k * 400,
                    n_predictions=k * 410,
                    n_labels=k * 400,
                    n_pending=600 + k,
                )
            )
            view.add(
                metric_point(
                    model,
                    "error",
                    k * 400,
                    mean=0.05,
                    window_mean=k / 100,
                    **{"adwin.width": k * 300},
                )
            )
            view.add(
                metric_point(
                    model, "performance", k * 400, accuracy=0.95, accuracy_window=1 - k / 100
                )
            )
    return view


def test_metrics_show_the_latest_value_and_the_trend_of_each_signal():
    lines = rendered(metrics_view(models=("demo",)), 80)
    assert lines == [
        "demo/1  12,000 outcomes",
        "  performance  accuracy_window   0.700  ██▇▇▆▆▅▅▄▄▃▃▂▂▁▁  accuracy 0.950",
        "  error        window_mean       0.300  ▁▁▂▂▃▃▄▄▅▅▆▆▇▇██  mean 0.050",
        "  join         n_pending           630  ▄▄▄▄▄▄▄▄▅▅▅▅▅▅▅▅  n_predictions 12,300",
    ]


def test_the_trend_of_the_error_is_that_of_late_where_a_detector_has_one():
    view = MetricsView()
    for k in range(1, 9):
        values = {"mean": 0.1, "adwin.width": 100.0 * k, "adwin.mean": k / 10}
        view.add(metric_point("demo", "error", k * 100, **values))
    assert rendered(view, 50)[1] == "  error        adwin.mean        0.800  ▁▂▃▄▅▆▇█"


def test_alarms_show_what_changed_and_when():
    view = LinesView("alarms")
    view.add(alarm_event())
    view.add(
        alarm_event(
            kind="improvement", direction="down", mean_before=0.2, mean_after=0.004, index=16951
        )
    )
    assert rendered(view, 80) == [
        "time            model   detector      kind         before → after    index",
        "01-01 01:49:13  demo/1  page_hinkley  drift        ↑ 0.004 → 0.200   5,951",
        "01-01 01:49:13  demo/1  page_hinkley  improvement  ↓ 0.200 → 0.004  16,951",
    ]


def test_retrain_requests_and_dead_letters_show_the_reason():
    retrain, dead = LinesView("retrain"), LinesView("dead-letters")
    retrain.add(read("retrain", record(RETRAIN, CLOUD_EVENT)))
    dead.add(read("dead-letters", record(b"\xff", REFUSED)))
    assert (
        rendered(retrain, 80)[1]
        == "01-01 01:49:13  demo/1        2  severe    error 0.004 → 0.200     1,234"
    )
    assert rendered(dead, 80)[1].startswith(
        "predictions-0@1234  invalid_event  model: Expected `str`"
    )


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_table_is_wider_than_its_console_nor_wraps(width):
    long = "a-model-name-that-is-much-longer-than-any-column-could-show-in-full-" * 2
    alarms, retrain, dead = LinesView("alarms"), LinesView("retrain"), LinesView("dead-letters")
    for _ in range(3):
        alarms.add(alarm_event(model=long))
        alarms.add(
            alarm_event(
                kind="data_problem",
                direction="none",
                mean_before=None,
                mean_after=None,
                detail=long,
            )
        )
        retrain.add(read("retrain", record({**RETRAIN, "model": long}, CLOUD_EVENT)))
        dead.add(
            read("dead-letters", record(long.encode(), (*REFUSED[:4], ("detail", long.encode()))))
        )
    for view, n_lines in ((alarms, 7), (retrain, 4), (dead, 4), (metrics_view(), 8)):
        lines = rendered(view, width)
        assert len(lines) == n_lines
        assert max(map(len, lines)) <= width


def test_a_table_keeps_to_the_height_of_its_console_and_shows_the_newest():
    view = LinesView("alarms")
    for i in range(LINES_MAX + 50):
        view.add(alarm_event(index=i))
    lines = rendered(view, 80, height=10)
    assert len(lines) < 10
    assert lines[-1].endswith(str(LINES_MAX + 49))
    metrics = rendered(metrics_view(3, [f"m{i}" for i in range(VERSIONS_MAX + 5)]), 80, height=10)
    assert len(metrics) < 10
    assert metrics[-1] == f"... {VERSIONS_MAX * 4 - 7} more lines"


def test_nothing_a_record_holds_steers_the_terminal():
    bad = "\x1b[2Jgone\r\n[red]x[/red]"
    view = LinesView("alarms")
    view.add(alarm_event(model=bad))
    metrics = MetricsView()
    metrics.add(metric_point(model=bad, mean=1.0))
    letter = read("dead-letters", record(bad.encode(), (*REFUSED[:4], ("detail", bad.encode()))))
    for text in (
        *rendered(view, 120),
        *rendered(metrics, 120),
        line("alarms", alarm_event(model=bad)),
        line("dead-letters", letter),
    ):
        assert text.isprintable()
    assert "[red]x[/red]" in line("dead-letters", letter)
    assert Text(line("alarms", alarm_event(model=bad))).plain


# --- the loop


@pytest.fixture
def data_dir(tmp_path):
    return str(tmp_path / "broker")


def send(data_dir, topic, *values, headers=(), key=b"demo"):
    with (
        EmbeddedBroker(load_config({"broker": {"data_dir": data_dir}})) as broker,
        broker.producer() as producer,
    ):
        for value in values:
            producer.send(
                topic,
                value if isinstance(value, bytes) else json.dumps(value).encode(),
                key,
                headers,
            )


def shown(data_dir, topic, kind, **given):
    out = io.StringIO()
    with (
        EmbeddedBroker(load_config({"broker": {"data_dir": data_dir}})) as broker,
        broker.reader([topic]) as reader,
    ):
        tail(reader, kind, follow=False, out=out, **given)
    return out.getvalue().splitlines()


def test_json_lines_hold_every_record_of_the_model(data_dir):
    send(
        data_dir,
        "drift-metrics",
        *(metric(model, step=i, mean=0.5) for i in range(1500) for model in ("demo", "other")),
    )
    lines = shown(data_dir, "drift-metrics", "metrics", as_json=True, model="demo")
    assert [json.loads(text) for text in lines] == [metric(step=i, mean=0.5) for i in range(1500)]


@pytest.mark.parametrize(
    ("topic", "kind", "value", "headers"),
    [
        ("drift-alarms", "alarms", alarm(), ()),
        ("retrain-requests", "retrain", RETRAIN, CLOUD_EVENT),
        ("dead-letters", "dead-letters", b"\xff", REFUSED),
    ],
)
def test_a_model_is_picked_out_of_every_kind(data_dir, topic, kind, value, headers):
    send(data_dir, topic, value, headers=headers)
    assert len(shown(data_dir, topic, kind, model="demo")) == 1
    assert shown(data_dir, topic, kind, model="other") == []


def test_plain_lines_where_there_is_no_terminal(data_dir):
    send(data_dir, "drift-alarms", alarm())
    assert shown(data_dir, "drift-alarms", "alarms") == [
        "2024-01-01 01:49:13  demo/1  error  page_hinkley  drift  ↑ 0.004 → 0.200  5,951  5,900"
    ]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"not json", "Invalid JSON"),
        (b"\xff", "Invalid JSON"),
        ([alarm()], "Input should be an object"),
        ({**alarm(), "index": None}, "index: Input should be a valid integer"),
        (
            {name: value for name, value in alarm().items() if name != "kind"},
            "kind: Field required",
        ),
        # Python's JSON has NaN, other programs' have not.
        (json.dumps({**alarm(), "statistic": float("nan")}).encode(), ""),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_a_record_that_cannot_be_read_is_named_and_passed_over(
    data_dir, capsys, value, says, as_json
):
    send(data_dir, "drift-alarms", value, alarm())
    lines = shown(data_dir, "drift-alarms", "alarms", as_json=as_json)
    told = capsys.readouterr().err
    if says or as_json:
        assert len(lines) == 1
        assert f"drift-alarms-0@0: not a record of alarms ({says}" in told
    else:
        assert len(lines) == 2


@pytest.mark.parametrize("kind", ["metrics", "alarms", "retrain", "dead-letters"])
@given(
    value=st.none()
    | st.binary()
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
        lambda value: json.dumps({"model": value}).encode()
    ),
    headers=st.lists(
        st.tuples(st.sampled_from(["ce_time", "content-type", "source_offset"]), st.binary()),
        max_size=3,
    ),
)
def test_no_record_makes_a_traceback(kind, value, headers):
    strange = Record("t", 0, 0, 0, None, value, tuple(headers))
    if kind == "dead-letters":
        assert line(kind, read(kind, strange)).isprintable()
        assert json.dumps(document(kind, strange))
        return
    with pytest.raises(UnreadableRecordError, match="t/0 offset 0: "):
        document(kind, strange)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e308, 1e308])
def test_a_number_that_is_none_is_shown_and_breaks_nothing(value):
    event = alarm_event(mean_before=value)
    assert line("alarms", event)
    alarms, metrics = LinesView("alarms"), MetricsView()
    alarms.add(event)
    for _ in range(4):
        metrics.add(metric_point(mean=value))
        metrics.add(metric_point(mean=0.5))
    assert len(rendered(alarms, 80)) == len(rendered(metrics, 80)) == 2


PROGRAM = """
import sys
from streamgauge.consumers.embedded.broker import EmbeddedBroker
from streamgauge.consumers.terminal.tail import tail
from streamgauge.consumers.config import load_config
with EmbeddedBroker(load_config({"broker": {"data_dir": sys.argv[1]}})) as broker:
    with broker.reader(["drift-alarms"]) as reader:
        tail(reader, "alarms", as_json=sys.argv[2] == "json", follow=True)
"""


def start(data_dir, how, stdout):
    return killed_at_last(
        [sys.executable, "-W", "error", "-c", PROGRAM, data_dir, how],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def test_following_shows_new_records_at_once_and_control_c_ends_it_well(data_dir):
    send(data_dir, "drift-alarms", alarm(index=1))
    with start(data_dir, "json", subprocess.PIPE) as process:
        assert json.loads(process.stdout.readline())["index"] == 1
        send(data_dir, "drift-alarms", alarm(index=2))
        assert json.loads(process.stdout.readline())["index"] == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


def test_a_closed_pipe_ends_it_quietly(data_dir):
    send(data_dir, "drift-alarms", alarm(index=1))
    with start(data_dir, "json", subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        send(data_dir, "drift-alarms", *(alarm(index=i) for i in range(100)))
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


def test_a_terminal_is_told_how_to_see_what_was_there_before(data_dir):
    send(data_dir, "drift-alarms", alarm(index=4321))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-P", "-m", "streamgauge.consumers.cli", "tail", "--topic", "alarms"]
    with killed_at_last(
        [*command, "--data-dir", data_dir], stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        seen, give_up_s = b"", time.monotonic() + 60
        while b"old ones)" not in seen:
            assert time.monotonic() < give_up_s
            seen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    os.close(ours)
    assert b"waiting for alarms ... (--from-start shows the old ones)" in seen
    assert b"4,321" not in seen


def test_a_terminal_is_told_what_is_waited_for_then_gets_a_live_table(data_dir):
    EmbeddedBroker(load_config({"broker": {"data_dir": data_dir}})).close()
    ours, theirs = pty.openpty()
    with start(data_dir, "table", theirs) as process:
        os.close(theirs)
        seen, give_up_s = b"", time.monotonic() + 60
        while b"waiting for alarms ..." not in seen and time.monotonic() < give_up_s:
            seen += os.read(ours, 65536)
        assert b"waiting for alarms ..." in seen
        send(data_dir, "drift-alarms", alarm(index=4321))
        while b"4,321" not in seen and time.monotonic() < give_up_s:
            seen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    os.close(ours)
    assert b"page_hinkley" in seen
    assert b"4,321" in seen
