"""The distributions, one data file each: from a name in a recipe to a `Profile` with every question answered.

A file says what holds for the whole distribution; below it `[arch.NAME]`, `[release.NAME]` and
`[release.NAME.arch.NAME]` say what differs, in that order, the later one winning. A table is merged, anything else is
replaced, and a key that ends in `+` adds to the list before it. A release may start from another one with `like`.
Files are found in the directories handed in, then in the one that HOSTPLANE_DISTROS names, then here; the first that
claims an id is the one that counts. Refused: unknown keys, a release or an architecture that the file does not list,
and guessing at either.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from hostplane.distros.profile import Evidence, Loader, Profile
from hostplane.distros.schema import Facts, Listing
from hostplane.errors import RecipeError

__all__ = ["Evidence", "Listing", "Loader", "Profile", "listing", "load"]

BUILT_IN = Path(__file__).parent / "data"
ENVIRONMENT = "HOSTPLANE_DISTROS"

_OVERRIDES = ("arch", "release")

_Table = dict[str, object]


def load(distro: str, release: str, arch: str, extra: Iterable[Path] = ()) -> Profile:
    """The profile of `distro` (its os-release ID, in any case of letters), `release` (or its code name) and `arch`.

    `extra` are directories of more files, searched first: the `distros/` beside a recipe.

    Raises:
        RecipeError: DistroUnknown, DistroReleaseUnknown or DistroArchUnknown with what is known instead;
            DistroFileWrong when the file itself is unreadable or says something that cannot be.
    """
    files = dict(_files(extra))
    path = files.get(distro.lower())
    if path is None:
        known = ", ".join(sorted(str(_read(file)["id"]) for file in files.values()))
        raise RecipeError("DistroUnknown", distro=distro, known=known)
    data = _read(path)
    releases = _tables(path, data, "release")
    name = _release_name(releases, release)
    if name is None:
        raise RecipeError("DistroReleaseUnknown", distro=data["id"], release=release, known=", ".join(releases))
    arches = _arches(path, data, releases, name)
    if arch not in arches:
        raise RecipeError("DistroArchUnknown", distro=data["id"], release=name, arch=arch, known=", ".join(arches))
    return _profile(path, _resolve(path, data, releases, name, arch), name, arch)


def listing(extra: Iterable[Path] = ()) -> list[Listing]:
    """Every known distribution, release and architecture, sorted by id; each one loaded, so each one is valid."""
    found = []
    for path in dict(_files(extra)).values():
        data = _read(path)
        releases = _tables(path, data, "release")
        for name in releases:
            arches = _arches(path, data, releases, name)
            profiles = [_profile(path, _resolve(path, data, releases, name, arch), name, arch) for arch in arches]
            found.append(Listing(file=path, arches=tuple(arches), profiles=tuple(profiles)))
    return sorted(found, key=lambda each: each.profiles[0].id.lower())


def _files(extra: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """(id in small letters, file): the last pair of an id is the one that counts."""
    configured = os.environ.get(ENVIRONMENT)
    directories = [*extra, *([Path(configured)] if configured else []), BUILT_IN]
    for directory in reversed(directories):
        for path in sorted(directory.glob("*.toml")):
            yield str(_read(path)["id"]).lower(), path


def _read(path: Path) -> _Table:
    try:
        data: _Table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError("DistroFileWrong", file=path, what=str(error)) from error
    if not isinstance(data.get("id"), str):
        raise RecipeError("DistroFileWrong", file=path, what="id, the ID of the distribution's os-release, is missing")
    return data


def _tables(path: Path, data: Mapping[str, object], key: str) -> dict[str, _Table]:
    """The tables below `key`, by name."""
    tables = data.get(key, {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise RecipeError("DistroFileWrong", file=path, what=f"[{key}.NAME] must be tables")
    return tables


def _release_name(releases: Mapping[str, _Table], wanted: str) -> str | None:
    for name, table in releases.items():
        if wanted.lower() in (name.lower(), str(table.get("codename", name)).lower()):
            return name
    return None


def _chain(path: Path, releases: Mapping[str, _Table], name: str) -> list[_Table]:
    """The release's table, before it the one it is like, and so on: the oldest first."""
    chain: list[_Table] = []
    seen: list[object] = []
    at: object = name
    while at is not None:
        if at in seen or not isinstance(at, str) or at not in releases:
            raise RecipeError("DistroFileWrong", file=path, what=f"release {name} is like {at}, which leads nowhere")
        seen.append(at)
        chain.insert(0, releases[at])
        at = releases[at].get("like")
    return chain


def _arches(path: Path, data: Mapping[str, object], releases: Mapping[str, _Table], name: str) -> list[str]:
    """The architectures of a release: its own `arches`, or every one that the file has a table for."""
    arches: object = list(_tables(path, data, "arch"))
    for table in _chain(path, releases, name):
        arches = table.get("arches", arches)
    if not isinstance(arches, list) or not arches or not all(isinstance(arch, str) for arch in arches):
        raise RecipeError("DistroFileWrong", file=path, what=f"release {name} lists no architecture")
    return arches


def _resolve(path: Path, data: _Table, releases: Mapping[str, _Table], name: str, arch: str) -> _Table:
    chain = _chain(path, releases, name)
    layers = [data, _tables(path, data, "arch").get(arch, {}), *chain]
    layers += [_tables(path, table, "arch").get(arch, {}) for table in chain]
    merged: _Table = {}
    for layer in layers:
        merged = _merge(merged, {key: value for key, value in layer.items() if key not in _OVERRIDES})
    for key in ("like", "arches"):
        merged.pop(key, None)
    return merged


def _merge(under: Mapping[str, object], over: Mapping[str, object]) -> _Table:
    merged = dict(under)
    for key, value in over.items():
        before = merged.get(key)
        if key.endswith("+") and isinstance(value, list):
            head = merged.get(key[:-1], [])
            merged[key[:-1]] = [*(head if isinstance(head, list) else []), *value]
        elif isinstance(value, dict) and isinstance(before, dict):
            merged[key] = _merge(before, value)
        else:
            merged[key] = _merge({}, value) if isinstance(value, dict) else value
    return merged


def _profile(path: Path, merged: _Table, release: str, arch: str) -> Profile:
    try:
        return msgspec.convert(merged, Facts).profile(release, arch)
    except (msgspec.ValidationError, ValueError) as error:
        where = f"release {release}, {arch}: {error}".replace(" - at `$.", " - at `")
        raise RecipeError("DistroFileWrong", file=path, what=where) from error
