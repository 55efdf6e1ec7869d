"""Roots that somebody else made: a directory, a tar archive, or an OCI image layout; no package manager is asked.

The tree is taken as it is, with owners, attributes and capabilities. It may bring a kernel or not; without one there is
nothing to boot from, and only the outputs that need no kernel can be written. Its package database, where it has one,
is read like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from hostplane.distros.profile import Profile
from hostplane.errors import RecipeError
from hostplane.image.backends import Lock, Package
from hostplane.image.building.digests import source_digest
from hostplane.image.packages import debdb, rpmdb
from hostplane.image.recipe import Recipe
from hostplane.image.root.ocitree import is_layout, layers, manifest_digest, split
from hostplane.image.root.rootglob import matches, remove
from hostplane.image.root.rootpath import within
from hostplane.image.root.untar import Unpacker
from hostplane.image.stage import Inputs, Run, Work

__all__ = ["bootstrap", "inputs_bootstrap", "inputs_packages", "installed", "lock", "packages"]

_PLACES = {"proc": 0o555, "sys": 0o555, "dev": 0o755, "run": 0o755, "tmp": 0o1777, "boot": 0o755, "etc": 0o755}
_VOLATILE = ("/proc/*", "/sys/*", "/dev/*", "/run/*", "/tmp/*", "/.dockerenv")
_SHOWN = 5


def _source(recipe: Recipe) -> tuple[Path, str]:
    if not recipe.packages.source:
        raise RecipeError("TreeSourceMissing")
    return split(recipe.packages.source)


def inputs_bootstrap(recipe: Recipe, profile: Profile) -> Inputs:
    """The tree's content.

    Raises:
        RecipeError: TreeSourceMissing, SourceMissing.
        ImageError: the OCI layout has no such image.
    """
    path, tag = _source(recipe)
    if is_layout(path):
        return {"image": manifest_digest(path, tag, profile.arch)}
    if path.is_file():
        with path.open("rb") as stream:
            return {"archive": hashlib.file_digest(stream, "sha256").hexdigest()}
    return {"directory": source_digest(path)}


def inputs_packages(recipe: Recipe, profile: Profile) -> Inputs:
    """None: there is nothing to install with."""
    return {}


def bootstrap(work: Work) -> None:
    """The tree into the empty `work.root`.

    Raises:
        RecipeError: TreeSourceMissing.
        ImageError: TreeEscapes, TreeBroken, TreeLinkDangles, TreeOwnerRefused, TreeNeedsZstd, OciBlobWrong,
            OciImageUnclear, OciImageUnreadable; ToolFailed for a directory.
    """
    path, tag = _source(work.recipe)
    if path.is_dir() and not is_layout(path):
        work.progress(0.0, "copying")
        work.run(["cp", "--archive", "--sparse=auto", "--no-target-directory", "--", str(path), str(work.root)])
    else:
        archives = layers(path, tag, work.profile.arch) if is_layout(path) else [path]
        unpacker = Unpacker(work.root)
        for number, archive in enumerate(archives):
            work.progress(number / len(archives), f"layer {number + 1} of {len(archives)}")
            unpacker.layer(archive, whiteouts=is_layout(path))
        if unpacker.skipped:
            shown = ", ".join(unpacker.skipped[:_SHOWN])
            work.log(f"left out {len(unpacker.skipped)}: {shown}")
    for pattern in _VOLATILE:
        for entry in matches(work.root, pattern):
            remove(entry)
    for name, mode in _PLACES.items():
        place = within(work.root, f"/{name}", follow=False)
        if not place.is_symlink() and not place.is_dir():
            place.mkdir(mode=mode)
            place.chmod(mode)


def packages(work: Work) -> None:
    """Nothing: the tree is complete."""
    work.log("a tree is taken as it is; no packages are installed")


def lock(recipe: Recipe, profile: Profile, *, cache: Path, scratch: Path, run: Run) -> Lock:
    """There is nothing to lock.

    Raises:
        RecipeError: TreeHasNoLock.
    """
    raise RecipeError("TreeHasNoLock", source=recipe.packages.source or "-")


def installed(root: Path) -> Sequence[Package]:
    """The packages of whichever database the tree has; none without one."""
    if within(root, debdb.STATUS).is_file():
        return debdb.installed(root)
    if any(within(root, f"/{place}").is_dir() for place in ("usr/lib/sysimage/rpm", "var/lib/rpm")):
        return rpmdb.installed(root)
    return []
