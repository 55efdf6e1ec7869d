"""Where a root's files come from, one module for each way.

A backend is a module of this package with the names of `Backend` at its top level; `backend_for` finds it by importing
it. It never starts a service, never makes an initramfs (the boot stage makes one), never asks what the cache holds, and
writes packages to `Work.cache` by rename only, because other builds read there.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from msgspec import Struct

from hostplane.distros.profile import Profile
from hostplane.image import recipe as recipes
from hostplane.image.stage import Inputs, Run, Work

__all__ = ["Backend", "Lock", "Locked", "Package", "backend_for", "backend_module", "wanted"]


class Package(Struct, frozen=True, kw_only=True):
    """One package of a root, as the root's own database has it."""

    name: str
    version: str
    """As the database says it: [epoch:]version-release."""
    arch: str
    source: str = ""
    """Name of the source package, where it is known."""
    source_version: str = ""
    licence: str = ""
    """SPDX expression or the package's own word; empty: unknown."""
    size: int = 0
    """Bytes when installed."""
    homepage: str = ""
    supplier: str = ""
    """Maintainer or vendor."""


class Locked(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One package of a lock: what is installed, and nothing else of that name."""

    name: str
    version: str
    arch: str
    sha256: str = ""
    """Of the package file, 64 hex digits; empty where the repository names none."""
    location: str = ""
    """Path below the repository; no host name, so that a lock serves every mirror."""
    repository: str = ""
    """Name of the repository, where there are several."""


class Lock(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Exact versions of every package of one recipe."""

    schema: int = 1
    distro: str
    release: str
    arch: str
    backend: str
    epoch: int = 0
    """SOURCE_DATE_EPOCH in seconds: the newest package's time; 0: unknown."""
    packages: tuple[Locked, ...] = ()


class Backend(Protocol):
    """One way to fill a root."""

    def inputs_bootstrap(self, recipe: recipes.Recipe, profile: Profile) -> Inputs:
        """What the smallest root that can install packages depends on."""

    def inputs_packages(self, recipe: recipes.Recipe, profile: Profile) -> Inputs:
        """What the installed packages depend on, besides the root they go into."""

    def bootstrap(self, work: Work) -> None:
        """Fill the empty `work.root` (a plain directory: nothing is below it)."""

    def packages(self, work: Work) -> None:
        """Install the recipe's packages into `work.root`."""

    def lock(self, recipe: recipes.Recipe, profile: Profile, *, cache: Path, scratch: Path, run: Run) -> Lock:
        """What `packages` would install now, exactly; downloads indexes, installs nothing."""

    def installed(self, root: Path) -> Sequence[Package]:
        """The packages of `root`, sorted by name; reads the database, runs nothing of the root."""


def wanted(recipe: recipes.Recipe, profile: Profile) -> list[str]:
    """The packages that deb and dnf are asked for by name, sorted."""
    asked = list(recipe.packages.include)
    if recipe.packages.defaults:
        asked += profile.base_packages
        asked += profile.runtime_packages.get(recipe.kubernetes.runtime, ())
    if recipe.packages.kernel:
        asked += profile.kernel_packages + profile.boot_packages
    if recipe.disk.verity:
        asked += profile.verity_packages
    if recipe.agent and recipe.disk.persist_fs is recipes.StateFs.XFS:
        asked += profile.xfs_packages
    return sorted(set(asked) - set(recipe.packages.exclude))


def backend_for(recipe: recipes.Recipe, profile: Profile) -> Backend:
    """The backend that `recipe` asks for, or else its distribution's own."""
    return cast(Backend, importlib.import_module(backend_module(recipe, profile)))


def backend_module(recipe: recipes.Recipe, profile: Profile) -> str:
    """Its full name."""
    backend = recipe.packages.backend or recipes.Backend(profile.backend)
    return f"hostplane.image.backends.{backend.value}"
