"""Whether a recipe makes sense, before anything is built: every error at once, each with file, line and remedy.

The types say what a value may be; the rules below `rules/` say what fits together. Errors refuse the recipe, warnings
do not. Checking contacts nobody and writes nothing; whether a site's own mirror answers is `site.py`'s question.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from hostplane import distros
from hostplane.distros.profile import Profile
from hostplane.errors import RecipeError
from hostplane.image.reading.findings import Finding, RecipeRefusedError
from hostplane.image.reading.positions import KeyPath, written
from hostplane.image.reading.read import Loaded, read_recipe
from hostplane.image.reading.rules import RULES, Case
from hostplane.image.recipe import Recipe

__all__ = ["Checked", "check", "findings"]

_CULPRITS = {"DistroUnknown": "distro", "DistroReleaseUnknown": "release", "DistroArchUnknown": "arch"}


class Checked(Struct, frozen=True, kw_only=True):
    """A recipe without errors, and its distribution."""

    recipe: Recipe
    profile: Profile
    loaded: Loaded
    warnings: tuple[Finding, ...]


def check(path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> Checked:
    """Reads a recipe and holds it against every rule.

    Raises:
        RecipeRefusedError: it has errors; `findings` lists them and the warnings.
        RecipeError: a file cannot be read, or an override leads nowhere.
    """
    loaded = read_recipe(path, overrides)
    found: list[Finding] = []
    profile = None
    try:
        recipe = loaded.recipe
        profile = distros.load(recipe.distro, recipe.release, recipe.arch, [path.resolve().parent / "distros"])
    except RecipeError as error:
        key = _CULPRITS.get(error.name, "distro")
        found.append(Finding(place=loaded.place((key,)), key=key, reason=error.reason))
    found += findings(loaded, profile, environment)
    if profile is None or any(not finding.is_warning for finding in found):
        raise RecipeRefusedError(path, found)
    return Checked(recipe=loaded.recipe, profile=profile, loaded=loaded, warnings=_sorted(found))


def findings(loaded: Loaded, profile: Profile | None, environment: Mapping[str, str]) -> tuple[Finding, ...]:
    """What the rules say, sorted by file and line; `profile` None leaves out what depends on the distribution."""

    def said(path: KeyPath) -> bool:
        return path in loaded.where

    case = Case(recipe=loaded.recipe, profile=profile, said=said, environment=environment)
    found = [
        Finding(
            place=loaded.place(fault.path), key=written(fault.path), reason=fault.reason, is_warning=fault.is_warning
        )
        for rule in RULES
        for fault in rule(case)
    ]
    return _sorted(found)


def _sorted(found: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(found, key=lambda finding: (finding.place, finding.key)))
