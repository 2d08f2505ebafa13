"""The command line. Each command is thin: it reads options and calls what does the work.

Modules that do the work are imported by the command that needs them: `--help` answers at once,
and River and MLflow take seconds to import.
"""

from __future__ import annotations

import os
import sys

import click

from streamgauge.consumers.cli import config, show, topics, traffic, worker

_TRACEBACK_VARIABLE = "STREAMGAUGE_TRACEBACK"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="streamgauge", prog_name="streamgauge")
def cli() -> None:
    """Watch models in production: predictions and labels in, one retrain request per drift out."""


for command in (
    traffic.demo,
    traffic.replay,
    traffic.traffic,
    traffic.produce,
    worker.run,
    worker.sink,
    worker.verify,
    worker.warmup,
    show.tail,
    show.metrics,
    config.config,
    topics.topics,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line.

    An error is one line on stderr; the status is 2 for a wrong call or configuration, 1 for what
    went wrong while running. `verify` and `sink` have a status of their own besides.
    """
    try:
        status = cli.main(standalone_mode=False)
    except click.Abort as stop:
        for note in getattr(stop.__cause__, "__notes__", ()):
            click.echo(f"stopped: {note}", err=True)
        sys.exit(130)
    except click.ClickException as error:
        _fail(" ".join(error.format_message().split()), error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - a person must never be shown a traceback
        _fail_unless_asked(error)
    else:
        sys.exit(status if isinstance(status, int) else 0)


def _fail_unless_asked(error: Exception) -> None:
    from streamgauge.detectors.errors import StreamgaugeError
    from streamgauge.stream.config import ConfigError

    if os.environ.get(_TRACEBACK_VARIABLE):
        raise error
    lines = [*str(error).splitlines(), *getattr(error, "__notes__", ())]
    text = "; ".join(lines) or type(error).__name__
    if not isinstance(error, StreamgaugeError):
        text = f"{type(error).__name__}: {text}"
    _fail(text, 2 if isinstance(error, ConfigError) else 1)


def _fail(message: str, status: int) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(status)
