"""Processes of a test that end with it, however it ends."""

import subprocess
from contextlib import contextmanager


@contextmanager
def killed_at_last(command, **options):
    """A process that is killed where the test has not seen to its end; its pipes are closed."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()
