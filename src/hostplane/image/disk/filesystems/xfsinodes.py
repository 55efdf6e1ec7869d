"""Sets in a finished xfs image what a prototype file cannot say: times, the sticky bit and extended attributes.

The image is read as the format defines it (version 5 of XFS, as mkfs.xfs has just written it: no log to replay) and
walked beside the tree it was made of. An inode's checksum is a CRC-32C, hence linear: the changed bytes alone say how
it changes. Attributes go into the inode itself; what does not fit there is refused.

A prototype cannot quote either, so a name with a blank goes in under another one (`spelled`), which has the same length
and the same place in a directory's index: that index is sorted by a hash, in which the highest bit of one letter and
the lowest bit of the letter before it cancel out. Here the entry gets its own name back.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from hostplane.errors import ImageError
from hostplane.image.disk.filesystems.checksum import change_weights, crc32c
from hostplane.image.disk.filesystems.contents import walk, xattrs

__all__ = ["finish", "spelled"]

_CORE = 176
_LOCAL, _EXTENTS, _BTREE = 1, 2, 3
_LEAF_OFFSET = 1 << 35
"""Bytes into a directory where its index begins; what lies before is entries."""
_SPACES = {"user.": 0, "trusted.": 2, "security.": 4}
_ACCESS_LISTS = {"system.posix_acl_access": b"SGI_ACL_FILE", "system.posix_acl_default": b"SGI_ACL_DEFAULT"}
_ATTRIBUTES_BIT = 0x0010
"""Of the superblock's version: some inode has attributes."""


class _Geometry(Struct, frozen=True):
    block: int
    group_blocks: int
    groups: int
    root: int
    inode: int
    group_bits: int
    """How many bits of a block's number say where in its group it lies."""
    per_block_bits: int
    directory: int
    """Bytes of a directory's block."""
    sector: int


class _Entry(Struct, frozen=True):
    name: bytes
    number: int
    """Of its inode."""
    at: int
    """Bytes from the image's start to the name."""
    block: int | None
    """Where the directory block begins that holds it; None: the directory's inode does."""


class _Image:
    """An open image."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        raw = os.pread(descriptor, 512, 0)
        if raw[:4] != b"XFSB" or struct.unpack_from(">H", raw, 100)[0] & 15 != 5:
            raise ImageError("XfsFormatUnknown")
        block, root = struct.unpack_from(">I", raw, 4)[0], struct.unpack_from(">Q", raw, 56)[0]
        group_blocks, groups = struct.unpack_from(">II", raw, 84)
        sector, inode = struct.unpack_from(">HH", raw, 102)
        per_block_bits, group_bits = raw[123], raw[124]
        self.geometry = _Geometry(
            block, group_blocks, groups, root, inode, group_bits, per_block_bits, block << raw[192], sector
        )
        self._weights = change_weights(inode)

    def _block_at(self, number: int) -> int:
        own = self.geometry
        group, block = number >> own.group_bits, number & (1 << own.group_bits) - 1
        return (group * own.group_blocks + block) * own.block

    def inode_at(self, number: int) -> int:
        """Bytes from the image's start to the inode."""
        own = self.geometry
        slot = number & (1 << own.per_block_bits) - 1
        return self._block_at(number >> own.per_block_bits) + slot * own.inode

    def inode(self, number: int) -> bytearray:
        """The inode's bytes."""
        return bytearray(os.pread(self._descriptor, self.geometry.inode, self.inode_at(number)))

    def replace(self, at: int, old: bytes, new: bytearray, checksum: int) -> None:
        """Write `new` where `old` is, its CRC (4 bytes, at `checksum`) made to fit."""
        if len(old) == len(self._weights):
            crc = struct.unpack_from("<I", old, checksum)[0]
            for weights, before, after in zip(self._weights, old, new, strict=True):
                if before != after:
                    crc ^= weights[before ^ after]
        else:
            struct.pack_into("<I", new, checksum, 0)
            crc = crc32c(new)
        struct.pack_into("<I", new, checksum, crc)
        os.pwrite(self._descriptor, new, at)

    def mark_attributes(self) -> None:
        """Say in every copy of the superblock that there are attributes."""
        for group in range(self.geometry.groups):
            at = group * self.geometry.group_blocks * self.geometry.block
            old = os.pread(self._descriptor, self.geometry.sector, at)
            version = struct.unpack_from(">H", old, 100)[0]
            self.replace(at, old, _changed(old, 100, struct.pack(">H", version | _ATTRIBUTES_BIT)), 224)

    def rename(self, directory: int, entry: _Entry, name: bytes) -> None:
        """Give an entry of the inode `directory` another name of the same length and hash."""
        start = self.inode_at(directory) if entry.block is None else entry.block
        size = self.geometry.inode if entry.block is None else self.geometry.directory
        old = os.pread(self._descriptor, size, start)
        self.replace(start, old, _changed(old, entry.at - start, name), 100 if entry.block is None else 4)

    def point(self, number: int, old: bytes, new: bytearray, to: bytes) -> None:
        """Have the link `number` lead to `to`: in its inode, or in a block of its own, which mkfs.xfs gives no head."""
        if old[5] == _LOCAL:
            new[_CORE : _CORE + len(to)] = to
            return
        ((_, first, count),) = self._extents(old)
        place, own = self._block_at(first), self.geometry
        uuid = os.pread(self._descriptor, 16, 32)
        head = struct.pack(">4sIII16sQQQ", b"XSLM", 0, len(to), 0, uuid, number, place // 512, 0)
        block = bytearray((head + to).ljust(count * own.block, b"\0"))
        self.replace(place, bytes(len(block)), block, 12)

    def entries(self, number: int) -> Iterator[_Entry]:
        """What the directory `number` holds, itself and its parent left out."""
        inode = self.inode(number)
        if inode[5] == _LOCAL:
            for name, found, at in _short_entries(bytes(inode[_CORE:])):
                yield _Entry(name, found, self.inode_at(number) + _CORE + at, None)
            return
        size = self.geometry.directory
        for start, first, count in self._extents(bytes(inode)):
            if start * self.geometry.block >= _LEAF_OFFSET:
                continue
            place = self._block_at(first)
            data = os.pread(self._descriptor, count * self.geometry.block, place)
            for block in range(0, len(data), size):
                for name, found, at in _block_entries(data[block : block + size]):
                    yield _Entry(name, found, place + block + at, place + block)

    def _extents(self, inode: bytes) -> Iterator[tuple[int, int, int]]:
        """(file block, image block, how many) of an inode's data."""
        if inode[5] == _EXTENTS:
            yield from _records(inode[_CORE:], _extent_count(inode))
            return
        level, count = struct.unpack_from(">HH", inode, _CORE)
        room = (inode[82] * 8 or len(inode) - _CORE) - 4
        yield from self._below(inode[_CORE + 4 + room // 16 * 8 :], count, level)

    def _below(self, pointers: bytes, count: int, level: int) -> Iterator[tuple[int, int, int]]:
        for (number,) in struct.iter_unpack(">Q", pointers[: count * 8]):
            raw = os.pread(self._descriptor, self.geometry.block, self._block_at(number))
            (records,) = struct.unpack_from(">H", raw, 6)
            if level == 1:
                yield from _records(raw[72:], records)
            else:
                yield from self._below(raw[72 + (len(raw) - 72) // 16 * 8 :], records, level - 1)


def _extent_count(inode: bytes | bytearray) -> int:
    """Of an inode's data; wide counters have another place."""
    is_wide = struct.unpack_from(">Q", inode, 120)[0] & 16
    return int(struct.unpack_from(">Q", inode, 24)[0] if is_wide else struct.unpack_from(">I", inode, 76)[0])


def _records(raw: bytes, count: int) -> Iterator[tuple[int, int, int]]:
    for high, low in struct.iter_unpack(">QQ", raw[: count * 16]):
        yield high >> 9 & (1 << 54) - 1, (high & 0x1FF) << 43 | low >> 21, low & (1 << 21) - 1


def _changed(old: bytes, at: int, piece: bytes) -> bytearray:
    new = bytearray(old)
    new[at : at + len(piece)] = piece
    return new


def _short_entries(fork: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, inode number, where the name is) of the entries that an inode itself holds."""
    count, wide = fork[0], 8 if fork[1] else 4
    at = 2 + wide
    for _ in range(count):
        start, end = at + 3, at + 3 + fork[at]
        yield bytes(fork[start:end]), int.from_bytes(fork[end + 1 : end + 1 + wide], "big"), start
        at = end + 1 + wide


def _block_entries(block: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The same of a directory's block."""
    end = len(block)
    if block[:4] == b"XDB3":  # the index follows in the same block, its length at the end
        end -= 8 + struct.unpack_from(">I", block, len(block) - 8)[0] * 8
    at = 64
    while at < end:
        if block[at : at + 2] == b"\xff\xff":
            at += struct.unpack_from(">H", block, at + 2)[0]
            continue
        number, length = struct.unpack_from(">QB", block, at)
        name = block[at + 9 : at + 9 + length]
        if name not in (b".", b".."):
            yield name, number, at + 9
        at += -(-(length + 12) // 8) * 8


def spelled(name: bytes) -> bytes | None:
    """`name` as a prototype can say it: itself, or one of the same length and hash; None where there is none."""
    new = bytearray(name)
    for place in range(len(new)):
        if new[place] in b" \t\n\v\f\r" or (place == 0 and new[place] in b":$"):
            if place + 1 < len(new):
                new[place] ^= 1
                new[place + 1] ^= 0x80
            elif place:
                new[place] ^= 0x80
                new[place - 1] ^= 1
    is_blank = any(letter in b" \t\n\v\f\r\0" for letter in new)
    is_fit = not is_blank and new.count(b"/") == name.count(b"/") and bytes(new[:1]) not in (b":", b"$", b"")
    return bytes(new) if is_fit else None


def finish(image: Path, tree: Path, epoch: int) -> None:
    """Give the inodes of `image`, which was made of `tree`, the times, modes and attributes of the tree's files.

    Raises:
        ImageError: XfsAttributesUnfit, XfsFormatUnknown.
    """
    with image.open("r+b") as opened:
        disk = _Image(opened.fileno())
        has_attributes = False
        numbers: dict[str, int] = {}
        listings: dict[str, dict[bytes, _Entry]] = {}
        for path, status in walk(tree):
            if stat.S_ISSOCK(status.st_mode):
                continue
            number = disk.geometry.root
            if listings:
                parent, name = os.path.split(path)
                entry = listings[parent][spelled(os.fsencode(name)) or b""]
                number = entry.number
                if entry.name != os.fsencode(name):
                    disk.rename(numbers[parent], entry, os.fsencode(name))
            old = bytes(disk.inode(number))
            new = bytearray(old)
            struct.pack_into(">H", new, 2, status.st_mode & 0xFFFF)
            _set_times(new, min(int(status.st_mtime), epoch), epoch)
            if stat.S_ISLNK(status.st_mode):
                disk.point(number, old, new, os.fsencode(os.readlink(path)))
            if kept := xattrs(path):
                has_attributes = True
                if not _set_attributes(new, kept):
                    raise ImageError("XfsAttributesUnfit", path=os.path.relpath(path, tree))
            disk.replace(disk.inode_at(number), old, new, 100)
            if stat.S_ISDIR(status.st_mode):
                numbers[path] = number
                listings[path] = {entry.name: entry for entry in disk.entries(number)}
        if has_attributes:
            disk.mark_attributes()


def _set_times(inode: bytearray, modified: int, epoch: int) -> None:
    """Access, modification and change; the creation is the epoch already."""
    has_wide_times = struct.unpack_from(">Q", inode, 120)[0] & 8
    for at, seconds in ((32, epoch), (40, modified), (48, epoch)):
        if has_wide_times:
            struct.pack_into(">Q", inode, at, (seconds + (1 << 31)) * 10**9)
        else:
            struct.pack_into(">II", inode, at, seconds, 0)


def _set_attributes(inode: bytearray, attributes: dict[str, bytes]) -> bool:
    """Whether the attributes fit into the inode, and now are there."""
    if inode[82] and inode[83] != _LOCAL:  # a newer mkfs.xfs has brought them, into blocks of their own
        return True
    fork = bytearray()
    for name, value in attributes.items():
        flags, short, value = _stored(name, value)
        if len(short) > 255 or len(value) > 255:
            return False
        fork += bytes((len(short), len(value), flags)) + short + value
    size = len(fork) + 4
    fork[:0] = struct.pack(">HBx", size, len(attributes))
    start = (len(inode) - _CORE - size) // 8 * 8
    if len(attributes) > 255 or start < max(_data_size(inode), 8):
        return False
    if inode[5] == _BTREE:
        _narrow(inode, start)
    inode[82], inode[83] = start // 8, _LOCAL
    inode[_CORE + start :] = fork.ljust(len(inode) - _CORE - start, b"\0")
    return True


def _narrow(inode: bytearray, size: int) -> None:
    """Have a tree's root take `size` bytes of the inode: the keys stay, the pointers begin in the middle."""
    (count,) = struct.unpack_from(">H", inode, _CORE + 2)
    first = _CORE + 4
    old = first + ((inode[82] * 8 or len(inode) - _CORE) - 4) // 16 * 8
    pointers = inode[old : old + count * 8]
    new = first + (size - 4) // 16 * 8
    inode[first + count * 8 : _CORE + size] = bytes(size - 4 - count * 8)
    inode[new : new + count * 8] = pointers


def _data_size(inode: bytearray) -> int:
    """Bytes that the inode's data takes within it, at least."""
    if inode[5] == _BTREE:
        return 4 + int(struct.unpack_from(">H", inode, _CORE + 2)[0]) * 16
    if inode[5] == _EXTENTS:
        return _extent_count(inode) * 16
    return int(struct.unpack_from(">Q", inode, 56)[0]) if inode[5] == _LOCAL else 8


def _stored(name: str, value: bytes) -> tuple[int, bytes, bytes]:
    """(name space, name, value) as xfs keeps them; access lists have a form of their own."""
    if name in _ACCESS_LISTS:
        entries = list(struct.iter_unpack("<HHI", value[4:]))
        packed = b"".join(struct.pack(">IIHH", tag, number, bits, 0) for tag, bits, number in entries)
        return 2, _ACCESS_LISTS[name], struct.pack(">I", len(entries)) + packed
    space = name.split(".", 1)[0] + "."
    return _SPACES[space], os.fsencode(name[len(space) :]), value
