"""One partition (or a file in its place) as blocks of 4 KiB: read past the cache, written whole blocks at a time.

What is read to be judged comes from the medium: by direct I/O, or, where a file system knows none, after its cached
pages were dropped. What is written is flushed every 16 MiB, so that a staging never fills the host's memory with dirty
pages. A block device is opened exclusively and compared with the numbers it was found by, so that neither a mount in
another namespace nor a device of the same name can be written. Every write asks the veto, every step the caller's
`pace`, which holds the rate and ends a staging that is cancelled.
"""

import errno
import io
import mmap
import os
import stat
from typing import Callable, Iterator, NamedTuple, Optional, Tuple

from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.disk.partitions import Partition
from hostplane.errors import HostError

__all__ = ["PIECE", "Volume", "faults"]

PIECE = 1 << 20
"""Bytes of one read."""
_FLUSHED = 16 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DIRECT = getattr(os, "O_DIRECT", 0)


class faults(object):
    """Names what the operating system says about a slot. `reading` says which way the bytes went."""

    def __init__(self, label: str, reading: bool = False) -> None:
        self._label, self._reading = label, reading

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, fault: object, trace: object) -> None:
        if isinstance(fault, OSError):
            detail = fault.strerror or str(fault)
            if self._reading:
                raise HostError("SlotReadFailed", slot=self._label, detail=detail) from fault
            if fault.errno in _FULL:
                raise HostError("SlotFull", slot=self._label) from fault
            raise HostError("SlotWriteFailed", slot=self._label, detail=detail) from fault


class _Direct(NamedTuple):
    """A file open for direct I/O and the aligned memory it reads into."""

    file: io.FileIO
    memory: mmap.mmap


class Volume(object):
    """`partition`, opened as it is needed. `guard` is asked before each write, `pace` told the bytes of each step."""

    def __init__(
        self, partition: Partition, guard: Callable[[], None], pace: Callable[[int], None] = lambda size: None
    ) -> None:
        self.partition, self._guard, self._pace = partition, guard, pace
        self._reader = self._writer = -1
        self._direct: Optional[_Direct] = None
        self._dirty = 0
        self.written = 0

    @property
    def scan_bytes(self) -> int:
        """Whole blocks to read for all that is there: the partition's, or a file's so far."""
        if self.partition.numbers:
            return self.partition.size // BLOCK * BLOCK
        try:
            return -(-os.stat(self.partition.path).st_size // BLOCK) * BLOCK
        except OSError:
            return 0

    def open_writer(self, size: int) -> None:
        """Take the partition for itself; a file is made at least `size` bytes long.

        Raises:
            HostError: SlotUnfit when somebody else uses it, SlotWriteFailed, VetoedByHost.
        """
        if self._writer >= 0:
            return
        self._guard()
        with faults(self.partition.label):
            is_device = bool(self.partition.numbers) and stat.S_ISBLK(os.stat(self.partition.path).st_mode)
            flags = os.O_RDWR | os.O_CLOEXEC
            flags |= os.O_EXCL if is_device else 0 if self.partition.numbers else os.O_CREAT
            try:
                self._writer = os.open(self.partition.path, flags, 0o600)
            except OSError as fault:
                if fault.errno != errno.EBUSY:
                    raise
                raise self._unfit("it is in use") from fault
            self._compare(self._writer)
            if not is_device and os.fstat(self._writer).st_size < size:
                os.ftruncate(self._writer, size)

    def _unfit(self, detail: str) -> HostError:
        return HostError("SlotUnfit", label=self.partition.label, path=self.partition.path, detail=detail)

    def _compare(self, descriptor: int) -> None:
        """Raise when a block device is not the one that was found; in a made-up /dev a file may stand for it."""
        about = os.fstat(descriptor)
        if not self.partition.numbers:
            return
        if not stat.S_ISBLK(about.st_mode):
            if self.partition.path.startswith("/dev/"):
                raise self._unfit("it is no block device")
            return
        numbers = "%d:%d" % (os.major(about.st_rdev), os.minor(about.st_rdev))
        if numbers != self.partition.numbers:
            raise self._unfit("the device %s has taken its name" % numbers)

    def _buffered(self) -> int:
        if self._writer >= 0:
            return self._writer
        if self._reader < 0:
            self._reader = os.open(self.partition.path, os.O_RDONLY | os.O_CLOEXEC)
            self._compare(self._reader)
        return self._reader

    def read(self, block: int, count: int) -> bytes:
        """`count` blocks from `block` on, zeros behind the end of a file. Raises OSError, HostError SlotUnfit."""
        self._pace(count * BLOCK)
        descriptor, wanted = self._buffered(), count * BLOCK
        found = os.pread(descriptor, wanted, block * BLOCK)
        while len(found) < wanted:
            more = os.pread(descriptor, wanted - len(found), block * BLOCK + len(found))
            if not more:
                return found + bytes(wanted - len(found))
            found += more
        return found

    def forget(self, block: int, count: int) -> None:
        """What was read there need not stay in memory."""
        os.posix_fadvise(self._buffered(), block * BLOCK, count * BLOCK, os.POSIX_FADV_DONTNEED)

    def write(self, block: int, content: bytes) -> None:
        """Put whole blocks at `block`.

        Raises:
            HostError: SlotFull, SlotWriteFailed, VetoedByHost.
        """
        self._guard()
        self._pace(len(content))
        offset, view = block * BLOCK, memoryview(content)
        if offset + len(content) > self.partition.size:
            raise HostError("SlotFull", slot=self.partition.label)
        with faults(self.partition.label):
            while view:
                done = os.pwrite(self._writer, view, offset)
                offset, view = offset + done, view[done:]
        self.written += len(content)
        self._dirty += len(content)
        if self._dirty >= _FLUSHED:
            self.sync()

    def sync(self) -> None:
        """Make what was written survive a power cut, and drop it from memory."""
        if self._writer >= 0:
            with faults(self.partition.label):
                os.fdatasync(self._writer)
                os.posix_fadvise(self._writer, 0, 0, os.POSIX_FADV_DONTNEED)
        self._dirty = 0

    def scan(self, size: int, strict: bool = True) -> Iterator[Tuple[int, bytes]]:
        """(block, content) of pieces of the first `size` bytes, from the medium; zeros behind the end of a file.

        Without `strict`, blocks that cannot be read are left out; with it they raise.

        Raises:
            HostError: SlotReadFailed, SlotUnfit.
        """
        self.sync()
        if self._direct is not None:
            os.posix_fadvise(self._direct.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        at = 0
        while at < size:
            wanted = min(PIECE, size - at)
            self._pace(wanted)
            try:
                piece = self._from_medium(at, wanted)
            except OSError as fault:
                if strict or fault.errno != errno.EIO:
                    detail = fault.strerror or str(fault)
                    raise HostError("SlotReadFailed", slot=self.partition.label, detail=detail) from fault
                for block in range(at // BLOCK, (at + wanted) // BLOCK):
                    try:
                        yield block, self._from_medium(block * BLOCK, BLOCK)
                    except OSError:
                        continue
                at += wanted
                continue
            if len(piece) < wanted:
                if self.partition.numbers:
                    raise HostError("SlotReadFailed", slot=self.partition.label, detail="it ends too early")
                piece += bytes(wanted - len(piece))  # behind the end of a file
            yield at // BLOCK, piece
            at += wanted

    def _from_medium(self, offset: int, size: int) -> bytes:
        if self._direct is None:
            if not self.partition.numbers and not os.path.exists(self.partition.path):
                return b""
            self._direct = self._open_direct()
        file, memory = self._direct
        file.seek(offset)
        view = memoryview(memory)[:size]
        try:
            got = file.readinto(view) or 0
        finally:
            view.release()
        return memory[:got]

    def _open_direct(self) -> _Direct:
        path = self.partition.path
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | _DIRECT)
        except OSError as fault:
            if fault.errno != errno.EINVAL:  # a file system without direct I/O
                raise
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        self._compare(descriptor)
        return _Direct(io.FileIO(descriptor, "rb"), mmap.mmap(-1, PIECE))

    def close(self) -> None:
        """Let go, flushed or not; safe to repeat."""
        for descriptor in (self._reader, self._writer):
            if descriptor >= 0:
                os.close(descriptor)
        self._reader = self._writer = -1
        self._dirty = 0
        if self._direct is not None:
            self._direct.file.close()
            self._direct.memory.close()
            self._direct = None
