"""Processes of a test that end with it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any


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
        self._processes: list[subprocess.Popen[Any]] = []

    def start(
        self, command: Sequence[str], log: Path, cwd: Path | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a process whose outputs are appended to a file."""
        with log.open("ab") as out:
            return self.popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                **options,
            )

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process with the options of `subprocess.Popen`."""
        process = subprocess.Popen(command, process_group=self._watchdog.pid, **options)
        self._processes = [p for p in self._processes if p.poll() is None] + [process]
        return process

    def kill(self) -> None:
        """Kill -9 all of them, wait until they are gone, and close their pipes."""
        os.killpg(self._watchdog.pid, signal.SIGKILL)
        for process in (*self._processes, self._watchdog):
            with process:
                pass


@contextmanager
def killed_at_last(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process that is killed where the test has not seen to its end, and with it its children."""
    group = ProcessGroup()
    try:
        yield group.popen(command, **options)
    finally:
        group.kill()


def heed_interrupts() -> None:
    """Take SIGINT again where this process was started with it ignored; call it in the main thread.

    Under nohup, and in the background of a script, that is so, and children would inherit it:
    Python then raises no KeyboardInterrupt in them. A signal that is handled is not inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
