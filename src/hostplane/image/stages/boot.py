"""What a slot boots: kernel, initramfs, and the loader's programs for both firmwares. The root keeps none of it.

The initramfs is made once, here, for any machine and not for the building one, and is left uncompressed where BOOT-x
has the room: then an upgrade moves the few blocks that differ (host-mechanics: 10 MB of patch against 35). It is the
dearest of the late steps, so this stage depends on nothing that an initramfs cannot hold (`image/changes.py`).

`out` gets vmlinuz, initrd.img, esp/ for UEFI, boot.img and core.img for a BIOS, and boot.json saying what was taken. A
root without a kernel leaves `out` empty; it can still become a tar.
"""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from msgspec import json

from hostplane.distros.profile import Profile
from hostplane.errors import ImageError
from hostplane.image import esp, grub, grubimage
from hostplane.image.recipe import Firmware, Recipe, StageName
from hostplane.image.stage import Inputs, Work

__all__ = ["NAME", "inputs", "kernels", "run"]

NAME = StageName.BOOT
_MODULES = ("lib/modules", "usr/lib/modules")
_KERNEL = re.compile(r"^(?:vmlinuz|vmlinux|Image)-(.+)$")
_MADE = "tmp/hostplane-initrd.img"
_ROOM = 0.85
"""The share of BOOT-x that kernel and initramfs may fill; the rest is for the next version's growth."""


def inputs(recipe: Recipe, profile: Profile) -> Inputs:
    """The loader's names, and what the recipe wants in the initramfs."""
    return {
        "arch": recipe.arch,
        "firmware": list(recipe.boot.firmware),
        "modules": list(recipe.boot.modules),
        "verity": recipe.disk.verity,
        "boot_mib": recipe.disk.boot_mib,
        "initramfs": profile.initramfs,
        "loader": [profile.efi_vendor, profile.grub_prefix, profile.grub_modules, profile.loader],
    }


def run(work: Work) -> None:
    """Write `out`.

    Raises:
        ImageError: KernelWithoutModules, InitramfsToolMissing, BootTooSmall, GrubMissing, GrubModuleMissing,
            ToolFailed.
    """
    found = kernels(work.root)
    if not found:
        work.log("no kernel in the root: nothing to boot, so no disk and no bundle can be made of it")
        return
    version, kernel = found[-1]
    if len(found) > 1:
        work.log(f"several kernels ({', '.join(name for name, _ in found)}): {version}, the newest, is taken")
    shutil.copyfile(kernel, work.out / "vmlinuz")
    work.progress(0.05, f"initramfs for {version}")
    made = _initramfs(work, version)
    work.progress(0.8, "loader")
    packed = _fit(work, made)
    said = {
        "kernel": version,
        "initramfs": {"by": work.profile.initramfs, "compressed": packed},
        "loader": _loader(work),
    }
    (work.out / "boot.json").write_bytes(json.format(json.encode(said), indent=1) + b"\n")


def kernels(root: Path) -> list[tuple[str, Path]]:
    """(version, file) of each kernel of `root` that has its modules there, oldest first.

    Raises:
        ImageError: KernelWithoutModules when there are kernels, and none has modules.
    """
    held: dict[str, Path] = {}
    bare = []
    for version, path in _kernel_files(root):
        if any((root / place / version).is_dir() for place in _MODULES):
            held.setdefault(version, path)
        else:
            bare.append(version)
    if bare and not held:
        raise ImageError("KernelWithoutModules", kernel=bare[0])
    return sorted(held.items(), key=lambda pair: _by_version(pair[0]))


def _kernel_files(root: Path) -> Iterator[tuple[str, Path]]:
    boot = root / "boot"
    for path in sorted(boot.iterdir()) if boot.is_dir() else ():
        named = _KERNEL.match(path.name)
        if named and path.is_file() and not path.is_symlink() and "rescue" not in path.name:
            yield named[1], path
    for place in _MODULES:
        for path in sorted((root / place).glob("*/vmlinuz")):
            if path.is_file() and not path.is_symlink():
                yield path.parent.name, path


def _by_version(version: str) -> list[tuple[int, int, str]]:
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|[a-z]+", version)]


def _initramfs(work: Work, version: str) -> Path:
    """An uncompressed initramfs for `version`, made in the root."""
    made = work.root / _MADE
    match work.profile.initramfs:
        case "initramfs-tools":
            command = _with_initramfs_tools(work, version)
        case generator:
            command = _with_dracut(work, version, generator)
    program = command[0]
    if not any((work.root / place / program).exists() for place in ("usr/sbin", "usr/bin", "sbin", "bin")):
        raise ImageError("InitramfsToolMissing", tool=program)
    work.run(command, chroot=True)
    return made


def _with_initramfs_tools(work: Work, version: str) -> list[str]:
    wanted = work.root / "etc/initramfs-tools/modules"
    if work.recipe.boot.modules and wanted.parent.is_dir():
        with wanted.open("a", encoding="utf-8") as file:
            file.write("".join(f"{name}\n" for name in work.recipe.boot.modules))
    return ["mkinitramfs", "-c", "cat", "-o", f"/{_MADE}", version]


def _with_dracut(work: Work, version: str, generator: str) -> list[str]:
    command = [generator, "--force", "--no-hostonly", "--no-compress", "--kver", version]
    if b"--reproducible" in work.run([generator, "--help"], chroot=True):  # not in CentOS 7's
        command.append("--reproducible")
    if work.recipe.boot.modules:
        command += ["--add-drivers", " ".join(work.recipe.boot.modules)]
    return [*command, f"/{_MADE}"]


def _fit(work: Work, made: Path) -> bool:
    """Put the initramfs into `out`, compressed when BOOT-x is too small for it as it is; says whether it was.

    Raises:
        ImageError: BootTooSmall.
    """
    target, kernel = work.out / "initrd.img", (work.out / "vmlinuz").stat().st_size
    room = int((work.recipe.disk.boot_mib << 20) * _ROOM)
    size = made.stat().st_size
    if kernel + size <= room:
        shutil.copyfile(made, target)
        return False
    with made.open("rb") as raw, target.open("wb") as out, gzip.GzipFile("", "wb", 9, out, mtime=0) as packer:
        shutil.copyfileobj(raw, packer, 1 << 20)
    packed = target.stat().st_size
    work.log(f"the initramfs of {size >> 20} MiB is compressed to {packed >> 20}: BOOT may hold {room >> 20}")
    if kernel + packed > room:
        need = (int((kernel + packed) / _ROOM) >> 20) + 1
        raise ImageError("BootTooSmall", boot=work.recipe.disk.boot_mib, need=need)
    return True


def _loader(work: Work) -> dict[str, str]:
    """GRUB for each firmware that is asked for; whose programs were taken."""
    recipe, profile, taken = work.recipe, work.profile, {}
    if Firmware.UEFI in recipe.boot.firmware:
        (work.out / "esp").mkdir()
        taken["uefi"] = esp.make(
            work.out / "esp", arch=recipe.arch, root=work.root, profile=profile, run=work.run, scratch=work.scratch
        )
    if Firmware.BIOS in recipe.boot.firmware:
        platform = grub.BIOS_PLATFORM
        files = grubimage.find(platform, work.root, profile)
        shutil.copyfile(files.directory / "boot.img", work.out / "boot.img")
        grubimage.make(files, platform, grub.prefix(platform, profile.efi_vendor), work.out / "core.img", work.run)
        taken["bios"] = f"GRUB made by {'the root' if files.root else 'this machine'}'s {files.tool}"
    for firmware, whose in taken.items():
        work.log(f"{firmware}: {whose}")
    return taken
