"""The tree of the ESP: what UEFI firmware starts, and the stub that leads every GRUB to the one script on BOOTSTATE.

Firmware starts EFI/BOOT (no variable of the machine is needed, none is written), where a signed shim starts the signed
GRUB beside it. A signed GRUB reads grub.cfg in its vendor's directory, a made one does the same, so the stub is put
there and into EFI/BOOT. The shim's fallback program, which writes boot entries, is therefore left out of EFI/BOOT.
"""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from hostplane.distros.profile import Profile
from hostplane.image.boot import grub, grubimage
from hostplane.image.recipe import Arch
from hostplane.image.root.rootpath import within
from hostplane.image.stage import Run

__all__ = ["make"]

_SUFFIX = {Arch.X86_64: "x64", Arch.AARCH64: "aa64"}


def make(target: Path, *, arch: Arch, root: Path, profile: Profile, run: Run, scratch: Path) -> str:
    """Fill the empty directory `target`; says in one line whose programs were taken.

    Raises:
        ImageError: GrubMissing, GrubModuleMissing, ToolFailed.
    """
    loader, vendor = profile.loader, profile.efi_vendor
    removable, own = target / "EFI" / "BOOT", target / "EFI" / vendor
    for directory in (removable, own):
        directory.mkdir(parents=True)
        (directory / "grub.cfg").write_text(_stub(), "utf-8")
    shim, signed = _inside(root, loader.shim), _inside(root, loader.grub)
    if shim is not None and signed is not None:
        shutil.copyfile(shim, removable / loader.removable)
        shutil.copyfile(shim, own / f"shim{_SUFFIX[arch]}.efi")
        shutil.copyfile(signed, removable / loader.grub_name)
        shutil.copyfile(signed, own / loader.grub_name)
        for name in (f"mm{_SUFFIX[arch]}.efi", f"MokManager{_SUFFIX[arch]}.efi"):
            for found in sorted(shim.parent.glob(f"{name}*")):
                shutil.copyfile(found, removable / name)
                shutil.copyfile(found, own / name)
        return f"signed shim {loader.shim}, signed GRUB {loader.grub}"
    platform = grub.EFI_PLATFORMS[arch]
    made = scratch / loader.grub_name
    files = grubimage.find(platform, root, profile)
    grubimage.make(files, platform, grub.prefix(platform, vendor), made, run)
    shutil.copyfile(made, removable / loader.removable)
    shutil.copyfile(made, own / loader.grub_name)
    return f"unsigned GRUB, made by {'the root' if files.root else 'this machine'}'s {files.tool}"


def _stub() -> str:
    return resources.files("hostplane.image").joinpath("data/grub/stub.cfg").read_text("utf-8")


def _inside(root: Path, path: str | None) -> Path | None:
    """The file of the root, if it has it."""
    found = within(root, path) if path else None
    return found if found is not None and found.is_file() else None
