"""Runs the last two stages, seal and pack, over a tree, with a boot stage's results that GRUB and the disk accept."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hostplane import distros
from hostplane.image.building.process import Runner
from hostplane.image.recipe import Backend, Disk, ImageFile, Output, Packages, Recipe, RootFs, StageName, StateFs
from hostplane.image.stage import Work
from hostplane.image.stages import pack, seal
from tests.image.richtree import EPOCH

__all__ = ["Sealing", "booted", "digest", "recipe"]

_GRUB = Path("/usr/lib/grub/i386-pc")


def recipe(fs: str = "ext4", *, outputs: tuple[Output, ...] = tuple(Output), size_gib: int = 4, **more: Any) -> Recipe:
    """A recipe for a small disk without packages; `more` goes into its [disk]."""
    disk = Disk(size_gib=size_gib, fs=RootFs(fs), **{"root_mib": 512, "boot_mib": 64, **more})
    return Recipe(
        name="rich",
        version="1.0",
        distro="debian",
        release="12",
        packages=Packages(backend=Backend.TREE, defaults=False),
        disk=disk,
        image=ImageFile(outputs=outputs, codec="deflate"),
    )


def booted(out: Path) -> Path:
    """What a boot stage leaves behind, with a kernel that is none."""
    (out / "esp/EFI/BOOT").mkdir(parents=True)
    (out / "esp/EFI/BOOT/BOOTX64.EFI").write_bytes(b"MZ" * 100_000)
    (out / "vmlinuz").write_bytes(hashlib.shake_256(b"kernel").digest(6 << 20))
    (out / "boot.json").write_text('{"kernel": "6.1.0-test"}')
    (out / "initrd.img").write_bytes(b"initramfs\n" * 500_000)
    modules = ("biosdisk", "part_gpt", "ext2", "normal", "loadenv", "test")
    core = ["grub-mkimage", "-O", "i386-pc", "-o", str(out / "core.img"), "-p", "(,gpt3)/grub", *modules]
    subprocess.run(core, check=True, timeout=60)
    shutil.copy(_GRUB / "boot.img", out / "boot.img")
    return out


class Sealing:
    """One run of both stages in the directory `here`."""

    def __init__(self, here: Path, root: Path, made: Recipe, boot: Path) -> None:
        self.here, self.root, self.recipe = here, root, made
        here.mkdir()
        self.earlier = {StageName.BOOT: boot}
        self.lines: list[str] = []

    def work(self, stage: StageName) -> Work:
        """The work a worker would hand to `stage`."""
        directory = self.here / stage.value
        for name in ("out", "scratch"):
            (directory / name).mkdir(parents=True)
        log = self.here / f"{stage.value}.log"
        return Work(
            recipe=self.recipe,
            profile=distros.load("debian", "12", "x86_64"),
            root=self.root,
            out=directory / "out",
            scratch=directory / "scratch",
            cache=self.here / "cache",
            epoch=EPOCH,
            rootless=False,
            earlier=dict(self.earlier),
            run=Runner(self.root, log.open("ab", buffering=0), log),
            log=self.lines.append,
            progress=lambda done, what: None,
        )

    def seal(self) -> Path:
        """Run seal; its results."""
        work = self.work(StageName.SEAL)
        seal.run(work)
        self.earlier[StageName.SEAL] = work.out
        return work.out

    def pack(self) -> Path:
        """Run pack; its results."""
        work = self.work(StageName.PACK)
        pack.run(work)
        assert not list(work.scratch.glob("*.img"))
        return work.out

    def run(self) -> tuple[Path, Path, dict[str, Any]]:
        """Run both: their results, and the report."""
        sealed, packed = self.seal(), self.pack()
        report: dict[str, Any] = json.loads((packed / "report.json").read_bytes())
        return sealed, packed, report


def digest(path: Path) -> str:
    """SHA-256 of a file, or of all files below a directory and their names."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    rows = [f"{each.relative_to(path)} {digest(each)}\n" for each in sorted(path.rglob("*")) if each.is_file()]
    return hashlib.sha256("".join(rows).encode()).hexdigest()


PERSISTENT = {"ext4": StateFs.EXT4, "xfs": StateFs.XFS, "erofs": StateFs.EXT4}
"""What PERSIST has beside a root of each kind, so that both are tried."""
