"""Commands that send traffic: the demo's, the rows of a file, or lines as they are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamgauge.consumers.cli.options import UsageError, config_options
from streamgauge.consumers.traffic.csv_rows import DELIMITERS

if TYPE_CHECKING:
    from streamgauge.consumers.config import Config

# What the command line calls an option otherwise than the module does.
_REPLAY_OPTIONS = {
    "version": "model-version",
    "delay_ms": "label-delay",
    "jitter_ms": "label-jitter",
    "duplicates": "duplicate-labels",
    "missing": "missing-labels",
}


@click.command()
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
    """Watch a synthetic stream with three known changes from end to end."""
    from streamgauge.consumers.demo import run_demo

    run_demo(directory, seed=seed, progress=progress)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
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
@config_options
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
            raise UsageError(f"--{name.replace('_', '-')}: {error}") from None
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
        raise UsageError(f"--{name}: {error.problem}") from None
    click.echo(summary.describe())


@click.command()
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Predictions per second.")
@click.option("--seed", default=1, show_default=True, help="Of the synthetic stream.")
@config_options
def traffic(config: Config, rate: float | None, seed: int) -> None:
    """Send the demo's traffic to the topics, for a worker that runs elsewhere."""
    from streamgauge.consumers.connect import open_broker
    from streamgauge.consumers.traffic.demo_stream import demo_stream
    from streamgauge.consumers.traffic.send import send_events

    with open_broker(config) as broker, broker.producer() as producer:
        n = send_events(demo_stream(seed).events, producer, config.topics, rate=rate)
    click.echo(f"sent {n:,} predictions and their labels")


@click.command()
@click.option(
    "--topic", required=True, type=click.Choice(["predictions", "labels"]), help="Where to."
)
@click.argument("file", type=click.File("rb"), default="-")
@config_options
def produce(config: Config, topic: str, file: Any) -> None:
    """Send the lines of FILE, or of standard input, as records, bytes as they are."""
    from streamgauge.consumers.connect import open_broker
    from streamgauge.consumers.terminal.format import counted
    from streamgauge.consumers.traffic.produce import produce as send

    with open_broker(config) as broker, broker.producer() as producer:
        n = send(file, producer, getattr(config.topics, topic))
    click.echo(f"{counted(n, 'record')} to {getattr(config.topics, topic)}")
