"""ext4 without a mount and without a loop device: mke2fs fills it, and the times that it takes from elsewhere are set.

mke2fs copies a file's times from the building machine, among them those that nothing can set there (change and access).
They are written again in the finished image: an inode's checksum is a CRC, hence linear, so that the changed bytes
alone say how it changes, and no inode is read whole. All else follows from the arguments: no default of the building
machine's mke2fs.conf is used, and entries come in the order of their names.

Refused: features that the installed mke2fs does not know, and a tree that does not fit where a size is given.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

from hostplane.errors import ImageError
from hostplane.image.disk.filesystems.checksum import change_weights
from hostplane.image.disk.filesystems.contents import Weight, weigh
from hostplane.image.stage import Run

__all__ = ["BOOT_FEATURES", "ROOT_FEATURES", "STATE_FEATURES", "features", "make"]

_COMMON = ("sparse_super", "large_file", "filetype", "ext_attr", "extent", "extra_isize")
BOOT_FEATURES = _COMMON
"""What every GRUB since 2.02 reads. No journal: the loader writes the boot state's blocks in place beneath it."""
ROOT_FEATURES = (*_COMMON, "dir_index", "huge_file", "flex_bg", "metadata_csum", "64bit", "dir_nlink")
"""Mounted read-only, hence without a journal."""
STATE_FEATURES = (*ROOT_FEATURES, "has_journal", "resize_inode")
"""Grown while it is mounted."""

_MIB = 1 << 20
_INODE = 256
_FULL = ("could not allocate", "not enough space", "too small")
"""What mke2fs says of the image; of the building machine's own disk it says that no space is left."""
_TRIES = 6


def features(base: Iterable[str], changes: Iterable[str]) -> tuple[str, ...]:
    """`base` with `changes` (as mke2fs -O has them: "x" adds, "^x" takes away)."""
    chosen = dict.fromkeys(base)
    for change in changes:
        if change.startswith("^"):
            chosen.pop(change[1:], None)
        else:
            chosen[change] = None
    return tuple(chosen)


def make(
    tree: Path | None,
    target: Path,
    *,
    size: int | None,
    label: str,
    uuid: str,
    features: tuple[str, ...],
    epoch: int,
    run: Run,
    block_size: int = 4096,
) -> int:
    """Make `target` an ext4 image of `size` bytes (None: fitted to the tree, a multiple of 1 MiB); give its size.

    Modes, owners, device nodes, several names of one file, extended attributes, capabilities, access lists and labels
    are carried over; of times, that of the last change (at most `epoch`, whole seconds), all others become `epoch`.

    Raises:
        ImageError: Ext4FeatureUnknown, ContentTooLarge, ToolMissing, ToolFailed.
    """
    weight = weigh(tree, block_size) if tree and size is None else None
    wanted = size or _fitted(weight, features, block_size)
    for attempt in range(_TRIES):
        target.unlink(missing_ok=True)
        with target.open("wb") as image:
            image.truncate(wanted)
        try:
            _mke2fs(tree, target, weight, wanted, label, uuid, features, epoch, run, block_size)
        except ImageError as error:
            tail = error.reason.params.get("tail")
            said = "\n".join(tail).lower() if isinstance(tail, list) else ""
            if "invalid filesystem option" in said:
                raise ImageError("Ext4FeatureUnknown", features=", ".join(features)) from error
            if not any(word in said for word in _FULL):
                raise
            if size is not None or attempt == _TRIES - 1:
                raise ImageError("ContentTooLarge", label=label, room=wanted // _MIB) from error
            wanted += max(_MIB, wanted // 50 // _MIB * _MIB)
        else:
            break
    with target.open("r+b") as image:
        _set_times(image.fileno(), epoch, os.lstat(tree) if tree else None)
    return wanted


def _fitted(weight: Weight | None, features: tuple[str, ...], block_size: int) -> int:
    """Bytes for the content and what ext4 itself takes, a multiple of 1 MiB."""
    if weight is None:
        return 8 * _MIB
    content = weight.data_blocks + weight.large_files * 2 + (weight.inodes + 64) * _INODE // block_size
    groups = content // (8 * block_size) + 1
    blocks = content + groups * 6 + groups * groups * 64 // block_size + content // 400 + 64
    if "has_journal" in features:
        blocks += 64 * _MIB // block_size
    return -(-blocks * block_size // _MIB) * _MIB


def _mke2fs(
    tree: Path | None,
    target: Path,
    weight: Weight | None,
    size: int,
    label: str,
    uuid: str,
    features: tuple[str, ...],
    epoch: int,
    run: Run,
    block_size: int,
) -> None:
    words = ["mke2fs", "-q", "-F", "-o", "Linux", "-T", "default", "-O", ",".join(("none", *features))]
    words += ["-b", str(block_size), "-I", str(_INODE), "-m", "1" if weight is None else "0", "-U", uuid, "-L", label]
    owner = os.lstat(tree) if tree else None
    root = f"{owner.st_uid}:{owner.st_gid}" if owner else "0:0"
    words += ["-E", f"hash_seed={uuid},root_owner={root},lazy_itable_init={int(weight is None)},nodiscard"]
    if weight is not None:
        groups = size // (8 * block_size * block_size) + 1
        words += ["-N", str(weight.inodes + 16 + 8 * groups)]  # each group's share is rounded down to eight
    if tree is not None:
        words += ["-d", str(tree)]
    words += [str(target), f"{size // 1024}k"]
    times = {"E2FSPROGS_FAKE_TIME": str(epoch), "SOURCE_DATE_EPOCH": str(epoch)}
    run(words, env={"MKE2FS_CONFIG": "/dev/null", "TZ": "UTC", **times})


_ROOT = 2
_HEAD, _TAIL = slice(0, 20), slice(0x84, 0x98)
"""Where an inode has its mode and its times, and where their fractions and the creation."""
_CHECKSUM_LOW, _CHECKSUM_HIGH = 0x7C, 0x82


def _set_times(image: int, epoch: int, top: os.stat_result | None) -> None:
    """Set the times of every inode of an open image, and the top directory's mode, which mke2fs passes over."""
    raw = os.pread(image, 1024, 1024)
    block_size = 1024 << struct.unpack_from("<I", raw, 24)[0]
    first_block, per_group, inodes_per_group = (struct.unpack_from("<I", raw, at)[0] for at in (20, 32, 40))
    blocks, incompat, ro_compat = (struct.unpack_from("<I", raw, at)[0] for at in (4, 96, 100))
    descriptor_size = struct.unpack_from("<H", raw, 254)[0] if incompat & 0x80 else 32
    has_checksums = bool(ro_compat & 0x400)
    groups = -(-(blocks - first_block) // per_group)
    table = os.pread(image, groups * descriptor_size, (first_block + 1) * block_size)
    weights = change_weights(_INODE) if has_checksums else []
    for group in range(groups):
        at = group * descriptor_size
        low, flags, unused = (struct.unpack_from(f, table, at + o)[0] for f, o in (("<I", 8), ("<H", 18), ("<H", 28)))
        high = struct.unpack_from("<I", table, at + 40)[0] if descriptor_size >= 64 else 0
        if has_checksums and flags & 1:  # no inode of the group is in use
            continue
        used = inodes_per_group - (unused if has_checksums else 0)
        place = (low | high << 32) * block_size
        inodes = bytearray(os.pread(image, used * _INODE, place))
        for number, start in enumerate(range(0, len(inodes), _INODE), start=group * inodes_per_group + 1):
            if inodes[start] or inodes[start + 1]:  # without a mode it is not in use
                _retime(inodes, start, epoch, weights, top if number == _ROOT else None)
        os.pwrite(image, inodes, place)


def _retime(inodes: bytearray, start: int, epoch: int, weights: list[list[int]], top: os.stat_result | None) -> None:
    """Set the times of the inode at `start`; all of it like `top` where that is given."""
    old = bytes(inodes[start : start + _INODE])
    mode, modified = struct.unpack_from("<H", old)[0], struct.unpack_from("<I", old, 16)[0]
    if top is not None:
        mode, modified = top.st_mode & 0xFFFF, max(0, int(top.st_mtime))
    epoch &= 0xFFFFFFFF
    head = struct.pack("<H6s3I", mode, old[2:8], epoch, epoch, min(modified, epoch))
    tail = struct.pack("<5I", 0, 0, 0, epoch, 0)
    inodes[start : start + 20] = head
    inodes[start + 0x84 : start + 0x98] = tail
    if weights:
        delta = 0
        for part, new in ((_HEAD, head), (_TAIL, tail)):
            for at, (before, after) in enumerate(zip(old[part], new, strict=True), start=part.start):
                if before != after:
                    delta ^= weights[at][before ^ after]
        for at, change in ((_CHECKSUM_LOW, delta & 0xFFFF), (_CHECKSUM_HIGH, delta >> 16)):
            struct.pack_into("<H", inodes, start + at, struct.unpack_from("<H", old, at)[0] ^ change)
