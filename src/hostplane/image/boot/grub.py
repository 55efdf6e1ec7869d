"""What GRUB is given: the script that chooses a slot, a slot's own words, and the sectors a BIOS starts.

The script (data/grub/grub.cfg) follows agent/bootstate.py's `plan_boot`, which is its reference; it is written once
with the disk and no upgrade touches it. What belongs to an image (kernel arguments, verity) is in the slot.cfg of its
BOOT-x. No tool that wants a mounted disk is called: a BIOS's two sectors are patched here.
"""

from __future__ import annotations

import re
import struct
from importlib import resources

from hostplane.errors import ImageError
from hostplane.image.disk.layout import Layout
from hostplane.image.recipe import Arch, Recipe

__all__ = ["BIOS_PLATFORM", "EFI_PLATFORMS", "bios_boot", "config", "modules", "prefix", "slot_config"]

BIOS_PLATFORM = "i386-pc"
EFI_PLATFORMS = {Arch.X86_64: "x86_64-efi", Arch.AARCH64: "arm64-efi"}

_SECTOR = 512
_BOOT_CODE = 440  # what follows is the disk's signature and the MBR's table
_KERNEL_SECTOR, _DRIVE_CHECK = 0x5C, 0x66
_NOT_A_FLOPPY = b"\x90\x90"  # for firmware that hands over the wrong drive number
_BLOCK = struct.Struct("<QHH")
"""diskboot's list grows downwards from its end: first sector, sectors, segment they are read to."""
_SEGMENT = 0x820

_NEEDED = ("part_gpt", "ext2", "normal", "loadenv", "test", "echo", "linux", "boot", "configfile")
_WELCOME = (
    *("sleep", "password_pbkdf2", "minicmd", "ls", "cat", "help", "true", "reboot", "halt", "gzio", "part_msdos"),
    *("search", "search_fs_uuid", "search_label"),
)
_PLATFORM = {
    BIOS_PLATFORM: (("biosdisk",), ("serial", "terminal", "terminfo")),
    "x86_64-efi": (("fat",), ("all_video", "efi_gop", "efi_uga", "gfxterm", "efifwsetup", "chain")),
    "arm64-efi": (("fat",), ("all_video", "efi_gop", "gfxterm", "efifwsetup", "chain")),
}
_SERIAL = re.compile(r"ttyS(\d)(?:,(\d+)[a-z0-9]*)?")
_ARGUMENT = re.compile(r"[!#-&(-\[\]-~]+")  # printable, without blanks, quotes and backslashes


def modules(platform: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """GRUB's modules for `platform`: (those that it cannot do without, those taken where its version has them)."""
    needed, welcome = _PLATFORM[platform]
    return (*needed, *_NEEDED), (*_WELCOME, *welcome)


def prefix(platform: str, efi_vendor: str) -> str:
    """What `grub-mkimage -p` gets: BOOTSTATE of the disk it was started from, or the ESP's vendor directory."""
    return "(,gpt3)/grub" if platform == BIOS_PLATFORM else f"/EFI/{efi_vendor}"


def config(layout: Layout, recipe: Recipe) -> str:
    """The text of BOOTSTATE's /grub/grub.cfg."""
    words = {
        "TITLE": f"{recipe.name}",
        "BOOTSTATE": str(layout["BOOTSTATE"].number),
        "BOOT_A": str(layout["BOOT-A"].number),
        "BOOT_B": str(layout["BOOT-B"].number),
        "ROOT_A_GUID": layout["ROOT-A"].guid,
        "ROOT_B_GUID": layout["ROOT-B"].guid,
        "PERSIST_GUID": layout["PERSIST"].guid,
        "TIMEOUT": str(recipe.boot.timeout_seconds),
        "TERMINALS": _terminals(recipe),
        "PASSWORD": _password(recipe),
    }
    text = resources.files("hostplane.image").joinpath("data/grub/grub.cfg").read_text("utf-8")
    return re.sub(r"@([A-Z_]+)@", lambda found: words[found[1]], text)


def slot_config(recipe: Recipe, *, verity: str = "") -> str:
    """The text of BOOT-x's /slot.cfg: what an image tells whichever slot it lies in.

    Args:
        verity: the kernel arguments of a sealed root, `root=` included; empty without one.

    Raises:
        ImageError: KernelArgumentUnfit; GRUB would hand it to the kernel changed.
    """
    consoles = [f"console={name}" for name in recipe.boot.console]
    for argument in (*recipe.boot.arguments, *consoles, *verity.split()):
        if not _ARGUMENT.fullmatch(argument):
            raise ImageError("KernelArgumentUnfit", argument=argument)
    return "\n".join(
        (
            f"# {recipe.name} {recipe.version}",
            f"set hp_title='{recipe.name} {recipe.version}'",
            f"set hp_rootfs='{recipe.disk.fs}'",
            f"set hp_verity='{verity}'",
            f"set hp_args='{' '.join((*consoles, *recipe.boot.arguments))}'",
            "set hp_trial='hostplane.watchdog=600 nmi_watchdog=panic'",
            "set hp_complete=1",
            "",
        )
    )


def bios_boot(boot_img: bytes, core_img: bytes, core_lba: int) -> tuple[bytes, bytes]:
    """What starts GRUB on a BIOS when `core_img` lies at sector `core_lba` (of 512 bytes).

    Returns:
        The first 440 bytes of the disk, and the core as it is written at `core_lba`.

    Raises:
        ImageError: GrubImageUnfit when either is not what GRUB 2 makes.
    """
    if len(boot_img) != _SECTOR or boot_img[510:] != b"\x55\xaa" or boot_img[_DRIVE_CHECK] != 0xEB:
        raise ImageError("GrubImageUnfit", image="boot.img")
    list_end = _SECTOR - _BLOCK.size
    if len(core_img) <= 2 * _SECTOR or _BLOCK.unpack_from(core_img, list_end)[2] != _SEGMENT:
        raise ImageError("GrubImageUnfit", image="core.img")
    boot = bytearray(boot_img[:_BOOT_CODE])
    struct.pack_into("<Q", boot, _KERNEL_SECTOR, core_lba)
    boot[_DRIVE_CHECK : _DRIVE_CHECK + 2] = _NOT_A_FLOPPY
    core = bytearray(core_img.ljust(-(-len(core_img) // _SECTOR) * _SECTOR, b"\0"))
    _BLOCK.pack_into(core, list_end, core_lba + 1, len(core) // _SECTOR - 1, _SEGMENT)
    _BLOCK.pack_into(core, list_end - _BLOCK.size, 0, 0, 0)  # the list ends there
    return bytes(boot), bytes(core)


def _terminals(recipe: Recipe) -> str:
    """GRUB on a serial line for a BIOS. UEFI firmware has its own console, which goes where the firmware was told."""
    for name in recipe.boot.console:
        if found := _SERIAL.fullmatch(name):
            return "\n".join(
                (
                    'if [ "$grub_platform" = pc ]; then',
                    f"  if serial --unit={found[1]} --speed={found[2] or 9600}; then",
                    "    terminal_input console serial",
                    "    terminal_output console serial",
                    "  fi",
                    "fi",
                )
            )
    return ""


def _password(recipe: Recipe) -> str:
    """Without it anybody at the console edits the menu; with it booting needs none, and all else does."""
    if recipe.boot.grub_password_hash is None:
        return ""
    return "\n".join(
        ("set superusers=root", "export superusers", f"password_pbkdf2 root {recipe.boot.grub_password_hash}")
    )
