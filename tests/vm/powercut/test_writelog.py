"""The log of writes is read as the kernel's format says, and a damaged one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm.powercut.writelog import Flag, WriteLog, WriteLogError, render

_ENTRIES = [
    (4096, b"a" * 1024, Flag(0)),
    (0, b"", Flag.FLUSH),
    (512, b"b" * 512, Flag.FUA),
    (8192, b"", Flag.DISCARD),
    (0, b"here", Flag.MARK),
    (1024, b"c" * 512, Flag.FLUSH | Flag.FUA),
]


@pytest.mark.parametrize("sector", [512, 4096])
def test_every_kind_of_entry_is_read(tmp_path: Path, sector: int) -> None:
    entries = [(offset * sector // 512, data * (sector // 512), flags) for offset, data, flags in _ENTRIES]
    (tmp_path / "log").write_bytes(render(entries, discarded=2 * sector, sector=sector))
    with WriteLog(tmp_path / "log") as log:
        read = list(log.entries())
        assert [(each.offset, each.flags) for each in read] == [(offset, flags) for offset, _, flags in entries]
        assert [each.size for each in read] == [2 * sector, 0, sector, 2 * sector, 0, sector]
        data = [log.data(each) for each in read]
    assert data == [b"a" * 2 * sector, b"", b"b" * sector, bytes(2 * sector), b"", b"c" * sector]


@pytest.mark.parametrize("damage", ["magic", "short", "cut", "flags", "more"])
def test_a_damaged_log_is_refused(tmp_path: Path, damage: str) -> None:
    raw = bytearray(render(_ENTRIES, discarded=512))
    match damage:
        case "magic":
            raw[0] ^= 1
        case "short":
            raw = raw[:20]
        case "cut":
            raw = raw[:-512]
        case "flags":
            raw[512 + 16] = 0x80
        case "more":
            raw[16] += 1
    (tmp_path / "log").write_bytes(raw)
    with pytest.raises(WriteLogError):
        list(WriteLog(tmp_path / "log").entries())
