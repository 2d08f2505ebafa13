"""A real MLflow server that tests start and stop."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
import urllib.request
from pathlib import Path

from streamgauge.consumers.mlflow.history import mlflow_ui_command
from tests.support.processes import ProcessGroup


class MLflowServer:
    """MLflow's server on a store, started with the command that `mlflow_ui_command` gives."""

    def __init__(self, config, folder):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self.port = unused.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        program, *arguments = shlex.split(mlflow_ui_command(config))
        self.command = [
            str(Path(sys.executable).with_name(program)),
            *arguments,
            *("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"),
        ]
        self.folder = folder
        self._group = None

    def start(self):
        environment = {
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        self._group = ProcessGroup()
        log = self.folder / "server.log"
        process = self._group.start(self.command, log, self.folder, env=environment)
        deadline = time.monotonic() + 180
        while True:
            try:
                return self.get("/health")
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def stop(self):
        if self._group is not None:
            self._group.kill()
            self._group = None

    def get(self, path):
        with urllib.request.urlopen(self.uri + path, timeout=5) as answer:
            return answer.read()
