"""Which kernel modules and which firmware an image needs: a policy as data, closed under what the modules depend on.

Only files below kernel/ of a module tree are ever proposed to go; what a vendor or a script put beside it (updates,
extra) stays. Nothing here deletes: `slim` does.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path

from msgspec import Struct, convert

__all__ = [
    "Policy",
    "builtin_firmware",
    "dependencies",
    "kept",
    "module_name",
    "plain",
    "policy",
    "soft_dependencies",
]

_COMPRESSED = (".xz", ".zst", ".gz")


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Patterns of paths below kernel/, part by part; each stands for all below it."""

    keep: tuple[str, ...]
    drop: tuple[str, ...] = ()

    def allows(self, path: str) -> bool:
        """Whether the module at `path` (without kernel/) stays for its own sake."""
        parts = tuple(path.split("/"))
        return _any(parts, self.keep) and not _any(parts, self.drop)


def _any(parts: tuple[str, ...], patterns: Iterable[str]) -> bool:
    return any(_matches(parts, _split(pattern)) for pattern in patterns)


@cache
def _split(pattern: str) -> tuple[str, ...]:
    return tuple(pattern.split("/"))


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return len(parts) >= len(pattern) and all(map(fnmatchcase, parts, pattern))


def policy(name: str) -> Policy:
    """The set called `name`: host or virtual."""
    text = (files("hostplane.image") / "data/slim/modules.toml").read_text(encoding="utf-8")
    return convert(tomllib.loads(text), dict[str, Policy])[name]


def module_name(path: str) -> str:
    """What modprobe calls the module at `path`."""
    return Path(plain(path)).stem.replace("-", "_")


def plain(path: str) -> str:
    """`path` without the suffix of a compressor."""
    for suffix in _COMPRESSED:
        path = path.removesuffix(suffix)
    return path


def dependencies(text: str) -> dict[str, list[str]]:
    """modules.dep: each module's path, and the paths of all that it needs."""
    rows = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {path.strip(): needs.split() for path, _, needs in rows}


def soft_dependencies(text: str) -> dict[str, list[str]]:
    """modules.softdep: each module's name, and the names of those it likes to have."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) > 2 and words[0] == "softdep":
            found.setdefault(words[1].replace("-", "_"), []).extend(
                word.replace("-", "_") for word in words[2:] if not word.endswith(":")
            )
    return found


def kept(
    needs: Mapping[str, Iterable[str]], likes: Mapping[str, Iterable[str]], chosen: Policy, named: Iterable[str]
) -> set[str]:
    """The paths of the modules that stay; `named` are module names, also with * and ?."""
    names = [name.replace("-", "_") for name in named]
    by_name = {module_name(path): path for path in needs}
    stay = set()
    for path in needs:
        own = plain(path).removeprefix("kernel/")
        is_foreign = not path.startswith("kernel/")
        if is_foreign or chosen.allows(own) or any(fnmatchcase(module_name(path), name) for name in names):
            stay.add(path)
    todo = list(stay)
    while todo:
        path = todo.pop()
        liked = (by_name[name] for name in likes.get(module_name(path), ()) if name in by_name)
        for other in (*needs.get(path, ()), *liked):
            if other not in stay:
                stay.add(other)
                todo.append(other)
    return stay


def builtin_firmware(raw: bytes) -> set[str]:
    """modules.builtin.modinfo: the firmware that the kernel itself asks for."""
    found = set()
    for entry in raw.split(b"\0"):
        key, _, value = entry.partition(b"=")
        if key.endswith(b".firmware"):
            found.add(value.decode("utf-8", "replace"))
    return found
