"""Puts the files of an uncompressed initramfs on block boundaries, so that their blocks are the root's own.

Most of an initramfs is kernel modules and programs that the root has too. In a cpio archive they begin anywhere; a
host that upgrades could reuse none of their blocks. Here each file of a block or more begins at a multiple of 4096 of
the initramfs: the name before it is padded with zeros, which every reader of the format takes as the name's end (the
kernel's own archiver has an option for the same). Where the kernel would not take so long a name, the file stays where
it falls. A file that is no plain archive is left as it is. The outcome depends on the archive alone.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO

__all__ = ["BLOCK", "align"]

BLOCK = 4096
_MAGIC, _HEADER = (b"070701", b"070702"), 110
_LONGEST_NAME = 4096
_END = b"TRAILER!!!"
_ARCHIVE = 512
_CHUNK = 1 << 20


def align(image: Path) -> None:
    """Rewrite the archives in `image`; what follows the last one, or is none, stays as it is."""
    fresh = image.with_name(f"{image.name}.aligned")
    with image.open("rb") as source, fresh.open("wb") as target:
        while _entry(source, target):
            pass
        shutil.copyfileobj(source, target, _CHUNK)
    fresh.replace(image)


def _entry(source: BinaryIO, target: BinaryIO) -> bool:
    """Copy one entry; False at the first thing that is none, which `source` stands before then."""
    start = source.tell()
    head = source.read(_HEADER)
    if head[:6] not in _MAGIC or len(head) < _HEADER:
        source.seek(start)
        return _gap(source, target)
    size, name_size = int(head[54:62], 16), int(head[94:102], 16)
    name = source.read(name_size).rstrip(b"\0")
    source.seek(-(start + _HEADER + name_size) % 4, os.SEEK_CUR)
    _pad(target, 4)
    wanted = len(name) + 1
    if size >= BLOCK:
        room = -(target.tell() + _HEADER) % BLOCK
        room += BLOCK if room < wanted else 0
        wanted = room if room <= _LONGEST_NAME else wanted
    target.write(head[:94] + b"%08X" % wanted + head[102:])
    target.write(name.ljust(wanted, b"\0"))
    _pad(target, 4)
    left = size
    while left:
        chunk = source.read(min(left, _CHUNK))
        if not chunk:
            return False
        target.write(chunk)
        left -= len(chunk)
    source.seek(-source.tell() % 4, os.SEEK_CUR)
    if name == _END:
        _pad(target, 4)
    return True


def _gap(source: BinaryIO, target: BinaryIO) -> bool:
    """Zeros between two archives become as few as there must be; False when no archive follows."""
    start, end = source.tell(), source.seek(0, os.SEEK_END)
    source.seek(start)
    while chunk := source.read(_CHUNK):
        zeros = len(chunk) - len(chunk.lstrip(b"\0"))
        start += zeros
        if zeros < len(chunk):
            break
    source.seek(start)
    _pad(target, _ARCHIVE)
    if start >= end:
        return False
    head = source.read(6)
    source.seek(start)
    return head in _MAGIC


def _pad(target: BinaryIO, unit: int) -> None:
    target.write(bytes(-target.tell() % unit))
