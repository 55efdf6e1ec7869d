"""`hostplane completion`: the script a shell needs to complete verbs and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["command"]


@click.command(name="completion", short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL.

    For bash: hostplane completion bash > ~/.local/share/bash-completion/completions/hostplane
    """
    from hostplane.cli.main import cli

    completion = get_completion_class(shell)
    assert completion is not None  # the choice above
    click.echo(completion(cli, {}, "hostplane", "_HOSTPLANE_COMPLETE").source())
