"""The MLflow sink against real MLflow stores: SQLite files, and a server that goes down."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgauge.consumers.child_process import SinkProcess
from streamgauge.consumers.config import load_config
from streamgauge.consumers.embedded.broker import EmbeddedBroker
from streamgauge.consumers.mlflow import entries as mlflow_entries
from streamgauge.consumers.mlflow import store as mlflow_store
from streamgauge.consumers.mlflow.entries import metric_key
from streamgauge.consumers.mlflow.history import (
    MetricHistory,
    charts_url,
    metric_histories,
    mlflow_ui_command,
)
from streamgauge.consumers.mlflow.service import run_sink
from streamgauge.consumers.mlflow.sink import MLflowSink
from streamgauge.consumers.mlflow.store import MLflowDownError, TrackingError
from streamgauge.stream.contracts import (
    RETRAIN_REQUESTED,
    AlarmEvent,
    MetricPoint,
    OffsetRange,
    RetrainRequest,
    RetrainWindow,
)
from tests.support.mlflow_server import MLflowServer
from tests.support.processes import killed_at_last

# MLflow 3.17 on SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[3]
T0_MS = 1_767_225_600_000
T0 = "2026-01-01T00:00:00Z"


def a_config(folder, **mlflow):
    return load_config({"broker": {"data_dir": str(folder)}, "mlflow": mlflow})


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """MLflow's migrations take seconds; each test starts from a copy of their result."""
    config = a_config(tmp_path_factory.mktemp("empty"))
    mlflow_store.connect(config)
    return mlflow_store.default_store(config)


@pytest.fixture
def config(tmp_path, empty_store):
    config = a_config(tmp_path / "with space")
    (tmp_path / "with space").mkdir()
    shutil.copy(empty_store, mlflow_store.default_store(config))
    return config


def a_point(step, values, *, signal="error", version="1", timestamp_ms=T0_MS):
    return MetricPoint(
        model="fraud",
        version=version,
        signal=signal,
        step=step,
        timestamp_ms=timestamp_ms + step,
        values=values,
    )


def an_alarm(index, *, kind="drift", detector="adwin"):
    return AlarmEvent(
        alarm_id=f"{detector}-{index}",
        model="fraud",
        version="1",
        signal="error",
        detector=detector,
        kind=kind,
        direction="up",
        index=index,
        timestamp=T0,
        onset=index,
    )


def a_request(sequence=1):
    window = RetrainWindow(
        outcome_from=900,
        outcome_to=1200,
        n_outcomes=300,
        time_from=T0,
        time_to=T0,
        predictions=None,
        labels=OffsetRange(topic="labels", partition=0, offset_from=900, offset_to=1200),
    )
    return RetrainRequest(
        model="fraud",
        version="1",
        partition=0,
        sequence=sequence,
        episode=1,
        reason="drift",
        severity="severe",
        approval="automatic",
        alarms=[an_alarm(1199)],
        metrics={},
        window=window,
    )


def publish(config, *models, headers=()):
    topics = {
        MetricPoint: config.topics.metrics,
        AlarmEvent: config.topics.alarms,
        RetrainRequest: config.topics.retrain,
    }
    with EmbeddedBroker(config) as broker, broker.producer() as producer:
        for model in models:
            value = model if isinstance(model, bytes) else model.model_dump_json().encode()
            topic = topics.get(type(model), config.topics.metrics)
            producer.send(topic, value, key=b"fraud", headers=headers)


def log_all(config):
    """Every record of the topics, logged as `streamgauge run` does it when it ends."""
    drain, leave = threading.Event(), threading.Event()
    drain.set()
    with EmbeddedBroker(config) as broker:
        return run_sink(config, broker, drain=drain, leave=leave, drain_timeout_s=0)


def client_of(config):
    return mlflow_store.connect(config)


def the_run(config, version="1"):
    client = client_of(config)
    experiment = client.get_experiment_by_name(config.mlflow.experiment)
    runs = client.search_runs(
        [experiment.experiment_id], f"tags.`streamgauge.version` = '{version}'"
    )
    assert len(runs) == 1
    return runs[0]


def history_of(config, key, version="1"):
    points = client_of(config).get_metric_history(the_run(config, version).info.run_id, key)
    return [(point.step, point.timestamp, point.value) for point in points]


def rows_in(config):
    """What MLflow's own table holds but for the zeros that every run begins with, with repeats."""
    with sqlite3.connect(mlflow_store.default_store(config)) as connection:
        rows = connection.execute(
            "SELECT key, step, timestamp, value FROM metrics "
            "WHERE NOT (key LIKE '2_drift/%' AND step = 0)"
        ).fetchall()
    connection.close()
    return sorted(rows)


def spike(step, timestamp_ms):
    return [(step - 1, timestamp_ms, 0.0), (step, timestamp_ms, 1.0), (step + 1, timestamp_ms, 0.0)]


def rows_of(points):
    return sorted(
        (f"3_{point.signal}/{name}", point.step, point.timestamp_ms, value)
        for point in points
        for name, value in point.values.items()
    )


def test_points_arrive_with_their_step_time_and_value(config):
    points = [a_point(step, {"mean": step / 7, "adwin width": 3.0}) for step in (100, 200, 300)]
    publish(config, *points, a_point(100, {"mean": 0.5}, version="2"))

    report = log_all(config)

    assert (report.n_logged, report.n_refused, report.n_waiting) == (4, 0, 0)
    assert history_of(config, "3_error/mean") == [
        (step, T0_MS + step, step / 7) for step in (100, 200, 300)
    ]
    assert history_of(config, "3_error/mean", version="2") == [(100, T0_MS + 100, 0.5)]
    run = the_run(config)
    assert run.info.run_name == "fraud/1"
    assert run.info.start_time == T0_MS + 100
    assert run.data.tags["streamgauge.model"] == "fraud"
    assert "`fraud`, version `1`" in run.data.tags["mlflow.note.content"]


def test_more_metrics_than_mlflow_takes_in_a_call_all_arrive(config):
    points = [a_point(step, {f"m{i}": float(i) for i in range(40)}) for step in range(60)]
    points.append(a_point(60, {f"m{i}": float(i) for i in range(2100)}))
    publish(config, *points)

    assert log_all(config).n_logged == 61
    assert rows_in(config) == rows_of(points)


def test_a_failure_between_two_calls_of_one_record_loses_nothing(config, monkeypatch):
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - it takes seconds
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE  # noqa: PLC0415
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: PLC0415

    point = a_point(60, {f"m{i}": float(i) for i in range(2100)})
    publish(config, point)
    log_batch = SqlAlchemyStore.log_batch
    calls = []

    def fails_the_second_time(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise MlflowException("database is locked", TEMPORARILY_UNAVAILABLE)
        return log_batch(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SqlAlchemyStore, "log_batch", fails_the_second_time)
        with (
            EmbeddedBroker(config) as broker,
            MLflowSink(config, broker) as sink,
            pytest.raises(MLflowDownError, match="database is locked"),
        ):
            sink.step(1)
    assert 0 < len(rows_in(config)) < 2100

    log_all(config)
    assert rows_in(config) == rows_of([point])


def test_a_later_sink_goes_on_in_the_same_run(config):
    publish(config, a_point(1, {"mean": 0.1}))
    log_all(config)
    publish(config, a_point(2, {"mean": 0.2}))

    assert log_all(config).n_logged == 1
    assert [step for step, _, _ in history_of(config, "3_error/mean")] == [1, 2]


def test_alarms_and_requests_become_charts_tags_and_an_artifact(config):
    publish(
        config,
        an_alarm(499),
        an_alarm(600, kind="warning", detector="ddm"),
        an_alarm(999, kind="improvement"),
        an_alarm(1199),
    )
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", b"a/b:c"),
        ("ce_type", RETRAIN_REQUESTED.encode()),
        ("ce_time", b"2026-01-01T00:00:05.000Z"),
        ("content-type", b"application/json"),
    )
    request = a_request(sequence=7)
    publish(config, request, headers=headers)

    log_all(config)

    assert history_of(config, "2_drift/error.adwin") == [
        (0, T0_MS, 0.0),
        *((step, T0_MS, 0.0 if step != 500 else 1.0) for step in (499, 500, 501)),
        *((step, T0_MS, 0.0 if step != 1000 else -1.0) for step in (999, 1000, 1001)),
        *((step, T0_MS, 0.0 if step != 1200 else 1.0) for step in (1199, 1200, 1201)),
    ]
    assert history_of(config, "2_drift/error.page_hinkley") == [(0, T0_MS, 0.0)]
    assert history_of(config, "2_drift/error.ddm.warning") == spike(601, T0_MS)
    assert history_of(config, "2_drift/retrain_requested") == [
        (0, T0_MS, 0.0),
        *spike(1200, T0_MS + 5000),
    ]
    run = the_run(config)
    assert run.data.tags["streamgauge.n_drifts"] == "2"
    assert run.data.tags["streamgauge.last_drift"] == "2026-01-01T00:00:00.000Z"
    assert run.data.tags["streamgauge.last_retrain_request"] == "a/b:c"
    assert run.data.tags["streamgauge.last_retrain_severity"] == "severe"
    stored = Path(config.broker.data_dir, "mlartifacts", run.info.run_id)
    document = json.loads((stored / "artifacts" / "retrain" / "a_b_c.json").read_text())
    assert document == {
        "specversion": "1.0",
        "id": "a/b:c",
        "type": RETRAIN_REQUESTED,
        "time": "2026-01-01T00:00:05.000Z",
        "data": json.loads(request.model_dump_json()),
    }


CRASH = """
    import os, signal, sys, threading
    from streamgauge.consumers.mlflow.service import run_sink
    from streamgauge.consumers.embedded.broker import EmbeddedBroker
    from streamgauge.consumers.embedded.clients import EmbeddedReader
    from streamgauge.consumers.config import load_config

    def die(*args):
        os.kill(os.getpid(), signal.SIGKILL)

    config = load_config({"broker": {"data_dir": sys.argv[1]}})
    if sys.argv[2] == "before the commit":
        EmbeddedReader.commit = die
    else:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
        SqlAlchemyStore._set_tags = die
    drain = threading.Event()
    drain.set()
    with EmbeddedBroker(config) as broker:
        run_sink(config, broker, drain=drain, leave=threading.Event())
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the commit", "between metrics and tags"])
def test_a_kill_loses_nothing_and_repeats_nothing(config, moment):
    points = [a_point(step, {"mean": step / 7, "width": 5.0}) for step in range(1000)]
    publish(config, *points[:400], an_alarm(300), an_alarm(350, kind="warning"))

    command = [sys.executable, "-c", textwrap.dedent(CRASH), config.broker.data_dir, moment]
    killed = subprocess.run(command, cwd=ROOT, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(rows_in(config)) >= 806

    # What is read again comes in another cut, with new records among the old.
    publish(config, *points[400:])
    assert log_all(config).n_waiting == 0
    alarms = [
        *(("2_drift/error.adwin", *row) for row in spike(301, T0_MS)),
        *(("2_drift/error.adwin.warning", *row) for row in spike(351, T0_MS)),
    ]
    assert rows_in(config) == sorted(rows_of(points) + alarms)
    assert the_run(config).data.tags["streamgauge.n_drifts"] == "1"


def test_topics_made_anew_are_not_taken_for_read(tmp_path, empty_store):
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    shutil.copy(empty_store, tmp_path / "elsewhere.db")
    old = a_config(tmp_path / "old", tracking_uri=uri)
    publish(old, *[a_point(step, {"mean": 0.1}) for step in range(5)])
    log_all(old)

    new = a_config(tmp_path / "new", tracking_uri=uri)
    publish(new, *[a_point(step, {"mean": 0.2}) for step in range(10, 13)])
    log_all(new)

    assert [step for step, _, _ in history_of(new, "3_error/mean")] == [0, 1, 2, 3, 4, 10, 11, 12]


def test_a_record_that_mlflow_refuses_is_skipped_and_the_rest_arrives(config, monkeypatch, caplog):
    # Without our cleaning, MLflow refuses a key with parentheses for good.
    monkeypatch.setattr(mlflow_entries, "metric_key", lambda name: name)
    points = [a_point(step, {"mean": 0.1}) for step in range(20)]
    points[13] = a_point(13, {"mean": 0.1, "f1(a)": 0.2})
    publish(config, *points)

    report = log_all(config)

    assert (report.n_logged, report.n_refused, report.n_waiting) == (20, 1, 0)
    assert rows_in(config) == rows_of(points[:13] + points[14:])
    (line,) = caplog.messages
    assert "drift-metrics/0 offset 13 of fraud/1" in line
    assert "f1(a)" in line


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"{broken", "Invalid JSON"),
        (b"", "Invalid JSON"),
        (b'{"model": "fraud"}', "version: Field required"),
        (
            a_point(1, {"m": 0.0}).model_dump_json().replace("0.0", "1e999").encode(),
            "3_error/m: a metric is a finite number",
        ),
        (a_point(1, {"m": 0.0}, timestamp_ms=-99).model_dump_json().encode(), "out of range"),
        (a_point(1, {"m": 0.0}, timestamp_ms=2**63).model_dump_json().encode(), "out of range"),
    ],
)
def test_an_unreadable_record_is_skipped(config, caplog, value, says):
    publish(config, value, a_point(1, {"mean": 0.1}))

    report = log_all(config)

    assert (report.n_logged, report.n_refused, report.n_waiting) == (2, 1, 0)
    assert len(rows_in(config)) == 1
    (line,) = caplog.messages
    assert "drift-metrics/0 offset 0: " in line
    assert says in line


def test_an_artifact_that_cannot_be_stored_keeps_its_metric(config, caplog):
    Path(config.broker.data_dir, "mlartifacts").write_text("a file, where a folder is needed")
    publish(config, a_request())

    report = log_all(config)

    assert (report.n_logged, report.n_refused, report.n_waiting) == (1, 1, 0)
    assert (1200, 1.0) in [row[::2] for row in history_of(config, "2_drift/retrain_requested")]
    (line,) = caplog.messages
    assert "retrain/0-1.json of fraud/1" in line


def test_a_deleted_run_goes_on_in_a_new_one(config, caplog):
    publish(config, a_point(1, {"mean": 0.1}))
    with EmbeddedBroker(config) as broker, MLflowSink(config, broker) as sink:
        assert sink.step(1) == 1
        deleted = the_run(config).info.run_id
        client_of(config).delete_run(deleted)
        publish(config, a_point(2, {"mean": 0.2}), a_point(3, {"mean": 0.3}))
        assert sink.step(1) == 2

    assert the_run(config).info.run_id != deleted
    assert [step for step, _, _ in history_of(config, "3_error/mean")] == [2, 3]
    assert caplog.messages == ["the run of fraud/1 was deleted; it goes on in a new run"]


def test_a_deleted_experiment_is_waited_for_and_the_fix_is_named(config):
    publish(config, a_point(1, {"mean": 0.1}))
    with EmbeddedBroker(config) as broker, MLflowSink(config, broker) as sink:
        sink.step(1)
        client = client_of(config)
        experiment = client.get_experiment_by_name("model-monitoring")
        client.delete_experiment(experiment.experiment_id)
        publish(config, a_point(2, {"mean": 0.2}))
        for _ in range(2):
            with pytest.raises(
                MLflowDownError, match=r"mlflow experiments restore --experiment-id 1"
            ):
                sink.step(1)
        with pytest.raises(TrackingError, match="is deleted: restore it"):
            metric_histories(config, model="fraud")
        client.restore_experiment(experiment.experiment_id)
        assert sink.step(1) == 1

    assert [step for step, _, _ in history_of(config, "3_error/mean")] == [1, 2]


def test_a_drain_gives_up_on_a_store_that_stays_down_and_loses_nothing(
    tmp_path, empty_store, caplog
):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    down = a_config(tmp_path, tracking_uri=f"http://user:secret@127.0.0.1:{port}")
    publish(down, *[a_point(step, {"mean": 0.1}) for step in range(2500)])

    started = time.monotonic()
    with EmbeddedBroker(down) as broker:
        drain, leave = threading.Event(), threading.Event()
        drain.set()
        report = run_sink(down, broker, drain=drain, leave=leave, drain_timeout_s=1.2)

    assert 1.2 <= time.monotonic() - started < 15
    assert (report.n_logged, report.n_waiting) == (0, 2500)
    (line,) = caplog.messages
    assert "Connection refused" in line
    assert "secret" not in line

    up = a_config(tmp_path)
    shutil.copy(empty_store, mlflow_store.default_store(up))
    assert log_all(up).n_logged == 2500
    assert len(rows_in(up)) == 2500


def test_a_sink_waits_for_the_one_before_it_to_end(config):
    publish(config, a_point(1, {"mean": 0.1}))
    reports = []
    with EmbeddedBroker(config) as broker:
        before = MLflowSink(config, broker)
        second = threading.Thread(target=lambda: reports.append(log_all(config)))
        second.start()
        time.sleep(0.7)
        assert second.is_alive()
        before.close()
        second.join(timeout=30)

    assert [report.n_logged for report in reports] == [1]


@pytest.mark.slow
def test_a_kill_while_the_store_is_made_leaves_none(tmp_path):
    config = a_config(tmp_path)
    code = (
        "import sys; from streamgauge.consumers.mlflow.store import connect; "
        "from streamgauge.consumers.config import load_config; "
        "connect(load_config({'broker': {'data_dir': sys.argv[1]}}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 100_000 for path in tmp_path.glob("mlflow-new-*/*.db")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not mlflow_store.default_store(config).exists()

    publish(config, a_point(1, {"mean": 0.1}))
    assert log_all(config).n_logged == 1
    assert history_of(config, "3_error/mean") == [(1, T0_MS + 1, 0.1)]


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty_store):
    folder = tmp_path_factory.mktemp("server")
    config = a_config(folder)
    shutil.copy(empty_store, mlflow_store.default_store(config))
    server = MLflowServer(config, folder)
    server.start()
    yield server
    server.stop()


def until(condition, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


CHILD = """
    import sys
    from streamgauge.consumers.mlflow import sink as mlflow_sink
    from streamgauge.consumers.config import load_config
    from streamgauge.consumers.mlflow import service
    from streamgauge.consumers.config import load_config

    main, folder, uri = sys.argv[1:]
    config = {"broker": {"data_dir": folder}, "mlflow": {"tracking_uri": uri}}
    sys.exit(getattr(service, main)(load_config(config)))
"""


@contextmanager
def sink_process(main, folder, uri):
    command = [sys.executable, "-c", textwrap.dedent(CHILD), main, str(folder), uri]
    pipe = subprocess.PIPE
    with killed_at_last(command, cwd=ROOT, stdin=pipe, stderr=pipe, text=True) as child:
        yield child


@pytest.mark.slow
@pytest.mark.parametrize(
    ("main", "number"), [("main_child", signal.SIGTERM), ("main_service", signal.SIGINT)]
)
def test_a_signal_ends_the_process_and_it_says_what_waits(tmp_path, main, number):
    config = a_config(tmp_path)
    publish(config, a_point(1, {"mean": 0.1}), a_point(2, {"mean": 0.1}))
    with sink_process(main, tmp_path, "http://127.0.0.1:9") as child:
        assert child.stderr.readline().startswith("nothing goes to MLflow")
        child.send_signal(number)
        assert child.wait(timeout=20) == 3
        (line,) = child.stderr.read().splitlines()
    assert line.startswith("2 records wait in the topics for MLflow")


USERS_MODULES = ("stream.py", "detectors/__init__.py", "consumers/__init__.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("python_path", "modules"), [(".", USERS_MODULES), (None, (*USERS_MODULES, "yaml.py"))]
)
def test_a_child_beside_a_users_own_modules_imports_none_of_them(
    config, tmp_path, monkeypatch, capfd, python_path, modules
):
    folder = tmp_path / "users"
    for module in modules:
        (folder / module).parent.mkdir(parents=True, exist_ok=True)
        (folder / module).write_text("raise SystemExit('a module of the user was imported')\n")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if python_path is not None:
        monkeypatch.setenv("PYTHONPATH", python_path)
    publish(config, a_point(1, {"mean": 0.1}))

    assert SinkProcess(config).close() == 0

    assert history_of(config, "3_error/mean") == [(1, T0_MS + 1, 0.1)]
    assert "was imported" not in capfd.readouterr().err


@pytest.mark.slow
def test_an_outage_delays_and_loses_nothing(server, tmp_path):
    config = a_config(tmp_path, tracking_uri=server.uri)
    stored = a_config(server.folder)
    points = [a_point(step, {"mean": step / 7}) for step in range(300)]
    publish(config, *points[:100], a_request())
    with sink_process("main_child", tmp_path, server.uri) as child:
        until(lambda: len(rows_in(stored)) == 103)
        experiments = json.loads(server.get("/api/2.0/mlflow/experiments/search?max_results=9"))
        assert "model-monitoring" in [found["name"] for found in experiments["experiments"]]

        server.stop()
        publish(config, *points[100:200])
        line = child.stderr.readline()
        # Refused, or cut off in the middle of a call.
        assert line.startswith(f"nothing goes to MLflow at {server.uri} (")
        publish(config, *points[200:])
        server.start()
        until(lambda: len(rows_in(stored)) == 303)

        child.send_signal(signal.SIGINT)
        publish(config, a_point(300, {"mean": 0.0}))
        child.stdin.close()
        assert child.wait(timeout=30) == 0
        (last,) = child.stderr.read().splitlines()

    assert last.startswith(f"records go to MLflow at {server.uri} again, after ")
    wanted = rows_of([*points, a_point(300, {"mean": 0.0})])
    assert [row for row in rows_in(stored) if row[0] == "3_error/mean"] == wanted
    run = the_run(config)
    (document,) = client_of(config).list_artifacts(run.info.run_id, "retrain")
    assert document.path == "retrain/0-1.json"


def measured(histories):
    return [history for history in histories if not history.key.startswith("2_drift/")]


def test_histories_of_a_run_and_of_a_model(config):
    publish(
        config,
        a_point(100, {"mean": 0.5}),
        a_point(200, {"mean": 0.2}),
        a_point(300, {"mean": 0.3, "width": 32.0}),
        a_point(100, {"mean": 0.9}, version="2", timestamp_ms=T0_MS + 1000),
    )
    log_all(config)
    first = the_run(config).info.run_id
    second = the_run(config, version="2").info.run_id

    of_the_run = measured(metric_histories(config, run_id=first))

    assert of_the_run == [
        MetricHistory(first, "fraud", "1", "3_error/mean", 3, 100, 300, 0.3, 0.2, 0.5),
        MetricHistory(first, "fraud", "1", "3_error/width", 1, 300, 300, 32.0, 32.0, 32.0),
    ]
    assert measured(metric_histories(config, model="fraud")) == [
        *of_the_run,
        MetricHistory(second, "fraud", "2", "3_error/mean", 1, 100, 100, 0.9, 0.9, 0.9),
    ]
    with pytest.raises(TrackingError, match="no run 'abc' in MLflow at sqlite:"):
        metric_histories(config, run_id="abc")
    with pytest.raises(TrackingError, match=r"no run of model 'scoring' .* it has runs of: fraud"):
        metric_histories(config, model="scoring")
    with pytest.raises(ValueError, match="exactly one"):
        metric_histories(config)


def test_histories_before_anything_is_logged(tmp_path):
    with pytest.raises(TrackingError, match="nothing is logged yet"):
        metric_histories(a_config(tmp_path), model="fraud")
    assert list(tmp_path.iterdir()) == []


def test_a_model_may_have_any_name(config):
    name = 'it\'s "a" `mo%del\\_'
    others = [a_point(1, {"mean": 0.1}).model_copy(update={"model": "it_s _a_ _mo_del_x"})]
    publish(config, *others, a_point(1, {"mean": 0.7}).model_copy(update={"model": name}))
    log_all(config)
    publish(config, a_point(2, {"mean": 0.8}).model_copy(update={"model": name}))
    log_all(config)

    (row,) = measured(metric_histories(config, model=name))
    assert (row.n_points, row.last_value) == (2, 0.8)


def test_the_default_store_is_in_the_brokers_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = a_config("some data")
    assert mlflow_store.tracking_uri(config) == f"sqlite:///{tmp_path}/some data/mlflow.db"
    command = "mlflow ui --backend-store-uri 'sqlite:///some data/mlflow.db'"
    assert mlflow_ui_command(config) == command
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    elsewhere = a_config(tmp_path / "elsewhere")
    command = f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/elsewhere/mlflow.db"
    assert mlflow_ui_command(elsewhere) == command
    remote = a_config("some data", tracking_uri="http://host:5000")
    assert mlflow_ui_command(remote) == "python -m webbrowser http://host:5000"


def test_the_address_of_the_charts_is_that_of_the_newest_run(config):
    with pytest.raises(TrackingError, match="no run of model 'fraud'"):
        charts_url(config, "fraud")
    publish(config, a_point(100, {"mean": 0.5}))
    publish(config, a_point(100, {"mean": 0.9}, version="2", timestamp_ms=T0_MS + 1000))
    log_all(config)
    run_id = the_run(config, version="2").info.run_id
    path = f"/#/experiments/1/runs/{run_id}/model-metrics?workflowType=machine_learning"
    assert charts_url(config, "fraud") == f"http://localhost:5000{path}"


def test_the_experiment_is_no_experiment_with_language_models(config):
    publish(config, a_point(1, {"mean": 0.1}))
    log_all(config)
    tags = client_of(config).get_experiment_by_name("model-monitoring").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert "Model training" in tags["mlflow.note.content"]


def test_an_alarm_is_in_the_chart_of_its_statistic_where_there_is_one(config):
    evidence = {"statistic": 51.2, "threshold": 50.0}
    alarms = [an_alarm(499, detector=name) for name in ("page_hinkley", "adwin", "unknown")]
    publish(config, *(alarm.model_copy(update=evidence) for alarm in alarms))
    log_all(config)
    statistics = [row for row in rows_in(config) if row[0].startswith("3_")]
    assert statistics == [("3_error/page_hinkley.statistic", 500, T0_MS, 51.2)]


def test_counts_that_never_rose_and_the_step_itself_get_no_chart(config):
    publish(
        config,
        a_point(0, {"n_pending": 0.0, "n_held": 0.0, "n_expired": 0.0}, signal="join"),
        a_point(9, {"n_pending": 4.0, "n_held": 0.0, "n_expired": 2.0}, signal="join"),
        a_point(9, {"accuracy": 0.0, "n_outcomes": 9.0}, signal="performance"),
    )
    log_all(config)
    assert [(key, step, value) for key, step, _, value in rows_in(config)] == [
        ("1_performance/accuracy", 9, 0.0),
        ("4_join/n_expired", 9, 2.0),
        ("4_join/n_pending", 0, 0.0),
        ("4_join/n_pending", 9, 4.0),
    ]


# Running and finished


def status_of(config, version="1"):
    info = the_run(config, version).info
    return info.status, info.end_time and info.end_time - T0_MS


def a_join_point(step, version="1"):
    return a_point(step, {"n_pending": 0.0}, signal="join", version=version)


def test_a_run_ends_with_its_sink_and_goes_on_with_the_next(config):
    publish(config, a_point(100, {"mean": 0.1}), a_point(50, {"late": 1.0}))
    with EmbeddedBroker(config) as broker, MLflowSink(config, broker) as sink:
        sink.step(1)
        assert status_of(config) == ("RUNNING", None)
    assert status_of(config) == ("FINISHED", 100)

    publish(config, a_point(200, {"mean": 0.1}))
    with EmbeddedBroker(config) as broker, MLflowSink(config, broker) as sink:
        sink.step(1)
        assert status_of(config)[0] == "RUNNING"
    assert status_of(config) == ("FINISHED", 200)


def test_a_superseded_run_ends_stays_ended_and_goes_on_after_a_rollback(config):
    with EmbeddedBroker(config) as broker, MLflowSink(config, broker) as sink:

        def log(*points):
            publish(config, *points)
            sink.step(1)
            return status_of(config, "1"), status_of(config, "2")

        publish(config, a_join_point(100))
        sink.step(1)
        assert log(a_join_point(150, "2")) == (("FINISHED", 100), ("RUNNING", None))
        # Labels of the old version go on coming in.
        assert log(a_point(160, {"mean": 0.1})) == (("FINISHED", 160), ("RUNNING", None))
        rolled_back = log(a_join_point(200))
        assert [status for status, _ in rolled_back] == ["RUNNING", "FINISHED"]


def test_a_run_that_a_killed_sink_has_left_running_ends_when_its_version_is_superseded(config):
    publish(config, a_join_point(100))
    with EmbeddedBroker(config) as broker:
        sink = MLflowSink(config, broker)
        sink.step(1)
        sink._runs.close = lambda: None  # as if killed
        sink.close()
        assert status_of(config) == ("RUNNING", None)

        publish(config, a_join_point(150, "2"))
        with MLflowSink(config, broker) as later:
            later.step(1)
            assert status_of(config) == ("FINISHED", 100)
            assert status_of(config, "2") == ("RUNNING", None)


def test_a_store_that_is_down_does_not_keep_a_sink_from_ending(config, monkeypatch):
    publish(config, a_point(100, {"mean": 0.1}))
    with EmbeddedBroker(config) as broker, monkeypatch.context() as patch:
        with MLflowSink(config, broker) as sink:
            sink.step(1)
            patch.setattr(type(sink._runs._client), "set_terminated", raises(OSError("down")))
        publish(config, a_point(200, {"mean": 0.1}))
    assert log_all(config).n_logged == 1
    assert status_of(config) == ("FINISHED", 200)


def raises(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def test_a_deleted_run_does_not_keep_a_sink_from_ending(config):
    publish(config, a_point(100, {"mean": 0.1}))
    with EmbeddedBroker(config) as broker, MLflowSink(config, broker) as sink:
        sink.step(1)
        client_of(config).delete_run(the_run(config).info.run_id)


@given(st.lists(st.text(min_size=1, max_size=300), unique=True, min_size=1, max_size=5))
def test_every_metric_name_becomes_a_key_that_mlflow_takes(names):
    from mlflow.utils.validation import _validate_metric  # noqa: PLC0415

    keys = [metric_key(name) for name in names]
    for key in keys:
        _validate_metric(key, 0.0, 0, 0)
    assert len(set(keys)) == len(keys)
