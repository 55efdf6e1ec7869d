"""Roots made from a folder of RPM files, without a repository and without the network.

The files are linked into a private directory and indexed there; from then on it is the dnf backend over that one
repository. Signatures are checked as anywhere: a `[[packages.repositories]]` entry whose url is the folder names the
key, or says `check_signatures = false` on purpose. Other repositories of the recipe are not contacted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from hostplane.distros.profile import Profile
from hostplane.errors import ImageError, RecipeError
from hostplane.image.backends import Lock, Package, dnf
from hostplane.image.packages.dnf import address, sha256
from hostplane.image.recipe import Recipe, Repository
from hostplane.image.stage import Inputs, Run, Work

__all__ = ["bootstrap", "indexed", "inputs_bootstrap", "inputs_packages", "installed", "lock", "packages"]


def inputs_bootstrap(recipe: Recipe, profile: Profile) -> Inputs:
    """The release, every file of the folder, and how it is checked."""
    return {
        **dnf.inputs_bootstrap(replace(recipe, packages=replace(recipe.packages, repositories=())), profile),
        "repositories": [{**dnf.identity(_declared(recipe, profile), profile), "url": ""}],
        "files": sorted(sha256(path) for path in _folder(recipe).glob("*.rpm")),
    }


def inputs_packages(recipe: Recipe, profile: Profile) -> Inputs:
    """The packages by name."""
    return dnf.inputs_packages(recipe, profile)


def bootstrap(work: Work) -> None:
    """The distribution's first packages into the empty `work.root`.

    Raises:
        RecipeError: RpmsFolderEmpty, RpmsFolderUnchecked.
        ImageError: as the dnf backend.
    """
    dnf.fill(work, [indexed(work.recipe, work.profile, work.scratch, work.run)], first=True)


def packages(work: Work) -> None:
    """The recipe's packages into the bootstrapped `work.root`.

    Raises: as `bootstrap`.
    """
    dnf.fill(work, [indexed(work.recipe, work.profile, work.scratch, work.run)], first=False)


def lock(recipe: Recipe, profile: Profile, *, cache: Path, scratch: Path, run: Run) -> Lock:
    """Exact versions and digests of what a build would install from the folder now.

    Raises: as `bootstrap`.
    """
    repos = [indexed(recipe, profile, scratch, run)]
    return dnf.lock_over(repos, recipe, profile, cache=cache, scratch=scratch, run=run)


def installed(root: Path) -> Sequence[Package]:
    """The packages of `root`, sorted by name."""
    return dnf.installed(root)


def _folder(recipe: Recipe) -> Path:
    folder = Path(recipe.packages.directory or "")
    if recipe.packages.directory is None or not any(folder.glob("*.rpm")):
        raise RecipeError("RpmsFolderEmpty", folder=recipe.packages.directory)
    return folder


def _declared(recipe: Recipe, profile: Profile) -> Repository:
    """The recipe's entry for the folder."""
    folder = _folder(recipe).resolve()
    for each in recipe.packages.repositories:
        if Path(address(each.url, profile).removeprefix("file://")).resolve() == folder:
            return each
    raise RecipeError("RpmsFolderUnchecked", folder=folder)


def indexed(recipe: Recipe, profile: Profile, scratch: Path, run: Run) -> Repository:
    """The folder as a repository: links to its files in `scratch`, with an index.

    Raises:
        RecipeError: RpmsFolderEmpty, RpmsFolderUnchecked.
        ImageError: RpmsFolderUnreadable.
    """
    declared = _declared(recipe, profile)
    farm = scratch / "rpms"
    farm.mkdir(exist_ok=True)
    for path in sorted(_folder(recipe).glob("*.rpm")):
        target = farm / path.name
        if target.exists():
            continue
        try:
            os.link(path.resolve(), target)
        except OSError:
            shutil.copy2(path, target)
    try:
        run(["createrepo_c", "--quiet", "--no-database", str(farm)])
    except ImageError as error:
        if error.name != "ToolFailed":
            raise
        raise ImageError("RpmsFolderUnreadable", folder=recipe.packages.directory, log=_log(error)) from error
    return replace(declared, url=str(farm))


def _log(error: ImageError) -> object:
    return error.reason.params.get("log")
