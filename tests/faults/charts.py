"""MLflow beside the faults: a real server, a sink, and whether every point got there once."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Self

from streamgauge.consumers.config import load_config
from streamgauge.consumers.mlflow.entries import read_entry
from streamgauge.consumers.mlflow.runs import MODEL_TAG, VERSION_TAG
from streamgauge.consumers.mlflow.store import connect, default_store
from tests.faults.settings import ROOT, write_config
from tests.support.mlflow_server import MLflowServer
from tests.support.processes import ProcessGroup

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from streamgauge.consumers.config import Config
    from streamgauge.stream.records import Record

DRAIN_TIMEOUT_S = 300.0

_POINTS = """
    SELECT model.value, version.value, m.key, m.step, m.timestamp, m.value
    FROM metrics m
    JOIN tags model ON model.run_uuid = m.run_uuid AND model.key = ?
    JOIN tags version ON version.run_uuid = m.run_uuid AND version.key = ?
"""


class Charts:
    """A server that can be stopped and a sink that writes to it; a context manager."""

    def __init__(self, config: Config, folder: Path) -> None:
        local = load_config({"broker": {"data_dir": str(folder / "mlflow")}})
        (folder / "mlflow").mkdir()
        connect(local)  # makes the store, which takes the server seconds
        self._store = default_store(local)
        self._server = MLflowServer(local, folder / "mlflow")
        uri = {"mlflow": {"tracking_uri": self._server.uri}}
        self._config = load_config({**config.model_dump(mode="json"), **uri})
        self._path = write_config(self._config, folder / "sink.yaml")
        self._log = folder / "sink.log"
        self._group = ProcessGroup()

    def __enter__(self) -> Self:
        self._server.start()
        self._start_sink()
        return self

    def __exit__(self, *_: object) -> None:
        self._group.kill()
        self._server.stop()

    def stop_server(self) -> None:
        self._server.stop()

    def start_server(self) -> None:
        self._server.start()

    def restart_sink(self) -> None:
        """Kill it -9, wherever it is, and start another one."""
        self._sink.send_signal(signal.SIGKILL)
        self._sink.wait()
        self._start_sink()

    def problems(self, records: Iterable[Record]) -> Iterator[str]:
        """Let the sink write what is left; what of the published records MLflow does not hold."""
        self._sink.send_signal(signal.SIGKILL)
        self._sink.wait()
        command = [
            sys.executable,
            "-P",
            "-m",
            "streamgauge.consumers.cli",
            "sink",
            "--until-eof",
            "-c",
        ]
        done = subprocess.run(
            [*command, str(self._path)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DRAIN_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            yield f"the sink ended with {done.returncode}: {done.stderr.strip()[-200:]}"
        wanted = Counter(self._wanted(records))
        with closing(sqlite3.connect(self._store)) as connection:
            got = Counter(connection.execute(_POINTS, (MODEL_TAG, VERSION_TAG)))
        for name, points in (("lost", wanted - got), ("repeated", got - wanted)):
            # Every run begins with zeros for its charts of drifts.
            real = [p for p in points.elements() if not (p[2].startswith("2_drift/") and p[3] == 0)]
            if real:
                yield f"MLflow: {len(real)} points {name}, such as {real[0]}"

    def _wanted(self, records: Iterable[Record]) -> set[tuple[str, str, str, int, int, float]]:
        entries = [read_entry(record, self._config) for record in records]
        return {
            (*entry.run, point.key, point.step, point.timestamp_ms, point.value)
            for entry in entries
            for point in entry.points
        }

    def _start_sink(self) -> None:
        command = [
            sys.executable,
            "-P",
            "-m",
            "streamgauge.consumers.cli",
            "sink",
            "-c",
            str(self._path),
        ]
        self._sink = self._group.start(command, self._log, ROOT)
