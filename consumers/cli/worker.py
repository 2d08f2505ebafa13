"""Commands that run the worker and its sink, prepare them, and verify what was done."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamgauge.consumers.cli.options import UsageError, config_options

if TYPE_CHECKING:
    from streamgauge.consumers.config import Config


class _NotComparableError(click.ClickException):
    """Nothing is wrong, and not everything can be shown to be right."""

    exit_code = 3


@click.command()
@click.option("--until-idle", is_flag=True, help="Stop when all input is processed.")
@click.option("--sink/--no-sink", default=True, help="Log to MLflow beside the worker.")
@click.option(
    "--summary",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a JSON summary at the end.",
)
@click.option(
    "--alive",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Touch this file about once a second while work goes on, for liveness probes.",
)
@config_options
def run(
    config: Config, until_idle: bool, sink: bool, summary: Path | None, alive: Path | None
) -> None:
    """Work: watch the events, find drift, ask for retrains; and log to MLflow."""
    from streamgauge.consumers.connect import warn_of_local_metrics
    from streamgauge.consumers.run import run as work
    from streamgauge.consumers.summary import describe
    from streamgauge.stream.check import check_components

    if summary is not None and not summary.parent.is_dir():
        raise UsageError(f"--summary: no such folder: {summary.parent}")
    check_components(config)
    log_to_stderr()
    if sink:
        warn_of_local_metrics(config)
    result = work(config, until_idle=until_idle, with_sink=sink, alive=alive)
    if summary is not None:
        summary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    click.echo(describe(result), err=True)


@click.command()
@click.option("--until-eof", is_flag=True, help="Drain and stop when standard input ends.")
@config_options
def sink(config: Config, until_eof: bool) -> None:
    """Run the MLflow sink alone; `run` starts one by itself."""
    from streamgauge.consumers.connect import warn_of_local_metrics
    from streamgauge.consumers.mlflow.service import main_child, main_service

    log_to_stderr()
    if until_eof:
        # A worker's own sink: the worker has said what there is to say.
        raise SystemExit(main_child(config))
    warn_of_local_metrics(config)
    raise SystemExit(main_service(config))


@click.command()
@config_options
def verify(config: Config) -> None:
    """Replay the journal through a fresh core and compare every digest.

    The status is 0 when every commit agrees, 1 when one differs, and 3 when none differs but some
    cannot be compared, because their input or configuration is no longer there.
    """
    from streamgauge.consumers.connect import open_existing_broker, state_key
    from streamgauge.consumers.terminal.format import counted
    from streamgauge.consumers.verify import verify_all

    problems = []
    with open_existing_broker(config) as broker:
        for result in verify_all(broker, config, state_key(config)):
            click.echo(
                f"partition {result.partition}: {counted(result.n_commits, 'commit')} of"
                f" {counted(result.n_records, 'record')} agree"
            )
            if result.problem is not None:
                problems.append(result)
    if problems:
        differs = any(result.outcome == "differs" for result in problems)
        raise (click.ClickException if differs else _NotComparableError)(
            "; ".join(
                f"partition {result.partition}: {result.outcome}: {result.problem}"
                for result in problems
            )
        )


@click.command()
def warmup() -> None:
    """Compile every detector now, and keep the code for every later start.

    The code goes to the first of these that can be written to: $NUMBA_CACHE_DIR, the folder of the
    program, the user's cache folder. A process reads it from wherever it is, so that it may be made
    when an image is built, and used where nothing can be written.
    """
    from streamgauge.consumers.terminal.format import counted
    from streamgauge.detectors.warmup import warm_up

    started_s = time.monotonic()
    done = warm_up()
    seconds = time.monotonic() - started_s
    if done.n_lost:
        raise click.ClickException(
            f"{counted(done.n_lost, 'compiled function')} could not be kept: no cache folder can be"
            " written to; set NUMBA_CACHE_DIR to one that can"
        )
    click.echo(
        f"{counted(done.n_kinds, 'detector')} ready in {seconds:.1f} s:"
        f" {counted(done.n_compiled, 'function')} compiled, {done.n_loaded:,} loaded"
    )
    for folder in done.folders:
        click.echo(f"in {folder}")


def log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s"
    )
