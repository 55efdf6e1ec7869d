"""The one place that turns a command line into an exit code, and an error into at most three lines.

A verb is a module of the same name beside this one that holds a Click `command`; it is imported when it is asked for,
so that `hostplane --version` costs what Python and Click cost. Verbs raise; only this module prints errors and exits.

    0    done                               3    refused, or something on this machine stands in the way
    1    the operation failed               4    the cluster cannot be reached
    2    the command line is wrong          130  interrupted
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from enum import IntEnum

import click

import hostplane
from hostplane.errors import (
    ApiError,
    ConflictError,
    HostplaneError,
    LocalError,
    NotFoundError,
    RecipeError,
    UnreachableError,
)

__all__ = ["ExitCode", "cli", "exit_code", "main"]

VERBS = ("completion", "crds", "demo", "hosts", "image", "local", "operator", "proxy", "rollout", "settings")


class ExitCode(IntEnum):
    """What a script can rely on."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


def exit_code(error: HostplaneError) -> ExitCode:
    """The exit code an error ends the program with."""
    if isinstance(error, UnreachableError):
        return ExitCode.UNREACHABLE
    if isinstance(error, RecipeError):
        return ExitCode.USAGE
    if isinstance(error, (ApiError, ConflictError, NotFoundError, LocalError)):
        return ExitCode.REFUSED
    return ExitCode.FAILED


class _Verbs(click.Group):
    """Finds a verb by importing its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"hostplane.cli.{cmd_name}").command
        return command


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused or something is in the way, "
    "4 cluster unreachable, 130 interrupted. HOSTPLANE_LANG=zh_CN shows messages in Chinese.",
)
@click.version_option(hostplane.__version__, prog_name="hostplane", message="%(prog)s %(version)s")
def cli() -> None:
    """The operating system of every Kubernetes node as a versioned, declarative part of the cluster."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line (default: this process's) and returns its exit code."""
    try:
        result = cli.main(args=arguments, prog_name="hostplane", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else ExitCode.OK
    except HostplaneError as error:
        _show(error)
        return exit_code(error)
    except click.Abort:
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough; Python must not complain about it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except BaseExceptionGroup as group:  # a TaskGroup's: the first of ours tells the story
        ours = _first(group)
        if ours is None:
            raise
        _show(ours)
        return exit_code(ours)
    except OSError as error:
        _show(LocalError("SystemRefused", error=error))
        return ExitCode.REFUSED


def _first(group: BaseExceptionGroup[BaseException]) -> HostplaneError | None:
    for error in group.exceptions:
        if isinstance(error, HostplaneError):
            return error
        if isinstance(error, BaseExceptionGroup):
            inner = _first(error)
            if inner is not None:
                return inner
    return None


def _show(error: HostplaneError) -> None:
    from hostplane.cli.language import worded

    code, text, remedy = worded(error.reason)
    click.echo(f"hostplane: {code}: {' '.join(text.split())}", err=True)
    if remedy:
        click.echo(f"  {' '.join(remedy.split())}", err=True)
