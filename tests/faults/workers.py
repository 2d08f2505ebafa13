"""The workers of a run, each of them started again as soon as it has ended."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.faults.settings import ROOT, STATE_KEY
from tests.support.processes import ProcessGroup

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from pathlib import Path

LOOK_EVERY_S = 0.05
STOP_TIMEOUT_S = 40.0
# What is started again at once and fails at once takes the processor from all others.
RESTART_MIN_S = 1.0


class Exit(NamedTuple):
    """The end of a worker process: minus the signal, or its status; and its log's last line."""

    time: float
    worker: str
    pid: int
    status: int
    last: str

    @property
    def is_fair(self) -> bool:
        """Whether a worker may end so amid faults: told to, killed, or without any broker."""
        if self.status == 1:
            return self.last.startswith("error: ") and "did not answer within" in self.last
        return self.status in (0, -signal.SIGTERM, -signal.SIGKILL)


class Workers:
    """Processes by name, kept alive by a thread.

    Args:
        config: the file with their configuration.
        folder: where they note what happens, and where their logs go.
        off: safeguards that they are to do without.
    """

    def __init__(self, config: Path, folder: Path, off: Sequence[str] = ()) -> None:
        self.exits: list[Exit] = []
        self._config = config
        self._folder = folder
        self._off = tuple(off)
        self._group = ProcessGroup()
        self._lock = threading.RLock()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, float] = {}
        self._wanted: set[str] = set()
        self._closing = threading.Event()
        os.environ["STREAMGAUGE_STATE_KEY"] = STATE_KEY
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        self._group.kill()

    def start(self, *names: str) -> None:
        """Have workers from now on, whatever happens to their processes."""
        with self._lock:
            for name in names:
                self._wanted.add(name)
                if name not in self._processes:
                    self._start(name)

    def alive(self) -> list[str]:
        """The names of those that run now."""
        with self._lock:
            return sorted(n for n, p in self._processes.items() if p.poll() is None)

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def send(self, name: str, number: signal.Signals) -> int:
        """Send a signal to a worker; the id of the process that got it, 0 where it does not run."""
        with self._lock:
            process = self._processes.get(name)
            if process is None or process.poll() is not None:
                return 0
            process.send_signal(number)
            return process.pid

    def resume(self, pid: int) -> None:
        """SIGCONT, if it still is one of ours."""
        with self._lock:
            for process in self._processes.values():
                if process.pid == pid:
                    process.send_signal(signal.SIGCONT)

    def forget(self, *names: str) -> None:
        """Do not start these again."""
        with self._lock:
            self._wanted.difference_update(names)

    def stop(self) -> list[Exit]:
        """End all of them as an operator does; how they ended.

        Raises:
            TimeoutError: one of them does not end.
        """
        n_before = len(self.exits)
        with self._lock:
            self.forget(*self._processes)
            for process in self._processes.values():
                process.send_signal(signal.SIGCONT)
                process.terminate()
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while self._processes:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"workers {', '.join(self._processes)} do not end at SIGTERM")
            time.sleep(LOOK_EVERY_S)
        return self.exits[n_before:]

    def dump_stacks(self) -> None:
        """Have every worker write to its log where its threads are."""
        for name in self.alive():
            self.send(name, signal.SIGUSR1)
        time.sleep(1)

    def log_of(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def _start(self, name: str) -> None:
        command = (sys.executable, "-m", "tests.faults.worker_main")
        arguments = (str(self._config), name, str(self._folder), *self._off)
        log = self._folder / f"{name}.log"
        self._started[name] = time.monotonic()
        self._processes[name] = self._group.start((*command, *arguments), log, cwd=ROOT)

    def _supervise(self) -> None:
        while not self._closing.wait(LOOK_EVERY_S):
            with self._lock:
                for name, process in list(self._processes.items()):
                    if process.poll() is not None:
                        del self._processes[name]
                        last = self.log_of(name).strip().rpartition("\n")[2]
                        self.exits.append(
                            Exit(time.time(), name, process.pid, process.returncode, last)
                        )
                for name in self._wanted - self._processes.keys():
                    if time.monotonic() - self._started[name] >= RESTART_MIN_S:
                        self._start(name)
