"""What every subcommand with a recipe shares: its arguments, and how the recipe's findings are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hostplane.image.reading.check import Checked
    from hostplane.image.reading.findings import Finding

__all__ = ["checked", "recipe_arguments", "show_findings"]

F = TypeVar("F", bound=Callable[..., Any])

_WARNING = {"en": "warning", "zh_CN": "警告"}


def recipe_arguments(function: F) -> F:
    """RECIPE (passed as `recipe`) and --set (as `overrides`)."""
    function = click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help="Override a value: disk.size_gib=40; += appends to a list: packages.include+=vim. May be repeated.",
    )(function)
    return click.argument("recipe", type=click.Path(dir_okay=False, path_type=Path))(function)


def checked(recipe: Path, overrides: Iterable[str]) -> Checked:
    """The recipe, read and checked; warnings and errors go to standard error, a line each.

    Raises:
        RecipeError: it was refused, or could not be read.
    """
    from hostplane.image.reading.check import check
    from hostplane.image.reading.findings import RecipeRefusedError

    try:
        result = check(recipe, tuple(overrides))
    except RecipeRefusedError as error:
        show_findings(error.findings)
        raise
    show_findings(result.warnings)
    return result


def show_findings(findings: Iterable[Finding]) -> None:
    """One line each on standard error, in the reader's language: recipe.toml:12: sentence, remedy, code."""
    from hostplane.cli.language import language, worded
    from hostplane.cli.output import printable

    for finding in findings:
        code, text, remedy = worded(finding.reason)
        label = f"{_WARNING[language()]}: " if finding.is_warning else ""
        click.echo(printable(f"{finding.place}: {label}{text} {remedy} ({code})"), err=True)
