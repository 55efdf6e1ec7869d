"""The kernel of a root, and the modules its initramfs needs: found in the tree alone, whoever put it there.

Packages put a kernel into /boot (deb, older rpm) or beside its modules (newer rpm); a tree may do either. Where several
are installed the highest version counts, as a person would expect of a root that was upgraded before it was packed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from hostplane.errors import ImageError
from hostplane.image.rootpath import within

__all__ = ["Kernel", "Modules", "find", "host_patterns", "matching"]

_NAMES = ("vmlinuz", "vmlinux", "Image")
_SUFFIX = re.compile(r"\.ko(\.(xz|zst|gz))?$")


class Kernel(NamedTuple):
    """One kernel."""

    version: str
    image: Path


class Modules(NamedTuple):
    """What modprobe knows of one kernel's modules; paths are relative to /lib/modules/VERSION."""

    needs: dict[str, tuple[str, ...]]
    """Path -> paths of what it depends on (all of them, not only the next)."""
    paths: dict[str, str]
    """Name, with underscores -> path."""
    builtin: frozenset[str]
    soft: dict[str, tuple[str, ...]]
    """Name -> names that are loaded with it where they exist."""

    @classmethod
    def read(cls, directory: Path) -> Modules:
        """Read what depmod wrote into /lib/modules/VERSION."""
        needs = {}
        for line in _lines(directory / "modules.dep"):
            path, _, rest = line.partition(":")
            needs[path] = tuple(rest.split())
        soft: dict[str, tuple[str, ...]] = {}
        for line in _lines(directory / "modules.softdep"):
            words = line.split()
            if len(words) > 2 and words[0] == "softdep":
                wanted = tuple(_plain(word) for word in words[2:] if word not in ("pre:", "post:"))
                soft[_plain(words[1])] = soft.get(_plain(words[1]), ()) + wanted
        builtin = frozenset(_name(line) for line in _lines(directory / "modules.builtin"))
        return cls(needs, {_name(path): path for path in needs}, builtin, soft)

    def closure(self, paths: Iterable[str]) -> list[str]:
        """`paths` and everything they load, sorted."""
        seen: set[str] = set()
        waiting = list(paths)
        while waiting:
            path = waiting.pop()
            if path in seen or path not in self.needs:
                continue
            seen.add(path)
            waiting += self.needs[path]
            waiting += [self.paths[name] for name in self.soft.get(_name(path), ()) if name in self.paths]
        return sorted(seen)

    def named(self, names: Iterable[str]) -> list[str]:
        """The paths of the modules `names`; built-in ones have none.

        Raises:
            ImageError: ModuleMissing.
        """
        found = []
        for name in names:
            if _plain(name) in self.paths:
                found.append(self.paths[_plain(name)])
            elif _plain(name) not in self.builtin:
                raise ImageError("ModuleMissing", module=name)
        return found


def find(root: Path) -> Kernel:
    """The kernel that `root` boots with.

    Raises:
        ImageError: KernelMissing; there is none, or none that has its modules.
    """
    modules = within(root, "/lib/modules")
    versions = [place.name for place in modules.iterdir() if place.is_dir()] if modules.is_dir() else []
    for version in sorted(versions, key=_order, reverse=True):
        places = [f"/boot/{name}-{version}" for name in _NAMES] + [f"/lib/modules/{version}/{name}" for name in _NAMES]
        for image in (within(root, place) for place in places):
            if image.is_file():
                return Kernel(version, image)
    raise ImageError("KernelMissing")


def host_patterns() -> list[str]:
    """The lines of data/initramfs/modules.list."""
    text = resources.files("hostplane.image").joinpath("data/initramfs/modules.list").read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def matching(modules: Modules, patterns: Iterable[str]) -> list[str]:
    """The paths of the modules that a pattern names and no pattern with ! before it does."""
    taken: list[str] = []
    left: list[str] = []
    for pattern in patterns:
        (left if pattern.startswith("!") else taken).append(_expression(pattern.lstrip("!")))
    wanted, refused = (
        re.compile(rf"(?:kernel|extra|updates)/(?:{'|'.join(names)})\.ko(?:\.\w+)?") for names in (taken, left)
    )
    return [path for path in modules.needs if wanted.fullmatch(path) and not refused.fullmatch(path)]


def _expression(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8", "replace").splitlines() if path.is_file() else []


def _name(path: str) -> str:
    return _plain(_SUFFIX.sub("", path.rpartition("/")[2]))


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _order(version: str) -> list[tuple[int, int, str]]:
    """Numbers by value, words by letter: 6.1.0-9 before 6.1.0-10."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|[A-Za-z]+", version)]
