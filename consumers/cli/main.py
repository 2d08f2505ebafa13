"""The command line. Each command is thin: it reads options and calls what does the work.

Modules that do the work are imported by the command that needs them: `--help` answers at once,
and River and MLflow take seconds to import.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamgauge.consumers.traffic.csv_rows import DELIMITERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamgauge.stream.config import Config

_TRACEBACK_VARIABLE = "STREAMGAUGE_TRACEBACK"
_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
_PIPE_WIDTH = 400

# What the command line calls an option otherwise than the module does.
_REPLAY_OPTIONS = {
    "version": "model-version",
    "delay_ms": "label-delay",
    "jitter_ms": "label-jitter",
    "duplicates": "duplicate-labels",
    "missing": "missing-labels",
}


class _UsageError(click.ClickException):
    """What was asked for cannot be; nothing was done."""

    exit_code = 2


class _NotComparableError(click.ClickException):
    """Nothing is wrong, and not everything can be shown to be right."""

    exit_code = 3


def _config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `-c`, `--data-dir` and `--kafka`, and hand it the configuration they make."""

    def with_config(
        config_path: Path | None, data_dir: Path | None, kafka: str | None, **options: Any
    ) -> Any:
        from streamgauge.consumers.connect import read_config

        config = read_config(config_path, data_dir, kafka)
        return command(config, **options)

    update_wrapper(with_config, command)
    with_data_dir = click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of the embedded broker. [default: ./.streamgauge]",
    )(with_config)
    with_kafka = click.option(
        "--kafka",
        metavar="HOST:PORT[,...]",
        envvar="STREAMGAUGE_KAFKA_SERVERS",
        help="Kafka's brokers, whatever the configuration says.",
    )(with_data_dir)
    return click.option(
        "-c", "--config", "config_path", type=click.Path(path_type=Path), help="YAML file."
    )(with_kafka)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="streamgauge", prog_name="streamgauge")
def cli() -> None:
    """Watch models in production: predictions and labels in, one retrain request per drift out."""


@cli.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("streamgauge-demo"),
    show_default=True,
    help="Folder for the demo's data; what an earlier demo left there is replaced.",
)
@click.option("--seed", default=1, show_default=True, help="Of the synthetic stream.")
@click.option("--progress/--no-progress", default=True, help="Show it live, or only the result.")
def demo(directory: Path, seed: int, progress: bool) -> None:
    """A synthetic stream with three known changes, watched from end to end."""
    from streamgauge.consumers.demo import run_demo

    run_demo(directory, seed=seed, progress=progress)


@cli.command()
@click.argument("file", type=_EXISTING)
@click.option("--target", required=True, help="Column to predict.")
@click.option("--model", required=True, help="Name of the model in the events.")
@click.option("--model-version", default="1", show_default=True, help="Its version.")
@click.option(
    "--task",
    type=click.Choice(["classification", "regression"]),
    help="[default: by the target's values]",
)
@click.option(
    "--drop",
    default="",
    help="Columns to leave out, separated by commas; those without a name are left out as well.",
)
@click.option(
    "--delimiter",
    type=click.Choice(list(DELIMITERS)),
    default="comma",
    show_default=True,
    help="Between two values of a line.",
)
@click.option(
    "--decimal",
    type=click.Choice(["point", "comma"]),
    default="point",
    show_default=True,
    help="Before the decimals of a number.",
)
@click.option("--train-rows", default=1000, show_default=True, help="First rows, to train on.")
@click.option(
    "--label-delay",
    default="0s",
    show_default=True,
    help="From a prediction to its label, in event time: rows are one second apart.",
)
@click.option("--label-jitter", default="0s", show_default=True, help="Further delay, up to this.")
@click.option("--duplicate-labels", default=0.0, help="Share of labels sent twice.")
@click.option("--missing-labels", default=0.0, help="Share of labels never sent.")
@click.option("--rate", type=float, help="Rows per second. [default: as fast as possible]")
@click.option("--learner", help="Import path of the River model to deploy.")
@click.option("--seed", default=0, show_default=True, help="Of the labels' delays and losses.")
@_config_options
def replay(config: Config, **options: Any) -> None:
    """Train a model on a CSV file's first rows and send its predictions and labels of the rest."""
    from streamgauge.consumers.connect import open_broker
    from streamgauge.consumers.traffic.replay import OptionError, ReplayOptions
    from streamgauge.consumers.traffic.replay import replay as send
    from streamgauge.stream.config import duration_ms

    rate, path = options.pop("rate"), options.pop("file")
    durations = {}
    for name in ("label_delay", "label_jitter"):
        try:
            durations[name] = duration_ms(options.pop(name))
        except ValueError as error:
            raise _UsageError(f"--{name.replace('_', '-')}: {error}") from None
    try:
        replay_options = ReplayOptions(
            path=path,
            # A pipe cannot be read twice, as it takes to end now.
            end_ms=time.time_ns() // 1_000_000 if path.is_file() else None,
            version=options.pop("model_version"),
            delimiter=DELIMITERS[options.pop("delimiter")],
            decimal="," if options.pop("decimal") == "comma" else ".",
            drop=tuple(name.strip() for name in options.pop("drop").split(",") if name.strip()),
            delay_ms=durations["label_delay"],
            jitter_ms=durations["label_jitter"],
            duplicates=options.pop("duplicate_labels"),
            missing=options.pop("missing_labels"),
            **options,
        )
        with open_broker(config) as broker, broker.producer() as producer:
            summary = send(replay_options, producer, config.topics, rate=rate)
    except OptionError as error:
        name = _REPLAY_OPTIONS.get(error.option, error.option.replace("_", "-"))
        raise _UsageError(f"--{name}: {error.problem}") from None
    click.echo(summary.describe())


@cli.command()
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Predictions per second.")
@click.option("--seed", default=1, show_default=True, help="Of the synthetic stream.")
@_config_options
def traffic(config: Config, rate: float | None, seed: int) -> None:
    """Send the demo's traffic to the topics, for a worker that runs elsewhere."""
    from streamgauge.consumers.connect import open_broker
    from streamgauge.consumers.traffic.demo_stream import demo_stream
    from streamgauge.consumers.traffic.send import send_events

    with open_broker(config) as broker, broker.producer() as producer:
        n = send_events(demo_stream(seed).events, producer, config.topics, rate=rate)
    click.echo(f"sent {n:,} predictions and their labels")


@cli.command()
@click.option(
    "--topic", required=True, type=click.Choice(["predictions", "labels"]), help="Where to."
)
@click.argument("file", type=click.File("rb"), default="-")
@_config_options
def produce(config: Config, topic: str, file: Any) -> None:
    """Send the lines of FILE, or of standard input, as records, bytes as they are."""
    from streamgauge.consumers.connect import open_broker
    from streamgauge.consumers.terminal.format import counted
    from streamgauge.consumers.traffic.produce import produce as send

    with open_broker(config) as broker, broker.producer() as producer:
        n = send(file, producer, getattr(config.topics, topic))
    click.echo(f"{counted(n, 'record')} to {getattr(config.topics, topic)}")


@cli.command()
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
@_config_options
def run(
    config: Config, until_idle: bool, sink: bool, summary: Path | None, alive: Path | None
) -> None:
    """The worker: watch the events, find drift, ask for retrains; and log to MLflow."""
    from streamgauge.consumers.connect import warn_of_local_metrics
    from streamgauge.consumers.run import run as work
    from streamgauge.consumers.summary import describe
    from streamgauge.stream.check import check_components

    if summary is not None and not summary.parent.is_dir():
        raise _UsageError(f"--summary: no such folder: {summary.parent}")
    check_components(config)
    _log_to_stderr()
    if sink:
        warn_of_local_metrics(config)
    result = work(config, until_idle=until_idle, with_sink=sink, alive=alive)
    if summary is not None:
        summary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    click.echo(describe(result), err=True)


@cli.command()
@click.option("--until-eof", is_flag=True, help="Drain and stop when standard input ends.")
@_config_options
def sink(config: Config, until_eof: bool) -> None:
    """The MLflow sink alone; `run` starts one by itself."""
    from streamgauge.consumers.connect import warn_of_local_metrics
    from streamgauge.consumers.mlflow.service import main_child, main_service

    _log_to_stderr()
    if until_eof:
        # A worker's own sink: the worker has said what there is to say.
        raise SystemExit(main_child(config))
    warn_of_local_metrics(config)
    raise SystemExit(main_service(config))


@cli.command()
@click.option(
    "--topic",
    type=click.Choice(["metrics", "alarms", "retrain", "dead-letters"]),
    default="metrics",
    show_default=True,
)
@click.option("--model", help="Only this model.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for jq.")
@click.option("--from-start", is_flag=True, help="From the oldest record, not only new ones.")
@click.option("--follow/--no-follow", default=True, help="Wait for more, or end with the topic.")
@_config_options
def tail(config: Config, **options: Any) -> None:
    """Show what is published: live for a person, or as JSON lines."""
    from streamgauge.consumers.connect import open_existing_broker
    from streamgauge.consumers.terminal.tail import tail as show

    kind = options.pop("topic")
    topic = {
        "metrics": config.topics.metrics,
        "alarms": config.topics.alarms,
        "retrain": config.topics.retrain,
        "dead-letters": config.topics.dead_letters,
    }[kind]
    from_start = options.pop("from_start")
    with (
        open_existing_broker(config) as broker,
        broker.reader([topic], from_start=from_start) as reader,
    ):
        # It is said on a terminal only; on Kafka it takes a few questions.
        asks = sys.stdout.isatty() and not from_start
        has_older = asks and any(i.n_records for i in broker.topics() if i.name == topic)
        show(reader, kind, has_older=has_older, **options)


@cli.command()
@_config_options
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


@cli.command()
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


@cli.group()
def config() -> None:
    """Check a configuration, or show what one may say."""


@config.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def config_check(file: Path) -> None:
    """Say whether FILE is a valid configuration, or what is wrong with it, field by field."""
    from streamgauge.consumers.connect import read_config
    from streamgauge.stream.check import check_components
    from streamgauge.stream.config import ConfigError

    try:
        check_components(read_config(file))
    except ConfigError as error:
        for line in str(error).splitlines():
            click.echo(f"error: {line}", err=True)
        raise SystemExit(2) from None
    click.echo(f"{file}: valid")


@config.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the configuration."""
    from streamgauge.stream.config import Config

    click.echo(json.dumps(Config.model_json_schema(), indent=2))


@config.command("show")
@_config_options
def config_show(config: Config) -> None:
    """Print the whole configuration in force, defaults included, as YAML."""
    import yaml

    click.echo(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), nl=False)


@cli.group()
def topics() -> None:
    """The broker's topics."""


@topics.command("create")
@click.option("--partitions", type=click.IntRange(1), help="Of every topic. [default: 6]")
@click.option(
    "--replication",
    type=click.IntRange(1),
    help="Of every topic. [default: 3, or as many as there are brokers]",
)
@_config_options
def topics_create(config: Config, partitions: int | None, replication: int | None) -> None:
    """Make the topics that Kafka lacks, with the settings that the promises need."""
    from streamgauge.consumers.kafka.topics import Admin

    with Admin(config) as admin:
        made = admin.create(partitions, replication)
    click.echo(f"made {', '.join(made)}" if made else "every topic is there already")


@topics.command("check")
@_config_options
def topics_check(config: Config) -> None:
    """Say whether Kafka's topics are as they must be, or what is wrong and how to mend it."""
    from streamgauge.consumers.kafka.topics import Admin

    with Admin(config) as admin:
        n_partitions = admin.check()
    click.echo(f"every topic is right, with {n_partitions} partitions")


@topics.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@_config_options
def topics_list(config: Config, as_json: bool) -> None:
    """Show the topics with their sizes."""
    from streamgauge.consumers.connect import open_existing_broker
    from streamgauge.consumers.terminal.tables import topics_table

    with open_existing_broker(config) as broker:
        infos = broker.topics()
    if as_json:
        for info in infos:
            click.echo(json.dumps(info._asdict()))
    else:
        _print(topics_table(infos, counts_markers=config.broker.kind == "kafka"))


@cli.group()
def metrics() -> None:
    """The metrics that MLflow holds."""


@metrics.command("list")
@click.option("--run-id", help="Of this MLflow run.")
@click.option("--model", help="Of every run of this model.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@_config_options
def metrics_list(config: Config, run_id: str | None, model: str | None, as_json: bool) -> None:
    """Show each metric's history in MLflow: points, steps, last value, range."""
    from dataclasses import asdict

    if (run_id is None) == (model is None):
        raise _UsageError("give exactly one of --run-id and --model")
    from streamgauge.consumers.mlflow.history import metric_histories
    from streamgauge.consumers.terminal.tables import metrics_tables

    rows = metric_histories(config, run_id=run_id, model=model)
    if as_json:
        for row in rows:
            click.echo(json.dumps(asdict(row)))
    else:
        _print(*metrics_tables(rows))


def _print(*tables: Any) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        # Nothing that is piped on is cut to fit a screen.
        console.width = _PIPE_WIDTH
    for table in tables:
        if console.is_terminal:
            console.print(table)
            continue
        with console.capture() as printed:
            console.print(table)
        for line in printed.get().splitlines():
            click.echo(line.rstrip())


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s"
    )


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
    from streamgauge.stream.config import ConfigError

    if os.environ.get(_TRACEBACK_VARIABLE):
        raise error
    lines = [*str(error).splitlines(), *getattr(error, "__notes__", ())]
    text = "; ".join(lines) or type(error).__name__
    if type(error).__module__.partition(".")[0] != "streamgauge":
        text = f"{type(error).__name__}: {text}"
    _fail(text, 2 if isinstance(error, ConfigError) else 1)


def _fail(message: str, status: int) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(status)
