"""`hostplane operator`."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command(name="operator", short_help="Run the operator in the foreground against any cluster.")
def command() -> None:
    """Run the operator in the foreground against any cluster."""
    raise click.UsageError("not built yet")
