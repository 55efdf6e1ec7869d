"""`hostplane demo`."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command(name="demo", short_help="Upgrade simulated hosts on a real control plane, live.")
def command() -> None:
    """Upgrade simulated hosts on a real control plane, live."""
    raise click.UsageError("not built yet")
