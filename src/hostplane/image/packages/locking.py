"""Makes a lock: reads a recipe whose lock may not exist yet, and asks its backend what it would install now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from hostplane import distros
from hostplane.distros.profile import Profile
from hostplane.image.backends import Lock, backend_for
from hostplane.image.packages.asking import desk
from hostplane.image.reading.check import findings
from hostplane.image.reading.findings import RecipeRefusedError
from hostplane.image.reading.read import read_recipe
from hostplane.image.recipe import Recipe

__all__ = ["locked_now", "read_for_locking"]

_KEY = "packages.lock"


def read_for_locking(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, Profile]:
    """The recipe and its distribution; a lock file that is missing or old is no error here.

    Raises:
        RecipeRefusedError, RecipeError: as `check`, for anything else.
    """
    loaded = read_recipe(path, overrides)
    recipe = loaded.recipe
    profile = distros.load(recipe.distro, recipe.release, recipe.arch, [path.resolve().parent / "distros"])
    found = [each for each in findings(loaded, profile, os.environ) if each.key != _KEY]
    if any(not each.is_warning for each in found):
        raise RecipeRefusedError(path, found)
    return recipe, profile


def locked_now(recipe: Recipe, profile: Profile, store: Path) -> Lock:
    """What the backend would install now; its indexes are fetched anew, nothing is installed.

    Raises:
        ImageError, RecipeError: as the backend's `lock`.
    """
    unlocked = replace(recipe, packages=replace(recipe.packages, lock=None))
    backend = backend_for(unlocked, profile)
    with desk(recipe, store, "lock") as at:
        return backend.lock(unlocked, profile, cache=at.cache, scratch=at.scratch, run=at.run)
