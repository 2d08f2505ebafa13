"""`run` and its child, the MLflow sink: a child that dies is missed, and a signal too many hurries."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from streamgauge.consumers import child_process
from streamgauge.consumers.broker import PartitionsTakenError
from streamgauge.consumers.child_process import SinkProcess
from streamgauge.consumers.connect import open_broker
from streamgauge.consumers.run import run, warm_up_for
from streamgauge.stream.records import MONITOR_INPUTS
from tests.support.harness import crowded_config

# In place of the sink: each notes in a file that it has started, and then does as it is named.
SINKS = {
    "good": "sys.stdin.read()",
    "dying": "sys.exit(5)",
    "draining": "time.sleep(60)",
}
DEADLINE_S = 20


@pytest.fixture
def sink(tmp_path, monkeypatch):
    """Replaces the sink by another program; the processes of it that have started, by id."""
    started = tmp_path / "started"
    started.touch()

    def replace(name):
        program = f"""
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
with open({str(started)!r}, "a") as file:
    print(os.getpid(), file=file)
{SINKS[name]}
"""
        monkeypatch.setattr(child_process, "_command", lambda _: [sys.executable, "-c", program])
        return lambda: [int(line) for line in started.read_text().split()]

    return replace


@pytest.fixture
def config(tmp_path):
    config = crowded_config(tmp_path / "data")
    # `run` would compile what is not yet, and that may take longer than is waited here.
    warm_up_for(config)
    return config


def until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def taken_over(tasks):
    try:
        return tasks.rebalance().restored
    except PartitionsTakenError:
        return ()


def test_a_sink_that_dies_is_missed_and_started_again(sink, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(child_process, "_RESTART_MIN_S", 0.2)
    started = sink("good")
    process = SinkProcess(crowded_config(tmp_path / "data"))
    until(lambda: len(started()) == 1)
    process.look_after()
    assert caplog.messages == []
    os.kill(started()[0], signal.SIGKILL)
    until(lambda: process.look_after() or caplog.messages)
    (message,) = caplog.messages
    assert message.startswith("the MLflow sink ended with status -9; it starts again in 0.2 s")
    until(lambda: process.look_after() or len(started()) == 2)
    assert process.close() == 0
    assert len(caplog.messages) == 1


def test_it_is_started_ever_later_and_its_last_end_is_told(sink, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(child_process, "_RESTART_MIN_S", 0.01)
    started = sink("dying")
    process = SinkProcess(crowded_config(tmp_path / "data"))
    until(lambda: process.look_after() or len(caplog.messages) == 4)
    assert [m.split(" in ")[1].split(" s")[0] for m in caplog.messages] == [
        "0.01",
        "0.02",
        "0.04",
        "0.08",
    ]
    assert len(started()) == 4
    assert process.close() == 5
    assert caplog.messages[-1] == "the MLflow sink ended with status 5; the next run goes on"


def test_run_looks_after_its_sink(sink, config, monkeypatch, caplog):
    monkeypatch.setattr(child_process, "_RESTART_MIN_S", 0.01)
    started = sink("dying")

    def stop():
        try:
            until(lambda: len(started()) >= 3)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    stopping = threading.Thread(target=stop)
    stopping.start()
    run(config, until_idle=False, with_sink=True)
    stopping.join()
    assert sum("starts again" in message for message in caplog.messages) >= 2


@pytest.mark.parametrize(("until_idle", "n_signals"), [(False, 2), (True, 1)])
def test_a_signal_while_the_sink_drains_keeps_the_rest_for_the_next_run(
    sink, config, until_idle, n_signals, caplog
):
    started = sink("draining")
    ended = threading.Event()
    free = []

    def stop():
        try:
            until(started)
            for _ in range(n_signals - 1):
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGINT)
            # The work is done, so others may have the partitions at once.
            with open_broker(config) as broker, broker.join_group(MONITOR_INPUTS) as tasks:
                until(lambda: free.extend(taken_over(tasks)) or free)
            assert not ended.wait(0.5)
        finally:
            # Where that has failed, it still needs as many to end, and no test hangs.
            for _ in range(1 if free else n_signals):
                if not ended.is_set():
                    os.kill(os.getpid(), signal.SIGINT)
                ended.wait(0.5)

    stopping = threading.Thread(target=stop)
    stopping.start()
    began_s = time.monotonic()
    run(config, until_idle=until_idle, with_sink=True)
    ended.set()
    stopping.join()
    assert free
    assert time.monotonic() - began_s < DEADLINE_S
    assert not any("sink ended" in message for message in caplog.messages)
