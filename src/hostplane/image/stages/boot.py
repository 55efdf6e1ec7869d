"""What a slot boots with, and what starts the disk: kernel, initramfs, GRUB for a BIOS, the tree of the ESP.

Nothing of it stays in the root: the results lie in `out`, and kernel arguments come in when the image is sealed, so
that changing one makes no initramfs again. A root without a kernel (`packages.kernel = false`) has no results.

    out/vmlinuz  out/initrd.img  out/boot.json     for BOOT-x
    out/boot.img  out/core.img                     a BIOS's
    out/esp/                                       UEFI's
"""

from __future__ import annotations

import hashlib
import shutil
from importlib import resources
from pathlib import Path

import msgspec

from hostplane.agent import firmware
from hostplane.distros.profile import Profile
from hostplane.errors import ImageError
from hostplane.image.boot import aligned, esp, grub, grubimage, initramfs, kernel
from hostplane.image.recipe import Arch, Firmware, Recipe, StageName
from hostplane.image.stage import Inputs, Work

__all__ = ["NAME", "inputs", "run"]

NAME = StageName.BOOT
_DATA = ("data/initramfs/modules.toml", "data/grub/stub.cfg")
_GROWTH = 1.15
"""What the next version's kernel and initramfs should find room for, as a share of this one's."""
_FILE_SYSTEM = 0.97
"""What ext4 leaves of BOOT-x."""


def inputs(recipe: Recipe, profile: Profile) -> Inputs:
    """What the loader and the initramfs are made by; the root they are made of comes with the stages before."""
    package = resources.files("hostplane.image")
    return {
        "arch": recipe.arch,
        "kernel": recipe.packages.kernel,
        "firmware": sorted(recipe.boot.firmware),
        "modules": sorted(recipe.boot.modules),
        "boot_mib": recipe.disk.boot_mib,
        "alignment": aligned.BLOCK,
        "initramfs": profile.initramfs,
        "efi": [profile.efi_vendor, msgspec.to_builtins(profile.loader)],
        "grub": [profile.grub_prefix, profile.grub_modules],
        "data": [hashlib.sha256(package.joinpath(name).read_bytes()).hexdigest() for name in _DATA],
    }


def run(work: Work) -> None:
    """Make them.

    Raises:
        ImageError: KernelMissing, ModuleMissing, InitramfsToolMissing, BootTooSmall, GrubMissing, ToolFailed…
    """
    try:
        found = kernel.find(work.root)
    except ImageError:
        if work.recipe.packages.kernel:
            raise
        work.log("the root has no kernel, and the recipe says so: nothing to boot")
        return
    work.progress(0.0, f"initramfs for {found.version}")
    shutil.copyfile(found.image, work.out / "vmlinuz")
    image = work.out / "initrd.img"
    initramfs.make(work, found, image)
    codec = "none"
    if not _fits(work, work.out):
        work.progress(0.7, "compressing the initramfs: BOOT has no room for it as it is")
        codec = initramfs.compress(work, found, image)
    if not _fits(work, work.out, growth=1.0):
        size = sum(file.stat().st_size for file in (image, work.out / "vmlinuz"))
        raise ImageError("BootTooSmall", size=-(-size >> 20), room=work.recipe.disk.boot_mib)
    work.log(f"kernel {found.version}, initramfs {image.stat().st_size >> 20} MiB, codec {codec}")
    work.progress(0.8, "GRUB")
    about = {"kernel": found.version, "initramfs": {"codec": codec, "size": image.stat().st_size}}
    if Firmware.BIOS in work.recipe.boot.firmware and work.recipe.arch is Arch.X86_64:
        about["grub"] = _bios(work)
    if Firmware.UEFI in work.recipe.boot.firmware:
        _uefi(work)
    (work.out / "boot.json").write_bytes(msgspec.json.encode(about))


def _fits(work: Work, out: Path, growth: float = _GROWTH) -> bool:
    size = sum((out / name).stat().st_size for name in ("vmlinuz", "initrd.img"))
    return size * growth < (work.recipe.disk.boot_mib << 20) * _FILE_SYSTEM


def _bios(work: Work) -> str:
    """GRUB's two parts for a BIOS; gives its version, which nobody can read from them any more."""
    files = grubimage.find(grub.BIOS_PLATFORM, work.root, work.profile)
    prefix = grub.prefix(grub.BIOS_PLATFORM, work.profile.efi_vendor)
    grubimage.make(files, grub.BIOS_PLATFORM, prefix, work.out / "core.img", work.run)
    shutil.copyfile(files.directory / "boot.img", work.out / "boot.img")
    return firmware.grub_version((files.directory / "normal.mod").read_bytes())


def _uefi(work: Work) -> None:
    said = esp.make(
        work.out / "esp",
        arch=work.recipe.arch,
        root=work.root,
        profile=work.profile,
        run=work.run,
        scratch=work.scratch,
    )
    work.log(f"ESP: {said}")
