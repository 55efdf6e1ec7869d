"""`hostplane image`: make, check, read and boot images. A subcommand is a module beside this one."""

from __future__ import annotations

import importlib

import click

__all__ = ["command"]

_MODULES = {
    "boot": "boot",
    "build": "build",
    "check": "check",
    "diff": "diff",
    "distros": "distros",
    "import": "import_",
    "inspect": "inspect",
    "keys": "keys",
    "lock": "lock",
    "osimage": "osimage",
    "schema": "schema",
    "store": "store",
}


class _Subcommands(click.Group):
    """Finds a subcommand by importing its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        found: click.Command = importlib.import_module(f"hostplane.cli.image.{_MODULES[cmd_name]}").command
        return found


@click.group(cls=_Subcommands)
def command() -> None:
    """Make, check, read and boot images of a node's operating system."""
