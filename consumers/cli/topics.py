"""Commands that make, check and list the broker's topics."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from streamgauge.consumers.cli.options import config_options
from streamgauge.consumers.cli.output import print_tables

if TYPE_CHECKING:
    from streamgauge.consumers.config import Config


@click.group()
def topics() -> None:
    """Make, check and list the broker's topics."""


@topics.command("create")
@click.option("--partitions", type=click.IntRange(1), help="Of every topic. [default: 6]")
@click.option(
    "--replication",
    type=click.IntRange(1),
    help="Of every topic. [default: 3, or as many as there are brokers]",
)
@config_options
def topics_create(config: Config, partitions: int | None, replication: int | None) -> None:
    """Make the topics that Kafka lacks, with the settings that the promises need."""
    from streamgauge.consumers.kafka.topics import Admin

    with Admin(config) as admin:
        made = admin.create(partitions, replication)
    click.echo(f"made {', '.join(made)}" if made else "every topic is there already")


@topics.command("check")
@config_options
def topics_check(config: Config) -> None:
    """Say whether Kafka's topics are as they must be, or what is wrong and how to mend it."""
    from streamgauge.consumers.kafka.topics import Admin

    with Admin(config) as admin:
        n_partitions = admin.check()
    click.echo(f"every topic is right, with {n_partitions} partitions")


@topics.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@config_options
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
        print_tables(topics_table(infos, counts_markers=config.broker.kind == "kafka"))
