"""Ports and processes that belong to one test, and go when it goes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

from tests.support.kafka.wire import HOST

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def hold_port(port: int = 0) -> socket.socket:
    """A bound socket that never listens: its port (any free one for 0) stays ours.

    Linux gives a bound port to nobody who asks for any port, and yet lets a second socket that
    reuses addresses, as Java's and the proxy's do, listen on it time and again.

    Raises:
        OSError: somebody listens on the port.
    """
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((HOST, port))
    except OSError:
        held.close()
        raise
    return held


class ProcessGroup:
    """Processes that end with this one, however it ends, and all at once on request."""

    def __init__(self) -> None:
        # Its standard input ends when this process does, even by kill -9. The kernel's own signal
        # for that (PR_SET_PDEATHSIG) is for the death of the thread that started the child, and
        # tests start brokers from threads.
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", "read _; kill -KILL 0"],
            stdin=subprocess.PIPE,
            process_group=0,
        )
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: Sequence[str], log: Path, cwd: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process whose outputs are appended to a file."""
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                process_group=self._watchdog.pid,
            )
        self._processes = [p for p in self._processes if p.poll() is None] + [process]
        return process

    def kill(self) -> None:
        """Kill -9 all of them, and wait until they are gone."""
        os.killpg(self._watchdog.pid, signal.SIGKILL)
        for process in (*self._processes, self._watchdog):
            process.wait()
        self._watchdog.stdin.close()
