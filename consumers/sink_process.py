"""The MLflow sink as a child process, so that MLflow's Python never shares the worker's core."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import yaml

if TYPE_CHECKING:
    from stream.config import Config

log = logging.getLogger(__name__)


class SinkProcess:
    """Runs `streamgauge sink` beside this process.

    It drains and ends when this process closes it, and as well when this process dies.
    """

    def __init__(self, config: Config) -> None:
        # In a file and not in arguments: a configuration may be long, and `ps` shows arguments.
        handle, name = tempfile.mkstemp(prefix="streamgauge-", suffix=".yaml")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            yaml.safe_dump(config.model_dump(mode="json"), file)
        self._config_path = Path(name)
        self._process = subprocess.Popen(  # noqa: S603 - this program again
            [sys.executable, "-m", "consumers.cli", "sink", "--until-eof", "-c", name],
            stdin=subprocess.PIPE,
            # A terminal's Ctrl-C is for the worker; the sink hears of it by the end of its input.
            start_new_session=True,
        )

    def close(self) -> int:
        """Let it log all there is, wait for it, and return its exit status."""
        assert self._process.stdin is not None  # noqa: S101 - opened above
        self._process.stdin.close()
        status = self._process.wait()
        self._config_path.unlink(missing_ok=True)
        if status not in (0, 1):
            log.warning("the MLflow sink ended with status %d; the next run goes on", status)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
