"""The partition table of a disk (GPT): read from whichever copy is whole, written byte for byte alike, grown safely.

A GPT is kept twice: header and entries at the front, entries and header at the very end. Each header carries a CRC of
itself and of its entries, so a torn copy is known as torn. That is what growing rests on (`growth`): first the new
copy at the disk's new end, then the one at the front, each entries first and header last, each synced before the next.

    cut before the new end is whole       front: old and whole        the old table
    cut inside the front's entries        front: torn, end: whole     the new table
    cut after that                        front: new and whole        the new table

GRUB looks at neither CRC; it sees the old or the new entries, which differ in one sector, hence never a mixture.
A repeated growth after any cut goes on from what it finds, and writes nothing when all is as it should be.

Everything works on bytes and numbers except the three functions at the end. Only what Hostplane uses is accepted:
entries of 128 bytes, sectors of 512 or 4096 bytes; hybrid tables are refused where a table is to be changed.
"""

import binascii
import os
import struct
import uuid
from typing import Callable, List, NamedTuple, Optional, Tuple

from hostplane.errors import HostError

__all__ = [
    "ALIGNMENT",
    "Partition",
    "Read",
    "Reading",
    "Table",
    "Write",
    "backup",
    "fresh",
    "grow_disk",
    "grown",
    "growth",
    "make",
    "parse",
    "primary",
    "protective_mbr",
    "read_disk",
    "write_disk",
]

ALIGNMENT = 1 << 20
"""Bytes: partitions that we make or grow begin and end at multiples of it."""
_SIGNATURE = b"EFI PART"
_REVISION = 0x00010000
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_COUNT = 128
_MOST_ENTRIES = 1024
_CODE_BYTES = 440
_NOTHING = bytes(16)

Read = Callable[[int, int], bytes]
"""(offset, size) in bytes -> the bytes there."""


class Partition(NamedTuple):
    """One partition; `first` and `last` are sectors and both belong to it."""

    number: int
    type_guid: str
    guid: str
    first: int
    last: int
    name: str
    attributes: int = 0


class Table(NamedTuple):
    """A whole table: as it is or shall be on a disk of `sectors` sectors of `sector_size` bytes."""

    disk_guid: str
    sector_size: int
    sectors: int
    first_usable: int
    last_usable: int
    partitions: Tuple[Partition, ...]
    entries_at: int = 2
    """Sector of the front copy's entries."""
    entry_count: int = _COUNT

    @property
    def last(self) -> Partition:
        """The partition that lies furthest back on the disk."""
        return max(self.partitions, key=lambda partition: partition.last)


class Reading(NamedTuple):
    """What a disk says. Of two whole copies that differ, the front one holds."""

    table: Table
    has_primary: bool
    """Whether the front copy is whole."""
    has_backup: bool
    """Whether the copy at the end is whole, says the same and lies where the front copy expects it."""


class Write(NamedTuple):
    """Bytes for an offset in bytes; on the medium before the next one begins."""

    offset: int
    data: bytes


def _entry_sectors(count: int, sector_size: int) -> int:
    return -(-count * _ENTRY.size // sector_size)


def make(disk_guid: str, disk_bytes: int, partitions: Tuple[Partition, ...], sector_size: int = 512) -> Table:
    """The table of a fresh disk.

    Raises:
        HostError: PartitionTableInvalid when the partitions overlap, lie outside, or repeat a number or a GUID.
    """
    sectors = disk_bytes // sector_size
    room = _entry_sectors(_COUNT, sector_size)
    table = Table(
        disk_guid.lower(), sector_size, sectors, 2 + room, sectors - room - 2, tuple(sorted(partitions)), 2, _COUNT
    )
    problem = _fault(table)
    if problem:
        raise HostError("PartitionTableInvalid", detail=problem)
    return table


def _fault(table: Table) -> str:
    """What is wrong with the table's figures; empty when nothing is."""
    room = _entry_sectors(table.entry_count, table.sector_size)
    if not table.entries_at + room <= table.first_usable <= table.last_usable < table.sectors - 1 - room:
        return "%d sectors leave no room for both copies of the table" % table.sectors
    guids = [partition.guid for partition in table.partitions]
    if len(set(guids)) != len(guids):
        return "two partitions have one GUID"
    numbers = [partition.number for partition in table.partitions]
    if len(set(numbers)) != len(numbers) or any(not 1 <= number <= table.entry_count for number in numbers):
        return "the partitions' numbers are not distinct and within 1 to %d" % table.entry_count
    end = table.first_usable - 1
    for partition in sorted(table.partitions, key=lambda partition: partition.first):
        if len(partition.name.encode("utf-16-le")) > 72:
            return "the name of partition %d is too long" % partition.number
        if partition.last < partition.first or partition.first <= end:
            return "partition %d begins in what lies before it, or ends before it begins" % partition.number
        end = partition.last
    return "a partition ends behind the last usable sector" if end > table.last_usable else ""


def _guid_bytes(text: str) -> bytes:
    return uuid.UUID(text).bytes_le


def _guid_text(raw: bytes) -> str:
    return str(uuid.UUID(bytes_le=raw))


def _entries(table: Table) -> bytes:
    block = bytearray(_entry_sectors(table.entry_count, table.sector_size) * table.sector_size)
    for partition in table.partitions:
        name = partition.name.encode("utf-16-le")
        kind, guid = _guid_bytes(partition.type_guid), _guid_bytes(partition.guid)
        raw = _ENTRY.pack(kind, guid, partition.first, partition.last, partition.attributes, name)
        block[(partition.number - 1) * _ENTRY.size : partition.number * _ENTRY.size] = raw
    return bytes(block)


def _header(table: Table, entries: bytes, own: int, other: int, entries_at: int) -> bytes:
    covered = binascii.crc32(entries[: table.entry_count * _ENTRY.size])

    def packed(crc: int) -> bytes:
        return _HEADER.pack(
            _SIGNATURE,
            _REVISION,
            _HEADER.size,
            crc,
            0,
            own,
            other,
            table.first_usable,
            table.last_usable,
            _guid_bytes(table.disk_guid),
            entries_at,
            table.entry_count,
            _ENTRY.size,
            covered,
        )

    return packed(binascii.crc32(packed(0))).ljust(table.sector_size, b"\0")


def primary(table: Table) -> Tuple[Write, Write]:
    """The front copy: its entries, then its header."""
    entries = _entries(table)
    header = _header(table, entries, 1, table.sectors - 1, table.entries_at)
    return Write(table.entries_at * table.sector_size, entries), Write(table.sector_size, header)


def backup(table: Table) -> Tuple[Write, Write]:
    """The copy at the end: its entries, then its header."""
    entries = _entries(table)
    at = table.sectors - 1 - len(entries) // table.sector_size
    header = _header(table, entries, table.sectors - 1, 1, at)
    return Write(at * table.sector_size, entries), Write((table.sectors - 1) * table.sector_size, header)


def protective_mbr(sectors: int, code: bytes = b"") -> bytes:
    """Sector 0's 512 bytes: boot code (440 bytes at most) and one entry that keeps older tools off the disk."""
    if len(code) > _CODE_BYTES:
        raise HostError("PartitionTableInvalid", detail="the boot code has %d bytes, more than 440" % len(code))
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(sectors - 1, 0xFFFFFFFF))
    return code.ljust(446, b"\0") + entry.ljust(64, b"\0") + b"\x55\xaa"


def fresh(table: Table, code: bytes = b"") -> List[Write]:
    """The writes that put `table`, and `code` (440 bytes at most) as boot code, on a disk without one."""
    return [*backup(table), *primary(table), Write(0, protective_mbr(table.sectors, code))]


def _copy(read: Read, sector_size: int, sectors: int, own: int) -> Optional[Tuple[Table, int]]:
    """The copy whose header lies at sector `own` and where it expects the other one; None when it is not whole."""
    raw = read(own * sector_size, sector_size)
    if len(raw) < _HEADER.size or not raw.startswith(_SIGNATURE):
        return None
    fields = _HEADER.unpack_from(raw)
    _, revision, size, crc, _, here, there, first, last, disk, entries_at, count, entry_size, covered = fields
    if revision != _REVISION or not _HEADER.size <= size <= sector_size or here != own:
        return None
    if binascii.crc32(raw[:16] + bytes(4) + raw[20:size]) != crc:
        return None
    if entry_size != _ENTRY.size or not 1 <= count <= _MOST_ENTRIES or entries_at < 2:
        return None
    entries = read(entries_at * sector_size, count * _ENTRY.size)
    if len(entries) < count * _ENTRY.size or binascii.crc32(entries) != covered:
        return None
    partitions = []
    for index in range(count):
        kind, guid, begin, end, attributes, name = _ENTRY.unpack_from(entries, index * _ENTRY.size)
        if kind != _NOTHING:
            label = name.decode("utf-16-le", "replace").split("\0", 1)[0]
            kind, guid = _guid_text(kind), _guid_text(guid)
            partitions.append(Partition(index + 1, kind, guid, begin, end, label, attributes))
    total = (there if own == 1 else own) + 1
    front = entries_at if own == 1 else 2
    table = Table(_guid_text(disk), sector_size, total, first, last, tuple(partitions), front, count)
    return None if total > sectors or _fault(table) else (table, there)


def parse(read: Read, disk_bytes: int, sector_size: int = 512) -> Reading:
    """The table of a disk of `disk_bytes`.

    Raises:
        HostError: PartitionTableUnreadable when neither copy is whole, or the disk ends before its partitions do.
    """
    sectors = disk_bytes // sector_size
    if sectors < 6:
        raise HostError("PartitionTableUnreadable", detail="the disk has %d sectors" % sectors)
    front = _copy(read, sector_size, sectors, 1)
    back = _copy(read, sector_size, sectors, front[1] if front else sectors - 1)
    if front:
        return Reading(front[0], True, back is not None and back[1] == 1 and _says_the_same(front[0], back[0]))
    if back and back[1] == 1:
        return Reading(back[0], False, True)
    raise HostError("PartitionTableUnreadable", detail="neither its front nor its end holds a whole table that fits it")


def _says_the_same(one: Table, two: Table) -> bool:
    return one == two._replace(entries_at=one.entries_at)


def grown(table: Table, disk_bytes: int) -> Table:
    """The same table with its last partition reaching the end of a disk of `disk_bytes`, rounded down to 1 MiB.

    Given back unchanged when that would not make the partition larger.
    """
    sectors = disk_bytes // table.sector_size
    last_usable = sectors - _entry_sectors(table.entry_count, table.sector_size) - 2
    step = ALIGNMENT // table.sector_size
    end = (last_usable + 1) // step * step - 1
    if not table.partitions or end <= table.last.last:
        return table
    longer = tuple(p._replace(last=end) if p is table.last else p for p in table.partitions)
    return table._replace(sectors=sectors, last_usable=last_usable, partitions=longer)


def growth(reading: Reading, disk_bytes: int, mbr: bytes) -> List[Write]:
    """The writes, in order, that grow the last partition to the disk's end and make both copies whole.

    `mbr` is sector 0 as it is; its boot code stays. Empty when there is nothing to do.

    Raises:
        HostError: PartitionTableInvalid when sector 0 lists more than the protective entry (a hybrid table).
    """
    old = reading.table
    new = grown(old, disk_bytes)
    writes = []  # type: List[Write]
    if not reading.has_primary:  # the only whole copy is not touched before there is a second one
        writes.extend(primary(old))
    if new != old or not reading.has_backup:
        writes.extend(backup(new))
    if new != old:
        if any(mbr[462:510]):
            raise HostError("PartitionTableInvalid", detail="sector 0 lists partitions of its own")
        writes.extend(primary(new))
        writes.append(Write(0, protective_mbr(new.sectors, mbr[:_CODE_BYTES])))
        if (old.sectors - 1) * old.sector_size < backup(new)[0].offset:
            writes.extend(Write(stale.offset, bytes(len(stale.data))) for stale in reversed(backup(old)))
    return writes


def _read_at(descriptor: int) -> Read:
    def read(offset: int, size: int) -> bytes:
        pieces = []
        while size > 0:
            piece = os.pread(descriptor, size, offset)
            if not piece:
                break
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return b"".join(pieces)

    return read


def _write_at(descriptor: int, write: Write) -> None:
    view, offset = memoryview(write.data), write.offset
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
    os.fsync(descriptor)


def read_disk(path: str, sector_size: int = 512) -> Reading:
    """The table of the disk or disk image at `path`.

    Raises:
        HostError: PartitionTableUnreadable.
        OSError: the disk cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return parse(_read_at(descriptor), os.lseek(descriptor, 0, os.SEEK_END), sector_size)
    finally:
        os.close(descriptor)


def write_disk(descriptor: int, table: Table, code: bytes = b"") -> None:
    """Put `table`, and `code` (440 bytes at most) as boot code, on an open disk.

    Raises:
        OSError: the disk cannot be written.
    """
    for write in fresh(table, code):
        _write_at(descriptor, write)


def grow_disk(path: str, guard: Callable[[], None], sector_size: int = 512) -> Optional[Partition]:
    """Grow the last partition of the disk at `path` to its end; give it as it is now, None when nothing was written.

    Safe to cut at any instant and to repeat. `guard` is called before every write and may refuse it. The kernel still
    has to be told about a partition that is in use.

    Raises:
        HostError: PartitionTableUnreadable, PartitionTableInvalid, or what the guard raises.
        OSError: the disk cannot be read or written.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        read, disk_bytes = _read_at(descriptor), os.lseek(descriptor, 0, os.SEEK_END)
        writes = growth(parse(read, disk_bytes, sector_size), disk_bytes, read(0, 512))
        for write in writes:
            guard()
            _write_at(descriptor, write)
        return parse(read, disk_bytes, sector_size).table.last if writes else None
    finally:
        os.close(descriptor)
