"""Options that commands share, and the error of a wrong call."""

from __future__ import annotations

from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable


class UsageError(click.ClickException):
    """A call that cannot be carried out; nothing was done."""

    exit_code = 2


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `-c`, `--data-dir` and `--kafka`, and hand it the configuration they make."""

    def with_config(
        config_path: Path | None, data_dir: Path | None, kafka: str | None, **options: Any
    ) -> Any:
        from streamgauge.consumers.config import read_config

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
