"""Locks between processes that a killed process cannot leave behind."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from streamgauge.consumers.broker import BrokerError

if TYPE_CHECKING:
    from pathlib import Path


class FileLock:
    """A lock file that one holder at a time has; the operating system frees it at the holder's end.

    The file stays where it is when the lock is released: to delete it would let two processes
    lock two files of the same name.

    Attributes:
        holder: process id of whoever had the lock when `acquire` last failed, `unknown` where it
            could not be told.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self.holder = "unknown"

    def acquire(self) -> bool:
        """Take the lock if it is free; whether it was.

        Raises:
            BrokerError: the lock file cannot be used.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        except BlockingIOError:
            self.holder = os.read(descriptor, 20).decode(errors="replace") or "unknown"
            os.close(descriptor)
            return False
        except OSError as error:
            os.close(descriptor)
            raise self._unusable(error) from error
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Free the lock, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _unusable(self, error: OSError) -> BrokerError:
        return BrokerError(
            f"{self._path}: cannot be locked ({error.strerror}); make it writable, "
            "or set broker.data_dir to a folder on a local disk"
        )
