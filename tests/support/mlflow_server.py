"""A real MLflow server that tests start and stop."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from streamgauge.consumers.mlflow.history import mlflow_ui_command


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
        self.process = None

    def start(self):
        environment = {
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        with (self.folder / "server.log").open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + 180
        while True:
            try:
                return self.get("/health")
            except OSError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def stop(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def get(self, path):
        with urllib.request.urlopen(self.uri + path, timeout=5) as answer:
            return answer.read()
