"""GRUB's own images: the core that a BIOS starts, and an EFI program where the root has no signed one.

They are made of the root's GRUB, by the root's own tool where it has one, so that program and modules belong together;
a root that carries the modules without the tool, or no GRUB at all, gets the building machine's.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from hostplane.distros.profile import Profile
from hostplane.errors import ImageError
from hostplane.image.boot.grub import BIOS_PLATFORM, modules
from hostplane.image.root.rootpath import within
from hostplane.image.stage import Run

__all__ = ["GrubFiles", "find", "make"]

_MACHINE = ("/usr/lib/grub", "/usr/lib/grub2", "/usr/share/grub2")
_TOOLS = ("grub-mkimage", "grub2-mkimage")
_TOOL_DIRECTORIES = ("/usr/bin", "/usr/sbin")


class GrubFiles(NamedTuple):
    """One platform's GRUB."""

    directory: Path
    """Where its modules lie, as this process sees them."""
    tool: str
    root: Path | None
    """The root that the tool runs in; None: on the building machine."""


def find(platform: str, root: Path, profile: Profile) -> GrubFiles:
    """The GRUB that images for `platform` are made of.

    Raises:
        ImageError: GrubMissing when neither the root nor the building machine has one.
    """
    inside = within(root, f"{profile.grub_modules}/{platform}")
    names = dict.fromkeys((f"{profile.grub_prefix}-mkimage", *_TOOLS))
    has_modules = (inside / "modinfo.sh").exists()
    if has_modules:
        for name in names:
            if any(within(root, f"{directory}/{name}").exists() for directory in _TOOL_DIRECTORIES):
                return GrubFiles(inside, name, root)
    for name in _TOOLS:
        if shutil.which(name):
            for directory in (inside, *(Path(place) / platform for place in _MACHINE)):
                if (directory / "modinfo.sh").exists():
                    return GrubFiles(directory, name, None)
    package = {BIOS_PLATFORM: "grub-pc-bin", "x86_64-efi": "grub-efi-amd64-bin"}.get(platform, "grub-efi-arm64-bin")
    raise ImageError("GrubMissing", platform=platform, package=package)


def make(files: GrubFiles, platform: str, prefix: str, target: Path, run: Run) -> None:
    """Write an image of `files` that starts by reading `prefix`/grub.cfg.

    Raises:
        ImageError: GrubModuleMissing, ToolMissing, ToolFailed.
    """
    needed, welcome = modules(platform)
    for name in needed:
        if not (files.directory / f"{name}.mod").exists():
            raise ImageError("GrubModuleMissing", module=name, platform=platform)
    taken = [*needed, *(name for name in welcome if (files.directory / f"{name}.mod").exists())]
    command = [files.tool, "-O", platform, "-p", prefix]
    if files.root is None:
        run([*command, "-d", str(files.directory), "-o", str(target), *taken])
        return
    made = files.root / f".hostplane-{os.getpid()}.img"
    inside = "/" + str(files.directory.relative_to(files.root))
    try:
        run([*command, "-d", inside, "-o", f"/{made.name}", *taken], chroot=True)
        shutil.move(made, target)
    finally:
        made.unlink(missing_ok=True)
