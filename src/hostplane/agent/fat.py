"""Reads small files of a FAT partition without mounting it: an image need not carry FAT's kernel module for one look.

FAT12, 16 and 32, names of the old form (8.3, as the ESP's programs have). Anything that makes no sense is an error, and
every walk is bounded: a damaged file system can neither loop nor fill the memory.
"""

import os
import struct
from typing import Dict, Iterator, List, Tuple

__all__ = ["read_files"]

_ENTRY = 32
_DIRECTORY, _VOLUME, _LONG_NAME = 0x10, 0x08, 0x0F
_MOST_DIRECTORY = 1 << 20
_MOST = 64 << 20


def read_files(device: str, path: Tuple[str, ...], largest: int) -> Dict[str, bytes]:
    """The files in the directory `path` (names in capitals), by name; those over `largest` bytes are left out.

    Raises:
        OSError, ValueError: it is no such file system, it is damaged, or the directory is not there.
    """
    descriptor = os.open(device, os.O_RDONLY)
    try:
        return _Fat(descriptor).files(path, largest)
    except struct.error as fault:
        raise ValueError("the file system ends too early") from fault
    finally:
        os.close(descriptor)


class _Fat(object):
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        head = os.pread(descriptor, 512, 0)
        sector, per_cluster, reserved, copies, entries, small = struct.unpack_from("<HBHBHH", head, 11)
        (narrow,) = struct.unpack_from("<H", head, 22)
        large, wide, root = struct.unpack_from("<II4xI", head, 32)
        if head[510:512] != b"\x55\xaa" or sector not in (512, 1024, 2048, 4096) or not per_cluster or not copies:
            raise ValueError("it is no FAT file system")
        self._table = reserved * sector
        self._fixed = (reserved + copies * (narrow or wide)) * sector
        self._fixed_size = entries * _ENTRY
        self._data = self._fixed + -(-self._fixed_size // sector) * sector
        self._cluster = per_cluster * sector
        count = max(0, ((small or large) * sector - self._data) // self._cluster)
        self._bits = 12 if count < 4085 else 16 if count < 65525 else 32
        self._clusters = count
        self._root = root if self._bits == 32 else 0

    def files(self, path: Tuple[str, ...], largest: int) -> Dict[str, bytes]:
        at = self._root
        for name in path:
            found = [first for each, first, _, is_dir in self._entries(at) if is_dir and each == name]
            if len(found) != 1:
                raise ValueError("there is no directory %s" % name)
            at = found[0]
        listed = [(name, first, size) for name, first, size, is_dir in self._entries(at) if not is_dir]
        wanted = [one for one in listed if one[2] <= largest]
        if sum(size for _, _, size in wanted) > _MOST:
            raise ValueError("the files of %s are larger than any loader's" % "/".join(path))
        return {name: self._content(first, size) for name, first, size in wanted}

    def _entries(self, first: int) -> Iterator[Tuple[str, int, int, bool]]:
        """(name, first cluster, bytes, whether it is a directory) of all in the directory at cluster `first`."""
        if first == 0 and self._bits != 32:
            raw = os.pread(self._descriptor, self._fixed_size, self._fixed)
        else:
            raw = self._chain(first or self._root, _MOST_DIRECTORY)
        for at in range(0, len(raw) - _ENTRY + 1, _ENTRY):
            entry = raw[at : at + _ENTRY]
            if entry[0] == 0:
                return
            kind = entry[11]
            if entry[0] == 0xE5 or kind & _LONG_NAME == _LONG_NAME or kind & _VOLUME:
                continue
            head, tail = (entry[part].decode("ascii", "replace").strip() for part in (slice(0, 8), slice(8, 11)))
            high, low, size = struct.unpack_from("<H4xHI", entry, 20)
            yield (head + "." + tail if tail else head).upper(), low | high << 16, size, bool(kind & _DIRECTORY)

    def _content(self, first: int, size: int) -> bytes:
        raw = self._chain(first, size) if size else b""
        if len(raw) < size:
            raise ValueError("a file is shorter than its entry says")
        return raw[:size]

    def _chain(self, cluster: int, most: int) -> bytes:
        """The clusters of a chain, up to `most` bytes of them."""
        pieces: List[bytes] = []
        while 2 <= cluster < self._clusters + 2 and len(pieces) * self._cluster < most:
            pieces.append(os.pread(self._descriptor, self._cluster, self._data + (cluster - 2) * self._cluster))
            cluster = self._next(cluster)
        return b"".join(pieces)

    def _next(self, cluster: int) -> int:
        if self._bits == 12:
            (pair,) = struct.unpack("<H", os.pread(self._descriptor, 2, self._table + cluster * 3 // 2))
            return int(pair >> 4 if cluster & 1 else pair & 0xFFF)
        width, form = (2, "<H") if self._bits == 16 else (4, "<I")
        (following,) = struct.unpack(form, os.pread(self._descriptor, width, self._table + cluster * width))
        return int(following & 0x0FFFFFFF)
