"""The MLflow sink as a child process, so that MLflow's Python never shares the worker's core."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamgauge.consumers.config import Config

# The sink's exit status when records wait for the next one, which it has said by itself.
RECORDS_WAIT_STATUS = 3

_RESTART_MIN_S = 1.0
_RESTART_MAX_S = 60.0
_POLL_S = 0.1
_LEAVE_S = 1.0

log = logging.getLogger(__name__)


class SinkProcess:
    """A `streamgauge sink` beside this process, started again when it has ended by itself.

    It drains and ends when this process closes it, and as well when this process dies.
    """

    def __init__(self, config: Config) -> None:
        # In a file and not in arguments: a configuration may be long, and `ps` shows arguments.
        handle, name = tempfile.mkstemp(prefix="streamgauge-", suffix=".yaml")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            yaml.safe_dump(config.model_dump(mode="json"), file)
        self._config_path = Path(name)
        self._delay_s = _RESTART_MIN_S
        self._restart_at_s: float | None = None
        self._start()

    def look_after(self) -> None:
        """Start it again if it has ended, later each time; call this every now and then."""
        now_s = time.monotonic()
        if self._restart_at_s is not None:
            if now_s >= self._restart_at_s:
                self._restart_at_s = None
                self._start()
        elif (status := self._process.poll()) is not None:
            self._end_input()
            if now_s - self._started_s > _RESTART_MAX_S:
                self._delay_s = _RESTART_MIN_S
            log.warning(
                "the MLflow sink ended with status %d; it starts again in %g s, and records wait"
                " in the topics",
                status,
                self._delay_s,
            )
            self._restart_at_s = now_s + self._delay_s
            self._delay_s = min(2 * self._delay_s, _RESTART_MAX_S)

    def close(self, hurry: Callable[[], bool] = lambda: False) -> int:
        """Let it log all there is, wait for it, and return its exit status.

        Args:
            hurry: asked while it is waited for; once it is true, the sink ends after the batch at
                hand, and what it has not logged waits for the next one.
        """
        self._end_input()
        told = False
        while (status := self._process.poll()) is None:
            if not told and hurry():
                self._process.terminate()
                told = True
            time.sleep(_POLL_S)
        self._config_path.unlink(missing_ok=True)
        if status not in (0, RECORDS_WAIT_STATUS):
            log.warning("the MLflow sink ended with status %d; the next run goes on", status)
        return status

    def abandon(self) -> None:
        """End it without waiting for the broker; what it has not logged waits for the next one."""
        self._end_input()
        self._process.terminate()
        try:
            self._process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            # It waits for the broker, and loses nothing: its place is where it has logged to.
            self._process.kill()
            self._process.wait()
        self._config_path.unlink(missing_ok=True)
        log.warning("the MLflow sink was stopped; what it has not logged waits in the topics")

    def _end_input(self) -> None:
        assert self._process.stdin is not None  # noqa: S101 - opened below
        self._process.stdin.close()

    def _start(self) -> None:
        self._started_s = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603 - this program again
            _command(self._config_path),
            stdin=subprocess.PIPE,
            # A terminal's Ctrl-C is for the worker; the sink hears of it by the end of its input.
            start_new_session=True,
        )


def own_command(*arguments: str) -> list[str]:
    """Return the command that starts this program again, as a child process.

    By `-P` it imports nothing from the current folder: a `yaml.py` that lies there is not run.
    """
    return [sys.executable, "-P", "-m", "streamgauge.consumers.cli", *arguments]


def _command(config_path: Path) -> list[str]:
    return own_command("sink", "--until-eof", "-c", str(config_path))
