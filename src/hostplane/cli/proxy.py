"""`hostplane proxy`."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command(name="proxy", short_help="Run one node's proxy in the foreground.")
def command() -> None:
    """Run one node's proxy in the foreground."""
    raise click.UsageError("not built yet")
