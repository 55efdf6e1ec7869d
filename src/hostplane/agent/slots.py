"""The slots as places for a tar: on a host that is a directory, the tar's own bytes lie in a slot's file.

The port knows bytes and slots; it knows nothing of digests, phases or the boot order. Whoever implements it asks the
veto before every write and turns a full or broken disk into one error with a name. Behind the bytes come zeros. Where
slots are partitions, a tar is unpacked into them (payload.tarroot), and a bundle goes its own way (payload.install).
"""

import abc
import os
import stat
from typing import Callable, Iterator

from hostplane.errors import HostError

from .disk.volume import faults

__all__ = ["DirectorySlots", "PartitionSlots", "SlotPort", "SlotWriter", "open_slots"]

_READ_CHUNK = 256 << 10


class SlotWriter(abc.ABC):
    """One slot open for writing, from an offset on; `close` in any case, `finish` only when all bytes are there."""

    @abc.abstractmethod
    def write(self, piece: bytes) -> None:
        """Append `piece`. Raises HostError SlotFull, SlotWriteFailed, VetoedByHost."""

    @abc.abstractmethod
    def sync(self) -> None:
        """Make what was written so far survive a power cut."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Zero whatever an older, longer image left behind the bytes written, and sync."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the slot; safe to repeat."""


class SlotPort(abc.ABC):
    """The two slots of a host. `holds_bytes`: whether a tar lies in a slot as the bytes it is."""

    holds_bytes = True

    @abc.abstractmethod
    def room(self, slot: str) -> int:
        """Bytes an image in `slot` may have at most."""

    @abc.abstractmethod
    def check_writable(self) -> None:
        """Refuse a staging before it has begun. Raises HostError VetoedByHost."""

    @abc.abstractmethod
    def writer(self, slot: str, offset: int) -> SlotWriter:
        """`slot`, open for writing at `offset` bytes; what lies before stays."""

    @abc.abstractmethod
    def read(self, slot: str, size: int) -> Iterator[bytes]:
        """The first `size` bytes of `slot` from the medium, in pieces; fewer when it holds fewer."""


class _FileWriter(SlotWriter):
    def __init__(self, path: str, offset: int, room: int, guard: Callable[[], None]) -> None:
        self._path, self._offset, self._room, self._guard = path, offset, room, guard
        self._descriptor = -1
        guard()
        with faults(os.path.basename(path)):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            self._length = os.fstat(self._descriptor).st_size

    def write(self, piece: bytes) -> None:
        self._guard()
        if self._offset + len(piece) > self._room:
            raise HostError("SlotFull", slot=os.path.basename(self._path))
        view = memoryview(piece)
        with faults(os.path.basename(self._path)):
            while view:
                written = os.pwrite(self._descriptor, view, self._offset)
                self._offset += written
                view = view[written:]

    def sync(self) -> None:
        with faults(os.path.basename(self._path)):
            os.fsync(self._descriptor)

    def finish(self) -> None:
        self._guard()
        with faults(os.path.basename(self._path)):
            os.ftruncate(self._descriptor, self._offset)
            os.ftruncate(self._descriptor, max(self._length, self._offset))
            os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _pieces(path: str, size: int) -> Iterator[bytes]:
    with faults(os.path.basename(path), reading=True), open(path, "rb", buffering=0) as handle:
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # from the medium, not from memory
        left = size
        while left > 0:
            piece = handle.read(min(_READ_CHUNK, left))
            if not piece:
                return
            left -= len(piece)
            yield piece


class DirectorySlots(SlotPort):
    """Slots as the files ROOT-A and ROOT-B of a directory. `slot_bytes` 0 means: what the file system has free."""

    def __init__(self, directory: str, slot_bytes: int, guard: Callable[[], None]) -> None:
        self._directory, self._slot_bytes, self._guard = directory, slot_bytes, guard

    def _path(self, slot: str) -> str:
        return os.path.join(self._directory, "ROOT-" + slot)

    def room(self, slot: str) -> int:
        if self._slot_bytes:
            return self._slot_bytes
        try:
            held = os.stat(self._path(slot)).st_blocks * 512
        except OSError:
            held = 0
        free = os.statvfs(self._directory)
        return held + max(0, free.f_bavail * free.f_frsize - (10 << 20))

    def check_writable(self) -> None:
        self._guard()

    def writer(self, slot: str, offset: int) -> SlotWriter:
        return _FileWriter(self._path(slot), offset, self.room(slot), self._guard)

    def read(self, slot: str, size: int) -> Iterator[bytes]:
        return _pieces(self._path(slot), size)


class PartitionSlots(SlotPort):
    """Slots that are partitions of a disk: a tar's bytes are not put into them, it is unpacked (payload.tarroot)."""

    holds_bytes = False

    def __init__(self, directory: str, guard: Callable[[], None]) -> None:
        self._directory, self._guard = directory, guard

    def _path(self, slot: str) -> str:
        return os.path.join(self._directory, "ROOT-" + slot)

    def room(self, slot: str) -> int:
        path = self._path(slot)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as fault:
            raise HostError("SlotMissing", slot=slot, path=path, detail=fault.strerror or str(fault)) from fault
        try:
            return os.lseek(descriptor, 0, os.SEEK_END)
        finally:
            os.close(descriptor)

    def check_writable(self) -> None:
        self._guard()

    def writer(self, slot: str, offset: int) -> SlotWriter:
        raise NotImplementedError

    def read(self, slot: str, size: int) -> Iterator[bytes]:
        return _pieces(self._path(slot), size)


def open_slots(directory: str, slot_bytes: int, guard: Callable[[], None]) -> SlotPort:
    """The slots below `directory`, as what they are there."""
    try:
        is_disk = stat.S_ISBLK(os.stat(os.path.join(directory, "ROOT-A")).st_mode)
    except OSError:
        is_disk = directory == "/dev/hostplane"  # a real host whose partition is gone has no files instead
    return PartitionSlots(directory, guard) if is_disk else DirectorySlots(directory, slot_bytes, guard)
