"""Commands of the command line, run in the tests' own process."""

from __future__ import annotations

import gc
import io
import logging
import sys
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from streamgauge.consumers.cli.main import main


class Ended(NamedTuple):
    """What a command left on the terminal."""

    status: int
    out: str
    err: str


@contextmanager
def commands_run(monkeypatch, capsys):
    """Yield a function that runs a command; a process of its own would import River each time."""
    thresholds = gc.get_threshold()
    handlers = logging.root.handlers[:]

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "argv", ["streamgauge", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as end:
            main()
        return Ended(end.value.code, *capsys.readouterr())

    yield run
    # What `run` sets up for the process that it usually has for itself.
    gc.set_threshold(*thresholds)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(logging.WARNING)
