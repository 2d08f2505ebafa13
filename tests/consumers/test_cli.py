"""The command line as its users meet it: what it prints, what it leaves, and how it refuses."""

from __future__ import annotations

import csv
import json
import logging
import random
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml

from streamgauge.consumers import run as running
from streamgauge.consumers import verify as verifying
from streamgauge.consumers.broker import BrokerError, NotRetainedError
from streamgauge.consumers.cli.main import cli
from streamgauge.consumers.config import read_config
from streamgauge.consumers.embedded.broker import EmbeddedBroker
from streamgauge.consumers.mlflow import service as mlflow_service
from streamgauge.consumers.traffic.demo_stream import demo_stream
from streamgauge.consumers.verify import Verified, verify_all
from streamgauge.stream.records import MONITOR_INPUTS
from tests.support.commands import Ended
from tests.support.harness import START_MS, read_topic
from tests.support.processes import killed_at_last

ROOT = Path(__file__).resolve().parents[2]
STREAMS = ROOT.parent / "shared" / "data" / "streams"
INPUTS = ("predictions", "labels")


def in_a_process(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-P", "-m", "streamgauge.consumers.cli", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=False,
        **options,
    )


def records_of(data_dir, topic):
    config = read_config(None, data_dir)
    with EmbeddedBroker(config) as broker:
        return list(read_topic(broker, topic).values())


def write_config(folder, text):
    path = folder / "config.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    """Class 1 where x > 0 in the first 1500 rows, where x > 0.6 in the next 1000, 0 in the rest."""
    rng = random.Random(5)
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "noise", "class"])
        for i in range(3500):
            x = rng.uniform(-1, 1)
            limit = 0.6 if 1500 <= i < 2500 else 0.0
            writer.writerow([f"{x:.4f}", f"{rng.random():.4f}", int(x > limit)])
    return path


def events(n):
    """Predictions and labels of `n` outcomes of model `m`, all right, as lines."""
    common = [{"prediction_id": str(i), "model": "m", "timestamp": START_MS + i} for i in range(n)]
    return (
        [json.dumps(c | {"version": "1", "prediction": 1}).encode() for c in common],
        [json.dumps(c | {"label": 1}).encode() for c in common],
    )


@pytest.fixture
def worked(streamgauge, tmp_path):
    """A folder with 250 outcomes, two dead letters and everything committed."""
    predictions, labels = events(250)
    common = ("--data-dir", tmp_path / "data")
    for topic, lines in zip(INPUTS, (predictions, [*labels, b"{", b"[]"]), strict=True):
        ended = streamgauge("produce", "--topic", topic, *common, stdin=b"\n".join(lines))
        assert ended == (0, f"{len(lines)} records to {topic}\n", "")
    assert streamgauge("run", "--until-idle", "--no-sink", *common).status == 0
    return tmp_path / "data"


# Help


def commands(group=cli, names=()):
    yield names
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*names, name))


def test_help_of_every_command_imports_nothing_slow():
    script = f"""
import sys
from streamgauge.consumers.cli.main import main
for names in {list(commands())!r}:
    sys.argv = ["streamgauge", *names, "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, names
slow = {{"river", "mlflow", "numpy"}} & set(sys.modules)
assert not slow, slow
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Usage: streamgauge") == len(list(commands()))


# Refusals


VALID = "--data-dir {tmp}/data"

REFUSED = {
    # What was asked for cannot be.
    "no such command": ("wrok", 2, "No such command 'wrok'"),
    "no such option": (f"run --until-idel {VALID}", 2, "No such option '?--until-idel"),
    "missing option": (f"produce {VALID}", 2, "Missing option '--topic'"),
    "not a choice": (f"produce --topic lables {VALID}", 2, "'lables' is not one of"),
    "missing argument": (f"replay --target class --model m {VALID}", 2, "Missing argument 'FILE'"),
    "missing file": (f"replay nowhere.csv --target y --model m {VALID}", 2, "nowhere.csv"),
    "missing file to produce": (f"produce --topic labels nowhere.jsonl {VALID}", 2, "nowhere"),
    "not a duration": (
        f"replay {{csv}} --target class --model m --label-delay soon {VALID}",
        2,
        "--label-delay: a duration is a number and ms, s, m, h or d .* got 'soon'",
    ),
    "not a number": (f"replay {{csv}} --target class --model m --rate x {VALID}", 2, "'--rate'"),
    "both or neither": (f"metrics list {VALID}", 2, "exactly one of --run-id and --model"),
    "summary into a missing folder": (
        f"run --until-idle --no-sink --summary {{tmp}}/no/s.json {VALID}",
        2,
        "--summary.*no",
    ),
    # The configuration cannot be used.
    "missing config": ("run -c {tmp}/nowhere.yaml", 2, "nowhere.yaml: cannot be read: No such"),
    "config is a folder": ("run -c {tmp}", 2, "cannot be read: Is a directory"),
    "binary config": ("run -c {binary}", 2, "cannot be read: it is not UTF-8"),
    "bad YAML": ("run -c {bad_yaml}", 2, "config.*: not YAML: .*line 3"),
    "not a mapping": ("config check {list_yaml}", 2, "is a mapping of sections, got list"),
    "unknown keys": (
        f"run -c {{unknown_keys}} {VALID}",
        2,
        "defaults.polcy: unknown key; .*; broker.partitons: unknown key",
    ),
    "unknown detector": (
        "config check {unknown_detector}",
        2,
        r"defaults\.detectors\.a: no detector 'ADVIN'; use ADWIN",
    ),
    "unknown detector, at run time": (
        f"run --until-idle --no-sink -c {{unknown_detector}} {VALID}",
        2,
        r"defaults\.detectors\.a: no detector 'ADVIN'; use ADWIN",
    ),
    "unknown learner": ("config check {unknown_learner}", 2, r"defaults\.learner: module 'river"),
    # It went wrong while running.
    "no such column": (
        f"replay {{csv}} --target klass --model m {VALID}",
        2,
        "--target: .*rows.csv: no column 'klass'; its columns are x, noise, class",
    ),
    "no such column to drop": (
        f"replay {{csv}} --target class --model m --drop noise,nose {VALID}",
        2,
        "--drop: .*rows.csv: no column 'nose'; its columns are x, noise, class",
    ),
    "the target dropped": (
        f"replay {{csv}} --target class --model m --drop class {VALID}",
        2,
        "--drop: .*the target 'class' cannot be dropped",
    ),
    "too few rows": (
        f"replay {{csv}} --target class --model m --train-rows 9999 {VALID}",
        2,
        "--train-rows: .*3,500 rows, fewer than the 9,999 to train on",
    ),
    "no rows to train on": (
        f"replay {{csv}} --target class --model m --train-rows 0 {VALID}",
        2,
        "--train-rows: at least 1, got 0",
    ),
    "no probability of a repeat": (
        f"replay {{csv}} --target class --model m --duplicate-labels 1.5 {VALID}",
        2,
        "--duplicate-labels: a probability, got 1.5",
    ),
    "no probability of a loss": (
        f"replay {{csv}} --target class --model m --missing-labels -1 {VALID}",
        2,
        "--missing-labels: a probability, got -1.0",
    ),
    "no rows per second": (
        f"replay {{csv}} --target class --model m --rate 0 {VALID}",
        2,
        "--rate: more than 0 rows per second, got 0.0",
    ),
    "no such learner": (
        f"replay {{csv}} --target class --model m --learner river.tree.NoTree {VALID}",
        2,
        "--learner: module 'river.tree' has no 'NoTree'",
    ),
    "a model without a name": (
        f"replay {{csv}} --target class --model= {VALID}",
        2,
        "--model: 1 to 200 characters, got 0",
    ),
    "a name that no event may bear": (
        f"replay {{csv}} --target class --model {'m' * 201} {VALID}",
        2,
        "--model: 1 to 200 characters, got 201",
    ),
    "a version without a name": (
        f"replay {{csv}} --target class --model m --model-version= {VALID}",
        2,
        "--model-version: 1 to 200 characters, got 0",
    ),
    # A wrong folder must not look like one in which nothing has happened.
    "no topics to list": (f"topics list {VALID}", 1, r"there is nothing at .*data: no broker\.db"),
    "nothing to verify": (f"verify {VALID}", 1, r"there is nothing at .*data: no broker\.db"),
    "nothing to tail": (f"tail --no-follow {VALID}", 1, r"there is nothing at .*data: no broker"),
    "nothing logged yet": (f"metrics list --model m {VALID}", 1, "nothing is logged yet"),
    "folder is a file": ("topics list --data-dir {csv}", 2, "'--data-dir'"),
    "folder below a file": ("run --until-idle --data-dir {csv}/data", 1, "cannot be made"),
    "corrupt broker file": (
        "topics list --data-dir {corrupt}",
        1,
        r"broker\.db: file is not a database; restore it from a copy, or delete the folder",
    ),
    "corrupt broker file, at run time": (
        "run --until-idle --no-sink --data-dir {corrupt}",
        1,
        r"broker\.db: file is not a database",
    ),
    "another number of partitions": (
        "topics list --data-dir {three_partitions}",
        1,
        "has 3 partitions, broker.partitions is 1",
    ),
    "a folder that no demo has made": ("demo --dir {corrupt}", 1, "no demo has made"),
}


# Their options are only known to be wrong when the file has been read, with the broker at hand.
MAKES_A_FOLDER = frozenset(
    name for name, (command, *_) in REFUSED.items() if command.startswith("replay {csv}")
)


@pytest.fixture(scope="module")
def unusable(tmp_path_factory, csv_path):
    """Things that commands are to refuse, by name."""
    folder = tmp_path_factory.mktemp("unusable")

    def write(name, content):
        (folder / name).mkdir()
        path = folder / name / "config.yaml"
        path.write_bytes(content)
        return path

    (folder / "corrupt").mkdir()
    (folder / "corrupt" / "broker.db").write_bytes(b"not a database " * 500)
    three = {"broker": {"data_dir": str(folder / "three"), "partitions": 3}}
    EmbeddedBroker(read_config(write("3", yaml.safe_dump(three).encode()))).close()
    return {
        "csv": csv_path,
        "corrupt": folder / "corrupt",
        "three_partitions": folder / "three",
        "binary": write("binary", b"\xff\xfe"),
        "bad_yaml": write("bad", b"broker:\n  data_dir: [\n"),
        "list_yaml": write("list", b"- broker\n"),
        "unknown_keys": write("keys", b"broker: {partitons: 2}\ndefaults: {polcy: {}}\n"),
        "unknown_detector": write("detector", b"defaults: {detectors: {a: {kind: ADVIN}}}\n"),
        "unknown_learner": write("learner", b"defaults: {learner: {path: river.tree.NoTree}}\n"),
    }


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_one_line_with_its_status(streamgauge, unusable, tmp_path, name):
    command, status, expected = REFUSED[name]
    ended = streamgauge(*(word.format(tmp=tmp_path, **unusable) for word in command.split()))
    assert ended.status == status, ended
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ")
    assert re.search(expected, line), line
    if status == 2 or "there is nothing" in expected or "nothing logged" in expected:
        assert name in MAKES_A_FOLDER or not (tmp_path / "data").exists()


def test_a_refusal_of_a_real_process_is_one_line_with_its_status():
    ended = in_a_process("run", "-c", "nowhere.yaml")
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr == b"error: nowhere.yaml: cannot be read: No such file or directory\n"


# Producing


ODD_LINES = (
    b'{"model": "a", "x": 1}\n'
    b'{"model": "b"}\r\n'
    b"\n"
    b"\r\n"
    b"\xff\xfe not UTF-8 \x00\n"
    b'  {"data": {"model": "c"}, "specversion": "1.0"}  \n'
    b'{"model": 7}\n'
    b'{"model": "\xc3\xa9", "last": "without a line end"}'
)
ODD_RECORDS = [
    (b"a", b'{"model": "a", "x": 1}'),
    (b"b", b'{"model": "b"}'),
    (None, b"\xff\xfe not UTF-8 \x00"),
    (b"c", b'  {"data": {"model": "c"}, "specversion": "1.0"}  '),
    (None, b'{"model": 7}'),
    ("é".encode(), b'{"model": "\xc3\xa9", "last": "without a line end"}'),
]


@pytest.mark.parametrize("source", ["file", "standard input", "pipe"])
def test_produce_sends_the_bytes_of_each_line_keyed_by_model(streamgauge, tmp_path, source):
    arguments = ("produce", "--topic", "labels", "--data-dir", tmp_path / "data")
    if source == "file":
        (tmp_path / "lines").write_bytes(ODD_LINES)
        ended = streamgauge(*arguments, tmp_path / "lines")
    elif source == "standard input":
        ended = streamgauge(*arguments, "-", stdin=ODD_LINES)
    else:
        piped = in_a_process(*arguments, input=ODD_LINES)
        ended = Ended(piped.returncode, piped.stdout.decode(), piped.stderr.decode())
    assert ended == (0, "6 records to labels\n", "")
    records = records_of(tmp_path / "data", "labels")
    assert [(record.key, record.value) for record in records] == ODD_RECORDS


def test_produce_does_not_keep_the_first_line_of_a_pipe_until_the_last(tmp_path):
    command = ["produce", "--topic", "labels", "--data-dir", str(tmp_path)]
    EmbeddedBroker(read_config(None, tmp_path)).close()
    with killed_at_last(
        [sys.executable, "-P", "-m", "streamgauge.consumers.cli", *command],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as process:
        process.stdin.write(b"first\n")
        process.stdin.flush()
        with (
            EmbeddedBroker(read_config(None, tmp_path)) as broker,
            broker.reader(["labels"]) as reader,
        ):
            (record,) = reader.poll(timeout_s=30.0)
        assert record.value == b"first"
        assert process.poll() is None


def test_producing_nothing_is_no_error(streamgauge, tmp_path):
    ended = streamgauge("produce", "--topic", "labels", "--data-dir", tmp_path, stdin=b"\n\n")
    assert ended == (0, "0 records to labels\n", "")


# Replay, run, summary


def test_replay_and_run_sum_up_what_was_seen_and_found(streamgauge, csv_path, tmp_path):
    common = ("--data-dir", tmp_path / "data")
    replayed = streamgauge(
        "replay", csv_path, "--target", "class", "--model", "m", "--train-rows", 500,
        "--label-delay", "30s", "--label-jitter", "5s",
        "--duplicate-labels", 0.05, "--missing-labels", 0.02, *common,
    )  # fmt: skip
    assert replayed.status == 0, replayed.err
    counts = re.search(
        r"sent 3,000 predictions and ([\d,]+) labels \((\d+) sent twice, (\d+) never\)",
        replayed.out,
    )
    n_labels, n_twice, n_never = (int(text.replace(",", "")) for text in counts.groups())
    assert n_labels + n_never == 3000
    assert min(n_twice, n_never) > 0
    ran = streamgauge("run", "--until-idle", "--no-sink", "--summary", tmp_path / "s.json", *common)
    assert ran.status == 0, ran.err
    assert ran.out == ""
    summary = json.loads((tmp_path / "s.json").read_text())
    alarms, requests = summary.pop("alarms"), summary.pop("retrain_requests")
    assert summary.pop("seconds") > 0
    assert summary == {
        "partitions": [0],
        "n_partitions": 1,
        "n_predictions": 3000,
        "n_labels": n_labels + n_twice,
        "n_outcomes": n_labels,
        "n_duplicate_predictions": 0,
        "n_duplicate": n_twice,
        "n_correction": 0,
        "n_expired": 0,
        "n_orphaned": 0,
        "n_released_early": 0,
        "n_pending": n_never,
        "n_early": 0,
        "n_held": 0,
        "n_unmonitored": 0,
        "n_dead_letters": 0,
        "n_models_evicted": 0,
    }
    assert {" ".join(alarm) for alarm in alarms} == {
        "model version signal detector kind direction index timestamp onset"
    }
    assert {"adwin", "esr", "page_hinkley"} == {alarm["detector"] for alarm in alarms}
    # The world changes at outcome 1000 and back at 2000, less the labels that never came.
    assert [alarm["kind"] for alarm in alarms if alarm["detector"] == "esr"] == [
        "drift",
        "improvement",
    ]
    first = next(alarm for alarm in alarms if alarm["detector"] == "esr")
    assert 950 < first["index"] < 1100
    assert (first["model"], first["version"], first["signal"]) == ("m", "1", "error")
    assert first["direction"] == "up"
    assert 900 < first["onset"] <= first["index"]
    ago = datetime.now(UTC) - datetime.fromisoformat(first["timestamp"])
    assert timedelta(0) < ago < timedelta(hours=2)
    assert_one_request(requests, alarms)


def assert_one_request(requests, alarms):
    """One CloudEvent with its data, about the first alarm."""
    (request,) = requests
    data = request.pop("data")
    assert request.pop("id")
    assert request == {
        "specversion": "1.0",
        "source": "/streamgauge/streamgauge",
        "type": "io.streamgauge.retrain.requested.v1",
        "subject": "m/1",
        "time": request["time"],
        "datacontenttype": "application/json",
    }
    assert (data["model"], data["version"], data["sequence"]) == ("m", "1", 1)
    assert (data["reason"], data["approval"], data["episode"]) == ("drift", "automatic", 1)
    assert data["alarms"][0]["index"] == alarms[0]["index"]
    assert data["metrics"]["error"]["before"] < data["metrics"]["error"]["after"]
    window = data["window"]
    assert window["n_outcomes"] == window["outcome_to"] - window["outcome_from"] > 0
    assert {window["predictions"]["topic"], window["labels"]["topic"]} == set(INPUTS)


def test_a_second_run_sums_up_the_first_as_well(streamgauge, worked, tmp_path):
    path = tmp_path / "s.json"
    ended = streamgauge("run", "--until-idle", "--no-sink", "--summary", path, "--data-dir", worked)
    assert ended.err.splitlines()[-1].startswith(
        "in all 250 predictions, 250 labels, 250 outcomes, 2 dead letters; 0 alarms,"
        " 0 retrain requests; ran for "
    )
    assert json.loads(path.read_text())["n_dead_letters"] == 2


def broken_late(folder):
    path = folder / "late.csv"
    rows = "".join(f"{i},{'ab'[i % 2]}\n" for i in range(40))
    path.write_text(f"x,class\n{rows}1,2,3\n")
    return path


def test_an_error_late_in_a_file_says_how_much_was_sent(streamgauge, tmp_path):
    ended = streamgauge(
        "replay", broken_late(tmp_path), "--target", "class", "--model", "m", "--train-rows", 20,
        "--data-dir", tmp_path / "data",
    )  # fmt: skip
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.endswith("; 20 predictions and 20 labels were sent before that\n")


def test_a_replay_that_is_interrupted_says_how_much_was_sent(streamgauge, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("streamgauge.consumers.traffic.send.FLUSH_EVERY", 7)
    monkeypatch.setattr("streamgauge.consumers.traffic.send.time.sleep", interrupt)
    ended = streamgauge(
        "replay", broken_late(tmp_path), "--target", "class", "--model", "m", "--train-rows", 20,
        "--data-dir", tmp_path / "data",
    )  # fmt: skip
    assert ended.status == 130
    assert ended.err.splitlines()[-1] == "stopped: 7 predictions and 7 labels were sent before that"
    assert len(records_of(tmp_path / "data", "predictions")) == 7


@pytest.mark.slow
@pytest.mark.skipif(not STREAMS.is_dir(), reason="the shared streams are not here")
def test_the_first_change_of_the_sine_stream_is_found_within_100_outcomes(streamgauge, tmp_path):
    path = STREAMS / "lobo_sine_0123_abrupto.csv.gz"
    common = ("--data-dir", tmp_path / "data")
    replayed = streamgauge("replay", path, "--target", "class", "--model", "lobo", *common)
    assert replayed.status == 0, replayed.err
    ran = streamgauge("run", "--until-idle", "--no-sink", "--summary", tmp_path / "s.json", *common)
    assert ran.status == 0, ran.err
    alarms = json.loads((tmp_path / "s.json").read_text())["alarms"]
    first = next(alarm for alarm in alarms if alarm["kind"] == "drift")
    # The first 1000 of the rows before the change at row 10,000 have trained the model.
    assert 9000 <= first["index"] < 9100


# Reading what was published


@pytest.mark.parametrize(
    ("topic", "n", "fields"),
    [
        ("metrics", 2 * 2 + 2, {"model", "version", "signal", "step", "timestamp_ms", "values"}),
        ("dead-letters", 2, {"topic", "partition", "offset", "reason", "detail", "value"}),
        ("alarms", 0, set()),
        ("retrain", 0, set()),
    ],
)
def test_tail_prints_one_json_object_a_line(streamgauge, worked, topic, n, fields):
    ended = streamgauge(
        "tail", "--topic", topic, "--json", "--from-start", "--no-follow", "--data-dir", worked
    )
    nothing = "" if n else {"alarms": "no alarms\n", "retrain": "no retrain requests\n"}[topic]
    assert (ended.status, ended.err) == (0, nothing)
    shown = [json.loads(line) for line in ended.out.splitlines()]
    assert len(shown) == n
    assert all(set(one) == fields for one in shown)


def test_tail_of_one_model_leaves_the_others_out(streamgauge, worked):
    def tail_of(model):
        common = ("--from-start", "--no-follow", "--data-dir", worked)
        return streamgauge("tail", "--model", model, *common)

    assert len(tail_of("m").out.splitlines()) == 6
    assert tail_of("other") == (0, "", "no metrics of model 'other'\n")


def test_topics_list_counts_records(streamgauge, worked):
    shown = streamgauge("topics", "list", "--json", "--data-dir", worked).out.splitlines()
    sizes = {topic["name"]: topic["n_records"] for topic in map(json.loads, shown)}
    assert sizes == {
        "predictions": 250,
        "labels": 252,
        "drift-metrics": 6,
        "drift-alarms": 0,
        "retrain-requests": 0,
        "retrain-status": 0,
        "dead-letters": 2,
    }
    table = streamgauge("topics", "list", "--data-dir", worked).out
    assert re.search(r"^labels +1 +252 ", table, re.MULTILINE)
    assert not re.search(" $", table, re.MULTILINE)
    assert table.splitlines()[-1].startswith("times in UTC")
    assert "marker" not in table


def test_config_check_says_what_is_wrong_a_line_each(streamgauge, unusable):
    ended = streamgauge("config", "check", unusable["unknown_keys"])
    assert (ended.status, ended.out) == (2, "")
    first, second = ended.err.splitlines()
    assert first.startswith("error: defaults.polcy: unknown key")
    assert second.startswith("error: broker.partitons: unknown key")


def test_outcomes_held_until_they_are_mature_are_summed_up(streamgauge, tmp_path):
    path = write_config(tmp_path, "defaults: {join: {label_maturity: 2h}}")
    common = ("-c", path, "--data-dir", tmp_path / "data")
    for topic, lines in zip(INPUTS, events(1200), strict=True):
        streamgauge("produce", "--topic", topic, *common, stdin=b"\n".join(lines))
    ended = streamgauge(
        "run", "--until-idle", "--no-sink", "--summary", tmp_path / "s.json", *common
    )
    assert "0 outcomes (1,200 held by label_maturity), 0 dead letters" in ended.err
    assert json.loads((tmp_path / "s.json").read_text())["n_held"] == 1200


@pytest.mark.parametrize(
    ("command", "mlflow", "says"),
    [
        (["run"], "{}", True),
        (["run", "--no-sink"], "{}", False),
        (["run"], "{tracking_uri: 'http://127.0.0.1:1'}", False),
        (["sink"], "{}", True),
        (["sink", "--until-eof"], "{}", False),
        (["sink"], "{tracking_uri: 'http://127.0.0.1:1'}", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_on_kafka_it_is_said_that_metrics_stay_on_this_machine(
    streamgauge, tmp_path, caplog, monkeypatch, command, mlflow, says
):
    def ends(*_, **__):
        raise BrokerError("enough")

    monkeypatch.setattr(running, "run", ends)
    for name in ("main_child", "main_service"):
        monkeypatch.setattr(mlflow_service, name, ends)
    path = write_config(
        tmp_path,
        f"broker: {{kind: kafka, bootstrap_servers: '127.0.0.1:1'}}\nmlflow: {mlflow}",
    )
    streamgauge(*command, "-c", path, "--data-dir", tmp_path / "here")
    told = [text for text in caplog.messages if "on this machine alone" in text]
    assert len(told) == says
    assert all(f"mlflow.db in {tmp_path / 'here'}" in text for text in told)


def test_a_run_says_what_it_finds(streamgauge, csv_path, tmp_path, caplog):
    caplog.set_level(logging.INFO, "streamgauge.consumers.terminal.announce")
    common = ("--data-dir", tmp_path / "data")
    assert streamgauge("replay", csv_path, "--target", "class", "--model", "m", *common).status == 0
    assert streamgauge("run", "--until-idle", "--no-sink", *common).status == 0
    said = [
        record.message
        for record in caplog.records
        if record.name == "streamgauge.consumers.terminal.announce"
    ]
    patterns = [
        r"m/1: drift of error found by esr at outcome [\d,]+, mean 0\S* -> 0\.\d+",
        r"m/1: asked for a retrain \((moderate|severe), drift\) on \d+ outcomes",
    ]
    for pattern in patterns:
        assert sum(bool(re.fullmatch(pattern, line)) for line in said) == 1, said
    caplog.clear()
    assert streamgauge("run", "--until-idle", "--no-sink", *common).status == 0
    assert not [
        record
        for record in caplog.records
        if record.name == "streamgauge.consumers.terminal.announce"
    ]


# Configuration


def test_the_schema_takes_what_check_takes_and_refuses_unknown_keys(streamgauge, tmp_path):
    schema = json.loads(streamgauge("config", "schema").out)
    text = """
        app: churn
        broker: {data_dir: data, partitions: 2, timeout: 500ms}
        models:
          m:
            task: classification
            detectors: {adwin: {kind: ADWIN, params: {delta: 0.01}}}
            policy: {rule: any, cool_down: 500, period: {time: 7d}}
            join: {label_maturity: 1.5h}
    """
    path = write_config(tmp_path, text)
    assert streamgauge("config", "check", path) == (0, f"{path}: valid\n", "")
    validator = jsonschema.Draft202012Validator(schema)
    config = yaml.safe_load(text)
    validator.validate(config)
    for wrong in (
        config | {"brokre": {}},
        config | {"broker": {"partitons": 2}},
        config | {"models": {"m": {"polcy": {}}}},
        config | {"broker": {"timeout": 500}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(wrong)


# Verification


def tamper(data_dir, sql):
    with closing(sqlite3.connect(data_dir / "broker.db")) as connection, connection:
        assert connection.execute(sql).rowcount == 1


LABEL_17 = "(SELECT id << 40 FROM logs WHERE topic = 'labels') + 17"


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (
            f"UPDATE journal SET state_digest = '{'0' * 32}' WHERE sequence = 1",
            f"commit 1: the digest is {'0' * 32} in the journal, [0-9a-f]{{32}} in the replay",
        ),
        (
            f"UPDATE records SET value = replace(value, 'label', 'liver') WHERE id = {LABEL_17}",
            "commit 1: the digest is [0-9a-f]{32} in the journal, [0-9a-f]{32} in the replay",
        ),
        (
            "UPDATE journal SET offsets_to = json_replace(offsets_to, '$[1]', 1) WHERE sequence = 1",
            "commit 1: the digest is ",
        ),
    ],
    ids=["digest", "input", "range"],
)
def test_verify_agrees_until_something_is_tampered_with(streamgauge, worked, sql, expected):
    command = ("verify", "--data-dir", worked)
    assert streamgauge(*command) == (0, "partition 0: 1 commit of 502 records agree\n", "")
    tamper(worked, sql)
    ended = streamgauge(*command)
    assert ended.status == 1
    (line,) = ended.err.splitlines()
    assert re.match(f"error: partition 0: differs: {expected}", line), line


def test_verify_says_so_when_the_configuration_is_another(streamgauge, worked, tmp_path):
    path = write_config(tmp_path, "defaults: {metrics: {every: 10}}")
    ended = streamgauge("verify", "-c", path, "--data-dir", worked)
    assert (ended.status, ended.err) == (
        3,
        "error: partition 0: not comparable: commit 1 was made under another configuration\n",
    )


def test_verify_says_so_when_the_input_is_no_longer_retained(streamgauge, worked):
    config = read_config(None, worked)
    for first in (250, 300):
        common = ("--data-dir", worked)
        for topic, lines in zip(INPUTS, events(first + 50), strict=True):
            new = lines[first:]
            streamgauge("produce", "--topic", topic, *common, stdin=b"\n".join(new))
        streamgauge("run", "--until-idle", "--no-sink", *common)
    assert streamgauge("verify", "--data-dir", worked).status == 0
    with EmbeddedBroker(config) as broker, closing(broker.join_group(MONITOR_INPUTS)) as tasks:
        tasks.rebalance()
        broker.apply_retention(time.time_ns() // 1_000_000 + 8 * 86_400_000)
    with EmbeddedBroker(config) as broker:
        assert list(broker.journal(0)) == []
    for topic, lines in zip(INPUTS, events(360), strict=True):
        streamgauge(
            "produce", "--topic", topic, "--data-dir", worked, stdin=b"\n".join(lines[350:])
        )
    streamgauge("run", "--until-idle", "--no-sink", "--data-dir", worked)
    ended = streamgauge("verify", "--data-dir", worked)
    assert (ended.status, ended.out) == (3, "partition 0: 0 commits of 0 records agree\n")
    assert ended.err == (
        "error: partition 0: not comparable: the input of commit 1 is no longer retained, and the"
        " journal goes on at commit 4\n"
    )


def test_verify_tells_each_partition_as_soon_as_it_is_done(streamgauge, worked, monkeypatch):
    def one_and_no_more(*_):
        yield Verified(0, 3, 90, "agrees")
        raise BrokerError("it went away")

    monkeypatch.setattr(verifying, "verify_all", one_and_no_more)
    ended = streamgauge("verify", "--data-dir", worked)
    assert ended.out == "partition 0: 3 commits of 90 records agree\n"
    assert (ended.status, ended.err) == (1, "error: it went away\n")


def test_verify_says_so_when_retention_is_quicker_than_it_is(worked, monkeypatch):
    config = read_config(None, worked)

    def gone(*_):
        raise NotRetainedError("it went")

    with EmbeddedBroker(config) as broker:
        monkeypatch.setattr(broker, "fetch", gone)
        (verified,) = verify_all(broker, config, None)
    assert (verified.outcome, verified.problem) == (
        "not comparable",
        "the input of commit 1 is no longer retained",
    )


# The demo


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_the_demo_finds_every_change_and_leaves_its_metrics_in_mlflow(streamgauge, tmp_path):
    folder = tmp_path / "demo"
    ended = streamgauge("demo", "--no-progress", "--dir", folder)
    assert ended.status == 0, ended.err
    assert "0 false alarms, 0 needless retrain requests" in ended.out
    assert "not found" not in ended.out
    changes = demo_stream(seed=1).changes
    alarms = [json.loads(record.value) for record in records_of(folder, "drift-alarms")]
    requests = [json.loads(record.value) for record in records_of(folder, "retrain-requests")]
    kinds = {"degradation": "drift", "improvement": "improvement"}
    for change in changes:
        about = [a for a in alarms if 0 <= a["index"] - change.outcome <= 1000]
        assert about, change
        assert {a["kind"] for a in about} == {kinds[change.kind]}
        alarms = [a for a in alarms if a not in about]
        asked = [r for r in requests if 0 <= r["window"]["outcome_to"] - change.outcome <= 1000]
        assert len(asked) == (change.kind == "degradation"), change
        requests = [r for r in requests if r not in asked]
    assert (alarms, requests) == ([], [])

    common = ("metrics", "list", "--data-dir", folder)
    listed = streamgauge(*common, "--model", "demo", "--json")
    assert listed.status == 0, listed.err
    histories = [json.loads(line) for line in listed.out.splitlines()]
    n_points = {history["key"]: history["n_points"] for history in histories}
    assert n_points["1_performance/accuracy"] > 150, n_points
    statistic = next(h for h in histories if h["key"] == "3_error/page_hinkley.statistic")
    assert statistic["max_value"] > 50.0
    charts = f"/runs/{histories[0]['run_id']}/model-metrics?workflowType=machine_learning\n"
    assert f"  http://localhost:5000/#/experiments/1{charts}" in ended.out
    refused = streamgauge(*common, "--model", "nobody")
    assert refused.status == 1
    assert re.fullmatch(r"error: .*'nobody'.*\n", refused.err)
