"""`hostplane image check`: everything that is wrong with a recipe, before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostplane.cli.image.recipes import recipe_arguments
from hostplane.cli.options import json_option

if TYPE_CHECKING:
    from hostplane.image.packages.site import Evidence
    from hostplane.image.reading.check import Checked
    from hostplane.image.reading.findings import Finding

__all__ = ["command"]


@click.command(name="check", short_help="Say everything that is wrong with a recipe.")
@recipe_arguments
@click.option("--site", "ask_site", is_flag=True, help="Also ask its repositories, and write down what they said.")
@click.option("--store", type=click.Path(file_okay=False, path_type=Path), help="Where --site keeps indexes.")
@json_option
def command(recipe: Path, overrides: tuple[str, ...], ask_site: bool, store: Path | None, as_json: bool) -> None:
    """Read RECIPE with everything it includes and hold it against every rule; nothing is built.

    Every error and warning is one line: file, line, what is wrong, what to do. Exit code 2 when there are errors.
    Nobody is asked, except with --site: then the recipe's repositories are, and what they said is written beside
    RECIPE with the suffix .site.json. Exit code 1 when they lack something.
    """
    from hostplane.cli.image.recipes import checked
    from hostplane.cli.output import print_json
    from hostplane.image.reading.check import check
    from hostplane.image.reading.findings import RecipeRefusedError

    if not as_json:
        result = checked(recipe, overrides)
        click.echo(
            f"{recipe}: {result.recipe.name} {result.recipe.version}, {result.profile.title}, {result.recipe.arch}"
        )
        if ask_site:
            path, evidence = _asked(result, recipe, store)
            click.echo(f"{path}: {len(evidence.resolved)} packages from {len(evidence.indexes)} indexes")
            _judge(path, evidence)
        return
    try:
        result = check(recipe, overrides)
    except RecipeRefusedError as error:
        print_json(_document(recipe, error.findings))
        raise
    document = _document(recipe, result.warnings)
    if not ask_site:
        print_json(document)
        return
    path, evidence = _asked(result, recipe, store)
    print_json({**document, "site": {"file": str(path), "good": evidence.is_good}})
    _judge(path, evidence)


def _asked(result: Checked, recipe: Path, store: Path | None) -> tuple[Path, Evidence]:
    """What the repositories said, and the file that says so now."""
    from datetime import UTC, datetime

    from hostplane.image.building.store import default_store
    from hostplane.image.packages import site
    from hostplane.image.packages.asking import desk

    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with desk(result.recipe, store or default_store(), "site") as at:
        evidence = site.look(result.recipe, result.profile, cache=at.cache, scratch=at.scratch, run=at.run, date=date)
    path = site.beside(recipe)
    site.write(evidence, path)
    return path, evidence


def _judge(path: Path, evidence: Evidence) -> None:
    from hostplane.errors import ImageError

    missing = ", ".join(each.name for each in evidence.asked if not each.found)
    if missing:
        raise ImageError("SiteLacks", packages=missing, path=path)
    if evidence.problem is not None:
        raise ImageError("SiteUnresolved", problem=evidence.problem, path=path)


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
