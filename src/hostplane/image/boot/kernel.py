"""The kernel of a root, and the modules its initramfs needs: found in the tree alone, whoever put it there.

Packages put a kernel into /boot (deb, older rpm) or beside its modules (newer rpm); a tree may do either. Where several
are installed the highest version counts, as a person would expect of a root that was upgraded before it was packed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import msgspec

from hostplane.errors import ImageError
from hostplane.image.boot import kernelmodules
from hostplane.image.root.rootpath import within

__all__ = ["Kernel", "boot_modules", "find"]

_NAMES = ("vmlinuz", "vmlinux", "Image")


class Kernel(NamedTuple):
    """One kernel."""

    version: str
    image: Path


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


def boot_modules(directory: Path, named: Sequence[str]) -> list[str]:
    """The modules of an initramfs: data/initramfs/modules.toml, `named`, and what these need; sorted.

    Args:
        directory: /lib/modules/VERSION, after depmod.
        named: names of modules, also with * and ?.

    Returns:
        Paths relative to `directory`.

    Raises:
        ImageError: ModuleMissing; there is none of that name and it is not built in.
    """
    needs = kernelmodules.dependencies(_text(directory / "modules.dep"))
    likes = kernelmodules.soft_dependencies(_text(directory / "modules.softdep"))
    known = {kernelmodules.module_name(path) for path in (*needs, *_text(directory / "modules.builtin").split())}
    for name in named:
        if not any(fnmatchcase(one, name.replace("-", "_")) for one in known):
            raise ImageError("ModuleMissing", module=name)
    data = resources.files("hostplane.image").joinpath("data/initramfs/modules.toml").read_text("utf-8")
    policy = msgspec.convert(tomllib.loads(data), kernelmodules.Policy)
    return sorted(kernelmodules.kept(needs, likes, policy, named))


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.is_file() else ""


def _order(version: str) -> list[tuple[int, int, str]]:
    """Numbers by value, words by letter: 6.1.0-9 before 6.1.0-10."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.findall(r"\d+|[A-Za-z]+", version)]
