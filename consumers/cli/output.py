"""Tables, whole where their output is piped on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

_PIPE_WIDTH = 400


def print_tables(*tables: RenderableType) -> None:
    """Print tables: styled and fitted on a terminal, else as plain lines that nothing cuts."""
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
