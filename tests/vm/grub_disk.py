"""A disk that holds the loader and nothing else: a slot's kernel has 1.5 KiB, says its command line and resets.

The loader is the product's own (`grub.config`, `grub.bios_boot`, `esp.make`), made of the GRUB of this machine. The
files of the boot state are read and written in place, by the block numbers their file system gave them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hostplane import distros
from hostplane.agent import gpt
from hostplane.agent.bootstate import BootState, render
from hostplane.image.boot import esp, grub, grubimage
from hostplane.image.disk import layout
from hostplane.image.disk.filesystems.ext4 import BOOT_FEATURES
from hostplane.image.recipe import Arch, Boot, Disk, Recipe

__all__ = ["SAYS", "GrubDisk", "args_block", "run"]

SAYS = r"^K:(.*hostplane\.slot=([AB]).*)\n"
"""What the kernel says."""

# A bzImage: one setup sector with its header at 0x1f1, then 32-bit code that writes "K:" and the command line to the
# first serial port and resets the machine (port 0xcf9).
_HEADER = (
    "010000010000000000ffff000055aaeb66486472530c020000000000000000000100800000100000000000000000000000000000000000000000"
    "00ffffff7f0000100001140000ff07000000000000000000000000000000000000000000000000000000000000000010000000000000000100"
    "000000000000000000"
)
_CODE = (
    "fc8bb628020000b04be82d000000b03ae826000000ac84c07407e81c000000ebf4b00ae81300000066bafd03eca84074fb66baf90cb006ee"
    "f4ebfd88c466bafd03eca82074fb88e066baf803eec3"
)
KERNEL = bytes(0x1F1) + bytes.fromhex(_HEADER).ljust(0x400 - 0x1F1, b"\0") + bytes.fromhex(_CODE).ljust(0x200, b"\0")
_BLOCK = 4096


def run(
    argv: Sequence[str],
    *,
    chroot: bool = False,
    network: bool = False,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout: float = 60.0,
    cwd: Path | None = None,
) -> bytes:
    """A `stage.Run` that runs on this machine alone."""
    assert not chroot
    done = subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout, cwd=cwd, env=env, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def args_block(seq: int, a: str, b: str, end: int | None = None) -> bytes:
    """One copy of the slots' extra kernel arguments."""
    text = f"# GRUB Environment Block\nseq={seq}\nA_args={a}\nB_args={b}\nend={seq if end is None else end}\n"
    return text.encode().ljust(1024, b"#")


class GrubDisk:
    """`path` is the disk."""

    def __init__(
        self,
        directory: Path,
        state: BootState,
        *,
        boot: Boot | None = None,
        name: str = "grub-test",
        more: Mapping[str, bytes] | None = None,
        append: str = "",
        missing: Iterable[str] = (),
        replaced: Mapping[str, bytes] | None = None,
        bootstate_mib: int = 8,
    ) -> None:
        """Make it.

        Args:
            more: further blocks of BOOTSTATE, by path.
            append: what follows the script in grub.cfg.
            missing: files of the slots that are left out: A/vmlinuz.
            replaced: files of the slots that hold something else.
        """
        boot = boot or Boot(timeout_seconds=0, console=("ttyS0,115200",), arguments=("quiet", "x.y=z"))
        disk = Disk(size_gib=1, root_mib=1, boot_mib=4, esp_mib=16, bootstate_mib=bootstate_mib)
        recipe = Recipe(name=name, version="1.0", distro="debian", release="12", boot=boot, disk=disk)
        self.layout = layout.plan(recipe)
        self.path = directory / f"{name}.raw"
        work = directory / f"{name}.work"
        work.mkdir()
        profile = distros.load("debian", "12", Arch.X86_64)
        nothing = work / "no-root"
        nothing.mkdir()

        blocks = {"env1": render(state), "env2": render(state), **(more or {})}
        files = dict.fromkeys(blocks, b"#" * 1024)  # not their content: a block of zeros would become a hole
        files["grub/grub.cfg"] = (grub.config(self.layout, recipe) + append).encode()
        states = self._ext4(work, "BOOTSTATE", files)
        slots = {}
        for slot in "AB":
            content = {"vmlinuz": KERNEL, "initrd.img": b"initrd" * 100, "slot.cfg": grub.slot_config(recipe).encode()}
            wanted = {n: (replaced or {}).get(f"{slot}/{n}", raw) for n, raw in content.items()}
            wanted = {n: raw for n, raw in wanted.items() if f"{slot}/{n}" not in set(missing)}
            slots[slot] = self._ext4(work, f"BOOT-{slot}", wanted)

        core = work / "core.img"
        found = grubimage.find(grub.BIOS_PLATFORM, nothing, profile)
        grubimage.make(found, grub.BIOS_PLATFORM, grub.prefix(grub.BIOS_PLATFORM, ""), core, run)
        lba = self.layout["BIOS-BOOT"].offset // 512
        code, raw = grub.bios_boot((found.directory / "boot.img").read_bytes(), core.read_bytes(), lba)

        tree = work / "esp"
        esp.make(tree, arch=Arch.X86_64, root=nothing, profile=profile, run=run, scratch=work)
        fat = work / "esp.img"
        with fat.open("wb") as image:
            image.truncate(self.layout["ESP"].size)
        run(["mkfs.vfat", "-n", "ESP", str(fat)])
        run(["mcopy", "-s", "-i", str(fat), str(tree / "EFI"), "::"])

        with self.path.open("w+b") as image:
            image.truncate(self.layout.size)
            gpt.write_disk(image.fileno(), self.layout.table(), code)
            self._put(image.fileno(), "BIOS-BOOT", raw)
            for label, source in (("ESP", fat), ("BOOTSTATE", states), ("BOOT-A", slots["A"]), ("BOOT-B", slots["B"])):
                self._put(image.fileno(), label, source.read_bytes())
        self._blocks = self._find(states, list(blocks))
        for file, block in blocks.items():
            self.write(file, block)
        shutil.rmtree(work)

    def read(self, file: str) -> bytes:
        """A file of BOOTSTATE, 1024 bytes."""
        with self.path.open("rb") as image:
            image.seek(self._blocks[file])
            return image.read(1024)

    def write(self, file: str, block: bytes) -> None:
        """Write a file of BOOTSTATE in place."""
        with self.path.open("r+b") as image:
            image.seek(self._blocks[file])
            image.write(block)

    def write_state(self, env1: bytes, env2: bytes) -> None:
        """Both copies of the boot state."""
        self.write("env1", env1)
        self.write("env2", env2)

    def _put(self, descriptor: int, label: str, raw: bytes) -> None:
        os.pwrite(descriptor, raw, self.layout[label].offset)

    def _ext4(self, work: Path, label: str, files: Mapping[str, bytes]) -> Path:
        tree, image = work / label, work / f"{label}.img"
        for path, raw in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(raw)
        with image.open("wb") as made:
            made.truncate(self.layout[label].size)
        features = ",".join(("none", *BOOT_FEATURES))
        inodes = str(max(64, 3 * len(files)))
        command = ["mke2fs", "-q", "-F", "-t", "ext4", "-O", features, "-b", str(_BLOCK), "-N", inodes]
        run([*command, "-L", label, "-d", str(tree), str(image)])
        return image

    def _find(self, image: Path, files: Sequence[str]) -> dict[str, int]:
        commands = "".join(f"blocks /{file}\n" for file in files).encode()
        said = run(["debugfs", "-f", "/dev/stdin", str(image)], stdin=commands).decode()
        found = re.findall(r"^debugfs: blocks /(\S+)\n(\d+) ?$", said, re.MULTILINE)
        base = self.layout["BOOTSTATE"].offset
        blocks = {file: base + int(block) * _BLOCK for file, block in found}
        assert set(blocks) == set(files), "every file has one block"
        return blocks
