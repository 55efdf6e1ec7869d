"""A hash tree behind a root image, in dm-verity's format: the kernel then refuses every block that was changed.

The bytes are those that `veritysetup format` writes (version 1, SHA-256, blocks of 4096 bytes), with a salt and a UUID
that follow from the image, so that the same root always gives the same root hash. Read once, front to back.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from uuid import UUID

from msgspec import Struct

__all__ = ["Verity", "append", "tree_size"]

_BLOCK = 4096
_DIGEST = 32
_PER_BLOCK = _BLOCK // _DIGEST
_MIB = 1 << 20


class Verity(Struct, frozen=True, kw_only=True):
    """What the kernel needs to check an image."""

    roothash: str
    """64 hex digits."""
    hashoffset: int
    """Bytes from the image's start to the verity superblock."""
    salt: str
    """Hex."""


def tree_size(size: int) -> int:
    """Bytes that `append` adds to an image of `size` bytes, a multiple of 1 MiB."""
    level, total = size // _BLOCK, 1
    while level > 1:
        level = -(-level // _PER_BLOCK)
        total += level
    return -(-total * _BLOCK // _MIB) * _MIB


def append(image: Path, *, uuid: str, salt: bytes) -> Verity:
    """Append superblock and hash tree to `image`, whose size is a multiple of 1 MiB."""
    size = image.stat().st_size
    seed = hashlib.sha256(salt)
    levels = [bytearray()]
    with image.open("r+b") as data:
        while chunk := data.read(_MIB):
            levels[0] += _digests(seed, chunk)
        while len(levels[-1]) > _DIGEST:
            levels[-1].extend(bytes(-len(levels[-1]) % _BLOCK))
            levels.append(_digests(seed, levels[-1]))
        data.write(_superblock(size // _BLOCK, uuid, salt))
        for level in reversed(levels[:-1]):
            data.write(level)
        data.truncate(size + tree_size(size))
    return Verity(roothash=levels[-1].hex(), hashoffset=size, salt=salt.hex())


def _digests(seed: hashlib._Hash, data: bytes | bytearray) -> bytearray:
    digests = bytearray()
    for at in range(0, len(data), _BLOCK):
        block = seed.copy()
        block.update(data[at : at + _BLOCK])
        digests += block.digest()
    return digests


def _superblock(blocks: int, uuid: str, salt: bytes) -> bytes:
    head = struct.pack(
        "<8sII16s32sIIQH6x256s",
        b"verity\0\0",
        1,
        1,
        UUID(uuid).bytes,
        b"sha256",
        _BLOCK,
        _BLOCK,
        blocks,
        len(salt),
        salt,
    )
    return head.ljust(_BLOCK, b"\0")
