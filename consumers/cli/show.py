"""Commands that show what is published: from the topics as it comes, and from MLflow."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from streamgauge.consumers.cli.options import UsageError, config_options
from streamgauge.consumers.cli.output import print_tables

if TYPE_CHECKING:
    from streamgauge.consumers.config import Config


@click.command()
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
@config_options
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


@click.group()
def metrics() -> None:
    """Show the metrics that MLflow holds."""


@metrics.command("list")
@click.option("--run-id", help="Of this MLflow run.")
@click.option("--model", help="Of every run of this model.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@config_options
def metrics_list(config: Config, run_id: str | None, model: str | None, as_json: bool) -> None:
    """Show each metric's history in MLflow: points, steps, last value, range."""
    from dataclasses import asdict

    if (run_id is None) == (model is None):
        raise UsageError("give exactly one of --run-id and --model")
    from streamgauge.consumers.mlflow.history import metric_histories
    from streamgauge.consumers.terminal.tables import metrics_tables

    rows = metric_histories(config, run_id=run_id, model=model)
    if as_json:
        for row in rows:
            click.echo(json.dumps(asdict(row)))
    else:
        print_tables(*metrics_tables(rows))
