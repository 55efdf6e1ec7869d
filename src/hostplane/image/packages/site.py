"""Evidence from a site's own mirror: that a recipe's repositories answer, and have what it asks for.

What the builder knows of most distributions was checked against documents, not against every mirror. A site asks its
own: each repository is read, the packages are resolved as a build would, nothing is installed, and what was seen is
written down with the digests of the repositories' indexes. The file names no secret and may be sent with a report.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from hostplane import __version__
from hostplane.distros.profile import Profile
from hostplane.errors import ImageError, RecipeError
from hostplane.image.backends import Locked, rpms, wanted
from hostplane.image.packages import dnf as dnfs
from hostplane.image.packages.apt import Apt, archive_sources
from hostplane.image.packages.apt import repositories as deb_repositories
from hostplane.image.packages.dnf import sha256
from hostplane.image.recipe import Backend, Recipe, Repository
from hostplane.image.stage import Run

__all__ = ["Evidence", "Found", "Index", "beside", "look", "write"]


class Index(Struct, frozen=True, kw_only=True):
    """One index that was read."""

    repository: str
    url: str
    file: str
    """Below the address: repodata/repomd.xml, dists/SUITE/InRelease."""
    sha256: str
    """64 hex digits."""


class Found(Struct, frozen=True, kw_only=True):
    """One package asked for by name."""

    name: str
    found: bool


class Evidence(Struct, frozen=True, kw_only=True):
    """What a site's repositories said."""

    schema: int = 1
    date: str
    """RFC 3339, UTC."""
    hostplane: str = __version__
    distro: str
    release: str
    arch: str
    backend: str
    indexes: tuple[Index, ...]
    asked: tuple[Found, ...]
    resolved: tuple[Locked, ...]
    """All that a build would install; empty where it would not resolve."""
    problem: str | None = None
    """Why it would not resolve."""

    @property
    def missing(self) -> list[str]:
        """What was asked for and is in no repository."""
        return [each.name for each in self.asked if not each.found]

    @property
    def is_good(self) -> bool:
        """Whether a build would find everything."""
        return self.problem is None and not self.missing


def beside(recipe: Path) -> Path:
    """Where the evidence of a recipe file goes: recipe.toml has recipe.site.json."""
    return recipe.with_suffix(".site.json")


def look(recipe: Recipe, profile: Profile, *, cache: Path, scratch: Path, run: Run, date: str) -> Evidence:
    """Ask the recipe's repositories; `date` is now, in RFC 3339.

    Raises:
        RecipeError: SiteNothingToAsk for a root that comes from no repository; a key or a password is missing.
        ImageError: RepositoryUnreachable, ToolFailed.
    """
    backend = recipe.packages.backend or Backend(profile.backend)
    match backend:
        case Backend.TREE:
            raise RecipeError("SiteNothingToAsk", backend=backend.value)
        case Backend.DEB:
            indexes, asked, resolved, problem = _deb(recipe, profile, cache, scratch, run)
        case Backend.DNF:
            repos = dnfs.repositories(recipe, profile)
            indexes, asked, resolved, problem = _rpm(repos, recipe, profile, cache, scratch, run)
        case Backend.RPMS:
            repos = [rpms.indexed(recipe, profile, scratch, run)]
            indexes, asked, resolved, problem = _rpm(repos, recipe, profile, cache, scratch, run)
    return Evidence(
        date=date,
        distro=profile.id,
        release=profile.release,
        arch=profile.arch,
        backend=backend.value,
        indexes=tuple(indexes),
        asked=tuple(asked),
        resolved=tuple(resolved),
        problem=problem,
    )


def write(evidence: Evidence, path: Path) -> None:
    """Put `evidence` into `path`, all at once."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_bytes(msgspec.json.format(msgspec.json.encode(evidence), indent=2) + b"\n")
    new.replace(path)


_Said = tuple[list[Index], list[Found], Sequence[Locked], str | None]


def _rpm(repos: Sequence[Repository], recipe: Recipe, profile: Profile, cache: Path, scratch: Path, run: Run) -> _Said:
    tool = dnfs.Dnf(recipe, profile, repos, cache=cache, scratch=scratch, run=run)
    root = scratch / "root"
    (root / dnfs.DATABASE).mkdir(parents=True)
    names = sorted({*profile.bootstrap_packages, *wanted(recipe, profile)})
    asked = [Found(name=name, found=is_there) for name, is_there in tool.known(root, names).items()]
    resolved: Sequence[Locked] = ()
    problem = None
    try:
        resolved = tool.resolve(root, [each.name for each in asked if each.found])
    except ImageError as error:
        if error.name not in ("PackagesConflict", "PackagesUnknown"):
            raise
        problem = str(error)
    urls = {each.name: dnfs.address(each.url, profile) for each in repos}
    indexes = [
        Index(repository=name, url=urls.get(name, name), file="repodata/repomd.xml", sha256=digest)
        for name, digest in tool.metadata().items()
    ]
    return indexes, asked, resolved, problem


def _deb(recipe: Recipe, profile: Profile, cache: Path, scratch: Path, run: Run) -> _Said:
    repos = deb_repositories(recipe, profile)
    tool = Apt(recipe, profile, cache=cache, scratch=scratch, run=run, log=lambda text: None)
    tool.update(force=True)
    names = wanted(recipe, profile)
    known = set(run(["apt-cache", "pkgnames"], env=tool.environment).decode().split())
    asked = [Found(name=name, found=name.partition(":")[0] in known) for name in names]
    resolved: list[Locked] = []
    problem = None
    try:
        archives = tool.solve("install", *(each.name for each in asked if each.found), status=Path("/dev/null"))
        resolved = [Locked(name=a.name, version=a.version, arch=a.arch, sha256=a.sha256) for a in archives]
    except ImageError as error:
        if error.name != "ToolFailed":
            raise
        problem = str(error.reason.params.get("last"))
    sources = {each.name: each.url for each in repos} or {s.url: s.url for s in archive_sources(profile, scratch, run)}
    indexes = []
    for path in sorted((scratch / "apt/state/lists").glob("*Release")):
        stems = {_stem(url): (name, url) for name, url in sources.items() if path.name.startswith(f"{_stem(url)}_")}
        stem = max(stems, key=len, default="")
        name, url = stems.get(stem, ("", ""))
        file = path.name.removeprefix(stem).strip("_").replace("_", "/")
        indexes.append(Index(repository=name, url=url, file=file, sha256=sha256(path)))
    return indexes, asked, sorted(resolved, key=lambda each: each.name), problem


def _stem(url: str) -> str:
    """How apt begins the name of an index of `url`."""
    return url.partition("://")[2].strip("/").replace("_", "%5f").replace("/", "_")
