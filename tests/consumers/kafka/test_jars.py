"""Finding Java, and fetching Kafka whole or not at all; with scripts in place of both programs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.kafka.jars import KafkaUnavailableError, fetch_jars
from tests.support.kafka.java import find_java
from tests.support.kafka.service import ROOT

FETCHES = """
for word in "$@"; do
    case "$word" in -DoutputDirectory=*) folder="${word#*=}"; esac
done
/bin/mkdir "$folder" && echo jar > "$folder/a.jar" && echo called >> "$CALLS"
"""
FAILS = """
for word in "$@"; do
    case "$word" in -DoutputDirectory=*) folder="${word#*=}"; esac
done
/bin/mkdir "$folder" && echo half > "$folder/a.jar"
echo "[WARNING] nothing"
echo "[ERROR] Could not transfer artifact"
echo "[ERROR] and more"
exit 1
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A machine with nothing on it, and a function that puts a program there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("STREAMGAUGE_KAFKA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))

    def put(name, script):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)

    return put


def test_jars_are_fetched_once(programs, tmp_path):
    programs("mvn", FETCHES)
    assert fetch_jars() == tmp_path / "home" / "libs"
    assert fetch_jars() == tmp_path / "home" / "libs"
    assert (tmp_path / "calls").read_text() == "called\n"
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["libs"]


def test_several_processes_may_fetch_at_once(programs, tmp_path):
    programs("mvn", f"/bin/sleep 0.5\n{FETCHES}")
    program = "from tests.support.kafka.jars import fetch_jars; print(fetch_jars())"
    fetching = [
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    libs = tmp_path / "home" / "libs"
    assert [process.communicate()[0].strip() for process in fetching] == [str(libs)] * 3
    assert [path.name for path in libs.iterdir()] == ["a.jar"]
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["libs"]


def test_a_failure_is_one_line_and_leaves_nothing(programs, tmp_path):
    programs("mvn", FAILS)
    with pytest.raises(
        KafkaUnavailableError, match=r"fetch Kafka .*: \[ERROR\] Could not transfer"
    ) as e:
        fetch_jars()
    assert "\n" not in str(e.value)
    assert list((tmp_path / "home").iterdir()) == []


def test_without_maven(programs):
    with pytest.raises(KafkaUnavailableError, match=r"no Maven \(mvn\)"):
        fetch_jars()


def test_without_java(programs):
    with pytest.raises(KafkaUnavailableError, match="no Java found"):
        find_java()


@pytest.mark.parametrize(
    "says", ['openjdk version "11.0.2" 2019', 'java version "1.8.0_1"', "what?"]
)
def test_old_java(programs, says):
    programs("java", f"echo '{says}' >&2")
    with pytest.raises(KafkaUnavailableError, match="needs Java 17 or newer;"):
        find_java()


def test_java(programs):
    programs("java", """echo 'openjdk version "21-ea" 2023-09-19' >&2""")
    assert find_java().endswith("/bin/java")
