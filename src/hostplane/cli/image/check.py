"""`hostplane image check`: everything that is wrong with a recipe, before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostplane.cli.image.recipes import recipe_arguments
from hostplane.cli.options import json_option

if TYPE_CHECKING:
    from hostplane.image.findings import Finding

__all__ = ["command"]


@click.command(name="check", short_help="Say everything that is wrong with a recipe.")
@recipe_arguments
@json_option
def command(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Read RECIPE with everything it includes and hold it against every rule; nothing is built and nobody is asked.

    Every error and warning is one line: file, line, what is wrong, what to do. Exit code 2 when there are errors.
    """
    from hostplane.cli.image.recipes import checked
    from hostplane.cli.output import print_json
    from hostplane.image.check import check
    from hostplane.image.findings import RecipeRefusedError

    if not as_json:
        result = checked(recipe, overrides)
        click.echo(
            f"{recipe}: {result.recipe.name} {result.recipe.version}, {result.profile.title}, {result.recipe.arch}"
        )
        return
    try:
        findings: Sequence[Finding] = check(recipe, overrides).warnings
    except RecipeRefusedError as error:
        print_json(_document(recipe, error.findings))
        raise
    print_json(_document(recipe, findings))


def _document(recipe: Path, findings: Sequence[Finding]) -> dict[str, object]:
    from hostplane.cli.language import worded

    entries = []
    for finding in findings:
        code, text, remedy = worded(finding.reason)
        entries.append(
            {
                "file": None if finding.place.override else str(finding.place.file),
                "line": finding.place.line or None,
                "override": finding.place.override or None,
                "key": finding.key,
                "level": "warning" if finding.is_warning else "error",
                "name": finding.reason.name,
                "code": code,
                "text": text,
                "remedy": remedy,
            }
        )
    is_valid = all(finding.is_warning for finding in findings)
    return {"recipe": str(recipe), "valid": is_valid, "findings": entries}
