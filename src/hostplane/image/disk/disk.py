"""Puts a disk together: a sparse file with every partition at its place, slot A written and slot B left empty.

Everything is made without a loop device, partition by partition, and copied by the kernel; holes stay holes, so that a
disk of any size takes the time of what is on it. The same inputs give the same bytes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from hostplane.agent import gpt
from hostplane.agent.bootstate import BootState, render
from hostplane.agent.envblock import BLOCK_SIZE
from hostplane.image.boot import grub
from hostplane.image.disk.filesystems import ext4, fat, xfs
from hostplane.image.disk.layout import Layout, Region, fs_uuid
from hostplane.image.recipe import Recipe, StateFs
from hostplane.image.stage import Work

__all__ = ["Parts", "assemble", "copy_data"]

_CHUNK = 64 << 20
_FIRST_STATE = BootState(seq=1, first="A", a_ok=True, a_left=0, b_ok=False, b_left=0)
"""Slot A is proven: there is nothing to go back to. Slot B is empty and never tried."""


class Parts(Struct, frozen=True, kw_only=True):
    """What earlier stages made of the disk."""

    root: Path
    """The image of ROOT-x."""
    boot: Path
    """The image of BOOT-x."""
    esp: Path | None
    """The tree of the ESP."""
    boot_img: Path | None
    """GRUB's first sector for a BIOS."""
    core_img: Path | None
    installed: Mapping[str, bytes] = {}
    """What slot A was written from, and what starts the disk: files of BOOTSTATE's directory `installed`."""


def assemble(target: Path, plan: Layout, parts: Parts, work: Work) -> None:
    """Write the disk `plan` of the recipe that is being worked on to `target`.

    Raises:
        ImageError: a file system cannot be made, or GRUB's parts do not fit.
    """
    code = b""
    with target.open("xb") as disk:
        disk.truncate(plan.size)
        for region in plan.regions:
            work.log(f"{region.label}: {region.size >> 20} MiB")
            if region.label == "BIOS-BOOT":
                if parts.boot_img is not None and parts.core_img is not None:
                    lba = region.offset // 512
                    code, core = grub.bios_boot(parts.boot_img.read_bytes(), parts.core_img.read_bytes(), lba)
                    os.pwrite(disk.fileno(), core, region.offset)
            elif region.label in ("BOOT-A", "ROOT-A"):
                copy_data(parts.boot if region.label == "BOOT-A" else parts.root, disk.fileno(), region.offset)
            elif region.label not in ("BOOT-B", "ROOT-B"):
                image = work.scratch / f"{region.label}.img"
                _partition(image, region, plan, parts, work)
                copy_data(image, disk.fileno(), region.offset)
                image.unlink()
        for write in gpt.fresh(plan.table(), code):
            os.pwrite(disk.fileno(), write.data, write.offset)


def _partition(image: Path, region: Region, plan: Layout, parts: Parts, work: Work) -> None:
    """The image of a partition that belongs to the disk and not to a slot."""
    recipe, profile, label, size = work.recipe, work.profile, region.label, region.size
    uuid, epoch, run = fs_uuid(recipe, label), work.epoch, work.run
    if label == "ESP":
        fat.make(parts.esp, image, size=size, label=label, uuid=uuid, epoch=epoch, run=run)
        return
    tree = work.scratch / f"{label}.tree"
    tree.mkdir()
    kind = {extra.label: extra.fs for extra in recipe.disk.partitions}.get(label, StateFs.EXT4)
    features = ext4.features(ext4.STATE_FEATURES, profile.ext4_features)
    if label == "BOOTSTATE":
        features = ext4.features(ext4.BOOT_FEATURES, profile.boot_ext4_features)
        _boot_state(tree, plan, recipe, parts.installed)
    elif label == "PERSIST":
        kind = recipe.disk.persist_fs
        for name in recipe.disk.persist_dirs:
            (tree / name.lstrip("/")).mkdir(parents=True, exist_ok=True)
    if kind is StateFs.XFS:
        xfs.make(tree, image, size=size, label=label, uuid=uuid, options=profile.xfs_options, epoch=epoch, run=run)
    else:
        ext4.make(tree, image, size=size, label=label, uuid=uuid, features=features, epoch=epoch, run=run)


def _boot_state(tree: Path, layout: Layout, recipe: Recipe, installed: Mapping[str, bytes]) -> None:
    """BOOTSTATE's files. Each block file takes a whole block of the file system, since none of them shares one."""
    (tree / "grub").mkdir()
    (tree / "grub/grub.cfg").write_text(grub.config(layout, recipe), "utf-8")
    arguments = b"# GRUB Environment Block\nseq=0\nA_args=\nB_args=\nend=0\n".ljust(BLOCK_SIZE, b"#")
    for name, block in {"env": render(_FIRST_STATE), "args": arguments}.items():
        for copy in ("1", "2"):
            (tree / (name + copy)).write_bytes(block)
    (tree / "installed").mkdir()
    for name, content in installed.items():
        (tree / "installed" / name).write_bytes(content)


def copy_data(source: Path, target: int, offset: int) -> None:
    """Copy what `source` holds to `offset` of the open file `target`; its holes are left out, not written.

    Raises:
        OSError: the disk is full, or cannot be read.
    """
    with source.open("rb") as image:
        size, at = os.fstat(image.fileno()).st_size, 0
        while at < size:
            try:
                at = os.lseek(image.fileno(), at, os.SEEK_DATA)
            except OSError as fault:
                if fault.errno == errno.ENXIO:  # nothing but a hole to the end
                    return
                raise
            end = os.lseek(image.fileno(), at, os.SEEK_HOLE)
            while at < end:
                at += _copied(image.fileno(), target, min(end - at, _CHUNK), at, offset + at)


def _copied(source: int, target: int, count: int, at: int, to: int) -> int:
    """Bytes moved by one call: in the kernel where both files lie on one file system."""
    try:
        if moved := os.copy_file_range(source, target, count, at, to):
            return moved
    except OSError as fault:
        if fault.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return os.pwrite(target, os.pread(source, min(count, 1 << 20), at), to)
