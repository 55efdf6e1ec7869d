"""Reads files, links and trees out of an ext4 image: the tiny part of it that mke2fs and a kernel write by default.

Extents and old block maps down to one level of indirection, linear and indexed directories, short and long symbolic
links. No journal is replayed (`bootmodel` has e2fsck do that first, as an initramfs does; a loader does not either).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = ["Ext4", "Ext4Error", "Inode"]

_SUPER_AT = 1024
_MAGIC, _EXTENT_MAGIC = 0xEF53, 0xF30A
_64BIT, _INLINE, _RECOVER = 0x80, 0x8000, 0x4
_EXTENTS, _INLINE_DATA = 0x80000, 0x10000000
_ROOT = 2
_DEEPEST = 64


class Ext4Error(ValueError):
    """The image is damaged, or has something that is not read here."""


class Inode(NamedTuple):
    """One inode; `body` is its 60 bytes of block map."""

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    flags: int
    body: bytes


class Ext4:
    """An image, read by `read(offset, size)`."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        """Raises: Ext4Error."""
        self._read = read
        head = read(_SUPER_AT, 1024)
        if len(head) < 1024 or struct.unpack_from("<H", head, 56)[0] != _MAGIC:
            raise Ext4Error("no ext4")
        self.block = 1024 << struct.unpack_from("<I", head, 24)[0]
        self._per_group = struct.unpack_from("<I", head, 40)[0]
        self._inode_size = struct.unpack_from("<H", head, 88)[0] or 128
        incompatible = struct.unpack_from("<I", head, 96)[0]
        if incompatible & _INLINE or self.block > 65536 or not self._per_group:
            raise Ext4Error("an ext4 of a kind that is not read here")
        self.needs_recovery = bool(incompatible & _RECOVER)
        self._desc = struct.unpack_from("<H", head, 254)[0] if incompatible & _64BIT else 32
        self._first_data = struct.unpack_from("<I", head, 20)[0]

    def inode(self, number: int) -> Inode:
        """Raises: Ext4Error when there is none of that number."""
        group, index = divmod(number - 1, self._per_group)
        desc = self._read((self._first_data + 1) * self.block + group * self._desc, self._desc)
        if number < 1 or len(desc) < 32:
            raise Ext4Error(f"no inode {number}")
        table = struct.unpack_from("<I", desc, 8)[0]
        if self._desc >= 64:
            table |= struct.unpack_from("<I", desc, 40)[0] << 32
        raw = self._read(table * self.block + index * self._inode_size, 128)
        if len(raw) < 128:
            raise Ext4Error(f"no inode {number}")
        mode, uid, size = struct.unpack_from("<HHI", raw, 0)
        gid, flags = struct.unpack_from("<H", raw, 24)[0], struct.unpack_from("<I", raw, 32)[0]
        size |= struct.unpack_from("<I", raw, 108)[0] << 32
        high_uid, high_gid = struct.unpack_from("<HH", raw, 120)
        return Inode(number, mode, uid | high_uid << 16, gid | high_gid << 16, size, flags, raw[40:100])

    def blocks(self, inode: Inode) -> list[tuple[int, int, int]]:
        """(block of the file, block of the image, how many), ascending; holes are left out."""
        if inode.flags & _INLINE_DATA:
            raise Ext4Error(f"inode {inode.number} keeps its data in itself")
        if inode.flags & _EXTENTS:
            return sorted(self._extents(inode.body, 0))
        found = struct.unpack_from("<15I", inode.body)
        if any(found[13:]):
            raise Ext4Error(f"inode {inode.number} has a deep block map")
        pointers = list(found[:12])
        if found[12]:
            pointers += struct.unpack(f"<{self.block // 4}I", self._block(found[12]))
        return [(logical, block, 1) for logical, block in enumerate(pointers) if block]

    def content(self, inode: Inode) -> bytes:
        """All bytes of a file or directory."""
        out = bytearray(inode.size)
        for logical, block, count in self.blocks(inode):
            at, wanted = logical * self.block, min(count * self.block, inode.size - logical * self.block)
            if wanted > 0:
                piece = self._read(block * self.block, wanted)
                if len(piece) != wanted:
                    raise Ext4Error(f"inode {inode.number} lies past the image's end")
                out[at : at + wanted] = piece
        return bytes(out)

    def link(self, inode: Inode) -> str:
        """Where a symbolic link leads."""
        raw = inode.body[: inode.size] if inode.size < 60 else self.content(inode)
        return raw.decode("utf-8", "surrogateescape")

    def entries(self, inode: Inode) -> dict[str, int]:
        """A directory's names and inode numbers, without . and .."""
        found: dict[str, int] = {}
        raw = self.content(inode)
        for start in range(0, len(raw), self.block):
            at, end = start, min(start + self.block, len(raw))
            while at + 8 <= end:
                number, length, name_length = struct.unpack_from("<IHB", raw, at)
                if length < 8 or at + length > end or 8 + name_length > length:
                    raise Ext4Error(f"directory {inode.number} is damaged")
                name = raw[at + 8 : at + 8 + name_length].decode("utf-8", "surrogateescape")
                if number and name not in (".", "..", ""):
                    found[name] = number
                at += length
        return found

    def find(self, path: str) -> Inode | None:
        """The inode at an absolute path, links not followed; None when a part of it is missing."""
        inode = self.inode(_ROOT)
        for part in path.strip("/").split("/"):
            number = self.entries(inode).get(part) if stat.S_ISDIR(inode.mode) else None
            if number is None:
                return None
            inode = self.inode(number)
        return inode

    def file(self, path: str) -> bytes | None:
        """A regular file's bytes; None where there is none."""
        inode = self.find(path)
        return self.content(inode) if inode is not None and stat.S_ISREG(inode.mode) else None

    def walk(self, path: str) -> Iterator[tuple[str, Inode]]:
        """Everything below a directory, by its path from there, parents first; nothing where there is no directory."""
        top = self.find(path)
        if top is None or not stat.S_ISDIR(top.mode):
            return
        waiting = [("", top, 0)]
        while waiting:
            place, directory, depth = waiting.pop()
            if depth > _DEEPEST:
                raise Ext4Error(f"{path} goes round in a circle")
            for name, number in sorted(self.entries(directory).items()):
                inode = self.inode(number)
                yield place + name, inode
                if stat.S_ISDIR(inode.mode):
                    waiting.append((f"{place}{name}/", inode, depth + 1))

    def _block(self, number: int) -> bytes:
        raw = self._read(number * self.block, self.block)
        if len(raw) != self.block:
            raise Ext4Error(f"block {number} lies past the image's end")
        return raw

    def _extents(self, node: bytes, depth: int) -> Iterator[tuple[int, int, int]]:
        magic, count, _most, level = struct.unpack_from("<HHHH", node)
        if magic != _EXTENT_MAGIC or 12 + 12 * count > len(node) or depth > 5:
            raise Ext4Error("a damaged extent tree")
        for index in range(count):
            logical, second, third, low = struct.unpack_from("<IHHI", node, 12 + 12 * index)
            if level:
                low = struct.unpack_from("<I", node, 12 + 12 * index + 4)[0]
                high = struct.unpack_from("<H", node, 12 + 12 * index + 8)[0]
                yield from self._extents(self._block(high << 32 | low), depth + 1)
            elif second <= 32768:  # a longer one is allocated and unwritten, hence zeros
                yield logical, third << 32 | low, second
