"""Commands that check a configuration, and show what one may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamgauge.consumers.cli.options import config_options

if TYPE_CHECKING:
    from streamgauge.consumers.config import Config


@click.group()
def config() -> None:
    """Check a configuration, or show what one may say."""


@config.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def config_check(file: Path) -> None:
    """Say whether FILE is a valid configuration, or what is wrong with it, field by field."""
    from streamgauge.consumers.config import read_config
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
    from streamgauge.consumers.config import Config

    click.echo(json.dumps(Config.model_json_schema(), indent=2))


@config.command("show")
@config_options
def config_show(config: Config) -> None:
    """Print the whole configuration in force, defaults included, as YAML."""
    import yaml

    click.echo(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), nl=False)
