"""The version of a stage's program: a digest of the modules it is made of, found by reading their import lines.

So a change of the builder makes again what it touches and nothing else, and nobody has to remember a number. Imports
inside functions count as well, and so do the data files that a module names. What every stage shares (types, the log,
errors) is left out: it decides no result.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

import hostplane

__all__ = ["code_version"]

_TOP = Path(hostplane.__file__).parent
_ROOMS = ("hostplane.image", "hostplane.agent", "hostplane.rpc")
_ROOM_NAMES = ("reading", "building", "packages", "root", "boot", "disk", "bundle", "backends", "stages")
_PLUMBING = ("process", "mounts", "tools", "keys", "code", "digests", "store", "worker", "engine")
_SHARED = frozenset(
    ["hostplane.image", "hostplane.image.recipe", "hostplane.image.stage"]
    + [f"hostplane.image.{room}" for room in _ROOM_NAMES]
    + [f"hostplane.image.building.{module}" for module in _PLUMBING]
    + ["hostplane.image.reading.read", "hostplane.image.reading.check"]
)
_IMPORT = re.compile(
    rb"^\s*(?:from\s+(hostplane[\w.]*)\s+import\s+(\([^)]*\)|[^\n#]*)|import\s+(hostplane[\w.]*))", re.M
)
_DATA = re.compile(rb"\bdata/[\w./-]+")
_WORD = re.compile(r"[A-Za-z_]\w*")


@cache
def code_version(*modules: str) -> str:
    """64 hex digits over `modules` and what they import of the builder's and the host's own rooms."""
    seen: dict[str, bytes] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name in seen or path is None or (name in _SHARED and name not in modules):
            continue
        seen[name] = path.read_bytes()
        for data in _data(seen[name]):
            seen[str(data.relative_to(_TOP))] = data.read_bytes()
        waiting += [found for found in _imports(seen[name]) if found.startswith(_ROOMS)]
    digest = hashlib.sha256()
    for name in sorted(seen):
        digest.update(f"{name} {hashlib.sha256(seen[name]).hexdigest()}\n".encode())
    return digest.hexdigest()


def _data(source: bytes) -> list[Path]:
    """The files that the module names as data/…, or all below a directory that it names so."""
    places = {_TOP / "image" / name.decode().rstrip("./") for name in _DATA.findall(source)}
    return sorted(path for place in places for path in [place, *place.rglob("*")] if path.is_file())


def _source(name: str) -> Path | None:
    path = _TOP.joinpath(*name.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _imports(source: bytes) -> list[str]:
    found: list[str] = []
    for package, names, module in _IMPORT.findall(source):
        if module:
            found.append(module.decode())
            continue
        parent = package.decode()
        found += [parent, *(f"{parent}.{word}" for word in _WORD.findall(names.decode()))]
    return found
