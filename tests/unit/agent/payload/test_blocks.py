"""Sorted lists in bounded memory, and partitions that cannot be read everywhere."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.disk.partitions import Partition
from hostplane.agent.disk.volume import PIECE, Volume
from hostplane.agent.payload.blocks import RUN, Sorter, hashed, short_of
from hostplane.errors import HostError
from tests.unit.agent.payload.bundle_host import refusal
from tests.unit.image.bundle_play import blocks


@pytest.mark.parametrize("count", [0, 1, RUN - 1, RUN, RUN + 1, 2 * RUN + 7])
def test_records_come_back_sorted_as_often_as_wanted(tmp_path: Path, count: int) -> None:
    numbers = random.Random(count)
    records = [numbers.randrange(1 << 16).to_bytes(4, "big") for _ in range(count)]
    sorter = Sorter(4, str(tmp_path))
    for record in records:
        sorter.add(record)
    assert os.listdir(tmp_path) == []  # its file has no name
    assert list(sorter) == sorted(records)
    assert list(sorter) == sorted(records)
    sorter.close()


def test_a_full_disk_is_a_reason(tmp_path: Path) -> None:
    sorter = Sorter(4, str(tmp_path / "missing"))
    for _ in range(RUN - 1):
        sorter.add(b"abcd")
    assert refusal(lambda: sorter.add(b"abcd")) == "ScratchFailed"


def test_zeros_have_no_hash() -> None:
    content = blocks([0, 0, 5, 0, -1])
    found = dict(hashed([(0, content[: 2 * BLOCK]), (2, content[2 * BLOCK :])]))
    assert found == {0: b"", 1: b"", 2: short_of(blocks([5])), 3: b"", 4: short_of(blocks([-1]))}


class Worn(Volume):
    """A partition whose blocks 5 and 300 cannot be read."""

    def _from_medium(self, offset: int, size: int) -> bytes:
        if any(offset <= bad * BLOCK < offset + size for bad in (5, 300)):
            raise OSError(errno.EIO, "Input/output error")
        return super()._from_medium(offset, size)


def worn(path: Path) -> Worn:
    path.write_bytes(random.Random(1).randbytes(2 * PIECE))
    return Worn(Partition("ROOT-B", str(path), 2 * PIECE), lambda: None)


def test_what_cannot_be_read_is_left_out_where_it_only_would_have_been_reused(tmp_path: Path) -> None:
    volume = worn(tmp_path / "slot")
    seen = {number for number, _ in hashed(volume.scan(2 * PIECE, strict=False))}
    assert set(range(2 * PIECE // BLOCK)) - seen == {5, 300}
    volume.close()


def test_what_cannot_be_read_is_no_proof(tmp_path: Path) -> None:
    volume = worn(tmp_path / "slot")
    with pytest.raises(HostError, match="could not be read"):
        list(volume.scan(2 * PIECE))
    volume.close()


def test_a_file_ends_in_zeros(tmp_path: Path) -> None:
    path = tmp_path / "slot"
    path.write_bytes(b"x" * (PIECE + 5))
    volume = Volume(Partition("ROOT-B", str(path), 4 * PIECE), lambda: None)
    assert b"".join(piece for _, piece in volume.scan(3 * PIECE)) == b"x" * (PIECE + 5) + bytes(2 * PIECE - 5)
    assert volume.read(PIECE // BLOCK, 2) == (b"x" * 5).ljust(2 * BLOCK, b"\0")
    assert volume.scan_bytes == PIECE + BLOCK
    volume.close()


def test_nothing_is_written_behind_the_end(tmp_path: Path) -> None:
    volume = Volume(Partition("ROOT-B", str(tmp_path / "slot"), PIECE), lambda: None)
    volume.open_writer(PIECE)
    assert refusal(lambda: volume.write(PIECE // BLOCK - 1, bytes(2 * BLOCK))) == "SlotFull"
    volume.close()


def test_a_volume_that_cannot_be_flushed_is_let_go_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(Partition("ROOT-B", str(tmp_path / "slot"), PIECE), lambda: None)
    volume.open_writer(PIECE)
    volume.write(0, bytes(BLOCK))

    def fdatasync(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    before = len(os.listdir("/proc/self/fd"))
    assert refusal(volume.sync) == "SlotWriteFailed"
    volume.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
