"""The partition table: the same bytes for the same input, read from any whole copy, grown through every cut."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostplane.agent import gpt
from hostplane.errors import HostError

LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
MIB = 1 << 20


class Medium:
    """A disk as a dict of 512-byte pieces: what was never written reads as zeros."""

    def __init__(self, size: int, pieces: dict[int, bytes] | None = None) -> None:
        self.size, self.pieces = size, dict(pieces or {})

    def read(self, offset: int, size: int) -> bytes:
        size = max(0, min(size, self.size - offset))
        first, last = offset // 512, -(-(offset + size) // 512)
        raw = b"".join(self.pieces.get(index, bytes(512)) for index in range(first, last))
        return raw[offset - first * 512 :][:size]

    def write(self, write: gpt.Write) -> None:
        for piece in self.split(write):
            self.pieces[piece.offset // 512] = piece.data

    @staticmethod
    def split(write: gpt.Write) -> list[gpt.Write]:
        return [gpt.Write(write.offset + at, write.data[at : at + 512]) for at in range(0, len(write.data), 512)]

    def reading(self, sector_size: int) -> gpt.Reading:
        return gpt.parse(self.read, self.size, sector_size)

    def resized(self, size: int) -> Medium:
        return Medium(size, self.pieces)


@st.composite
def tables(draw: st.DrawFn) -> tuple[gpt.Table, int]:
    """(a table of up to 12 partitions, the disk's size in bytes)."""
    sector_size = draw(st.sampled_from([512, 4096]))
    step = MIB // sector_size
    sizes = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), min_size=1, max_size=12))
    numbers = draw(st.permutations(range(1, 129)))
    label = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=18)
    at, partitions = 1, []
    for number, (gap, size) in zip(numbers, sizes, strict=False):
        at += gap
        guid = str(uuid.UUID(int=draw(st.integers(1, (1 << 128) - 1))))
        partitions.append(
            gpt.Partition(
                number, LINUX, guid, at * step, (at + size) * step - 1, draw(label), draw(st.integers(0, 255))
            )
        )
        at += size
    if len({partition.guid for partition in partitions}) < len(partitions):
        partitions = partitions[:1]
    disk_bytes = (at + 1) * MIB + draw(st.integers(0, 5)) * sector_size
    return gpt.make(str(uuid.UUID(int=7)), disk_bytes, tuple(partitions), sector_size), disk_bytes


def formatted(table: gpt.Table, size: int) -> Medium:
    medium = Medium(size)
    for write in gpt.fresh(table, b"code"):
        medium.write(write)
    return medium


@settings(max_examples=40, deadline=None)
@given(tables())
def test_a_written_table_is_read_back_from_both_copies(case: tuple[gpt.Table, int]) -> None:
    table, size = case
    assert formatted(table, size).reading(table.sector_size) == gpt.Reading(table, True, True)


@settings(max_examples=40, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_one_damaged_byte_in_one_copy_changes_nothing(case: tuple[gpt.Table, int], chance: random.Random) -> None:
    table, size = case
    for copy in (gpt.primary(table), gpt.backup(table)):
        medium = formatted(table, size)
        covered = [copy[0]._replace(data=copy[0].data[: 128 * 128]), copy[1]._replace(data=copy[1].data[:92])]
        struck = chance.choice(covered)
        at = chance.randrange(len(struck.data))
        raw = bytearray(medium.read(struck.offset, len(struck.data)))
        raw[at] ^= 1 << chance.randrange(8)
        medium.write(gpt.Write(struck.offset, bytes(raw).ljust(-(-len(raw) // 512) * 512, b"\0")))
        reading = medium.reading(table.sector_size)
        assert reading.table == table
        assert (reading.has_primary, reading.has_backup) == ((copy != gpt.primary(table)), copy != gpt.backup(table))


def cuts(medium: Medium, writes: list[gpt.Write], chance: random.Random) -> Iterator[Medium]:
    """The medium after a cut in each write: none of its sectors, some of them in any order, all of them."""
    done = Medium(medium.size, medium.pieces)
    for write in writes:
        pieces = Medium.split(write)
        for _ in range(3):
            torn = Medium(done.size, done.pieces)
            for piece in chance.sample(pieces, chance.randint(0, len(pieces))):
                torn.write(piece)
            yield torn
        done.write(write)
        yield Medium(done.size, done.pieces)


@settings(max_examples=20, deadline=None)
@given(tables(), st.integers(0, 60 * MIB), st.randoms(use_true_random=False))
def test_growth_cut_anywhere_reads_as_old_or_new_and_is_completed(
    case: tuple[gpt.Table, int], more: int, chance: random.Random
) -> None:
    table, size = case
    disk = formatted(table, size).resized(size + more)
    new = gpt.grown(table, disk.size)
    writes = gpt.growth(disk.reading(table.sector_size), disk.size, disk.read(0, 512))
    assert bool(writes) == (new != table)
    for cut in cuts(disk, writes, chance):
        assert cut.read(0, 4) == b"code"
        reading = cut.reading(table.sector_size)
        assert reading.table in (table, new)
        for twice in cuts(cut, gpt.growth(reading, cut.size, cut.read(0, 512)), chance):
            assert twice.reading(table.sector_size).table in (table, new)
            final = twice.reading(table.sector_size)
            for write in gpt.growth(final, twice.size, twice.read(0, 512)):
                twice.write(write)
            assert twice.reading(table.sector_size) == gpt.Reading(new, True, True)
            assert gpt.growth(twice.reading(table.sector_size), twice.size, twice.read(0, 512)) == []


@settings(max_examples=40, deadline=None)
@given(tables(), st.integers(0, 1 << 30))
def test_only_the_last_partition_grows_and_ends_at_the_last_whole_mebibyte(
    case: tuple[gpt.Table, int], more: int
) -> None:
    table, size = case
    new = gpt.grown(table, size + more)
    assert [p._replace(last=0) for p in new.partitions] == [p._replace(last=0) for p in table.partitions]
    assert [p for p in new.partitions if p.number != table.last.number] == [
        p for p in table.partitions if p.number != table.last.number
    ]
    assert new.last.last >= table.last.last
    assert (new.last.last + 1) * new.sector_size % MIB == 0
    if new != table:
        assert 0 <= size + more - (new.last.last + 1) * new.sector_size < 2 * MIB


def test_what_lay_at_the_old_end_is_cleared_once_the_front_is_new() -> None:
    table = gpt.make(str(uuid.UUID(int=1)), 8 * MIB, (gpt.Partition(1, LINUX, LINUX, 2048, 14335, "PERSIST"),))
    disk = formatted(table, 8 * MIB).resized(32 * MIB)
    writes = gpt.growth(disk.reading(512), disk.size, disk.read(0, 512))
    stale = {write.offset for write in gpt.backup(table)}
    assert {write.offset for write in writes[-2:]} == stale
    assert not any(any(write.data) for write in writes[-2:])


def test_a_copy_that_is_not_whole_is_made_whole_without_growing() -> None:
    table = gpt.make(str(uuid.UUID(int=1)), 8 * MIB, (gpt.Partition(1, LINUX, LINUX, 2048, 14335, "PERSIST"),))
    for lost in (gpt.primary(table), gpt.backup(table)):
        disk = formatted(table, 8 * MIB)
        disk.write(gpt.Write(lost[1].offset, bytes(512)))
        for write in gpt.growth(disk.reading(512), disk.size, disk.read(0, 512)):
            disk.write(write)
        assert disk.reading(512) == gpt.Reading(table, True, True)


def test_a_hybrid_table_is_not_grown() -> None:
    table = gpt.make(str(uuid.UUID(int=1)), 8 * MIB, (gpt.Partition(1, LINUX, LINUX, 2048, 4095, "X"),))
    with pytest.raises(HostError, match="sector 0 lists partitions"):
        gpt.growth(gpt.Reading(table, True, True), 8 * MIB, b"\1" * 512)


@pytest.mark.parametrize("content", [b"", bytes(1 << 20), b"EFI PART" * 131072])
def test_a_disk_without_a_table_is_refused(content: bytes, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(content)
    with pytest.raises(HostError) as refused:
        gpt.read_disk(str(disk))
    assert refused.value.name == "PartitionTableUnreadable"


def test_a_disk_smaller_than_its_table_is_refused(tmp_path: Path) -> None:
    table = gpt.make(str(uuid.UUID(int=1)), 8 * MIB, (gpt.Partition(1, LINUX, LINUX, 2048, 14335, "X"),))
    disk = formatted(table, 8 * MIB).resized(4 * MIB)
    with pytest.raises(HostError) as refused:
        disk.reading(512)
    assert refused.value.name == "PartitionTableUnreadable"


@pytest.mark.parametrize(
    "partitions",
    [
        (gpt.Partition(1, LINUX, LINUX, 2048, 4095, "A"), gpt.Partition(2, LINUX, LINUX[::-1], 4095, 6143, "B")),
        (gpt.Partition(1, LINUX, LINUX, 2048, 4095, "A"), gpt.Partition(2, LINUX, LINUX, 4096, 6143, "B")),
        (gpt.Partition(1, LINUX, LINUX, 20, 4095, "A"),),
        (gpt.Partition(1, LINUX, LINUX, 2048, 16383, "A"),),
        (gpt.Partition(0, LINUX, LINUX, 2048, 4095, "A"),),
        (gpt.Partition(129, LINUX, LINUX, 2048, 4095, "A"),),
        (gpt.Partition(1, LINUX, LINUX, 2048, 4095, "A" * 37),),
        (gpt.Partition(1, LINUX, LINUX, 4096, 4095, "A"),),
    ],
)
def test_a_table_that_cannot_be_is_refused(partitions: tuple[gpt.Partition, ...]) -> None:
    with pytest.raises(HostError) as refused:
        gpt.make(str(uuid.UUID(int=1)), 8 * MIB, partitions)
    assert refused.value.name == "PartitionTableInvalid"


def test_a_disk_file_grows_and_asks_before_each_write(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    table = gpt.make(str(uuid.UUID(int=1)), 8 * MIB, (gpt.Partition(8, LINUX, LINUX, 2048, 14335, "PERSIST"),))
    with path.open("wb") as disk:
        disk.truncate(8 * MIB)
        for write in gpt.fresh(table, b"boot"):
            os.pwrite(disk.fileno(), write.data, write.offset)
    asked: list[None] = []
    assert gpt.grow_disk(str(path), lambda: asked.append(None)) is None
    os.truncate(path, 64 * MIB)
    longer = gpt.grow_disk(str(path), lambda: asked.append(None))
    assert longer is not None
    assert longer.last == 63 * 2048 - 1
    assert len(asked) == 7
    assert gpt.read_disk(str(path)).has_backup
    assert path.read_bytes()[:4] == b"boot"

    def refuse() -> None:
        raise PermissionError("never")

    os.truncate(path, 80 * MIB)
    before = path.read_bytes()
    with pytest.raises(PermissionError):
        gpt.grow_disk(str(path), refuse)
    assert path.read_bytes() == before
