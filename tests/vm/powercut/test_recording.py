"""What QEMU records is read back as it was written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hostplane.local.qemu import Machine
from tests.vm.powercut.recording import recorded, unreadable, worn
from tests.vm.powercut.replay import Image, Replay
from tests.vm.powercut.writelog import Flag, WriteLog

# The boot sector of tests/vm/test_qemu.py: it writes how often it was started into the next sector.
_COUNTER = (
    "fa31c08ed88ec08ed0bc007cfbfcb80102bb0080b90200ba8000cd13fe060080b80103bb0080b90200ba8000cd13"
    "baf803be717cac84c07403eeebf8a000800430eeb00aeebaf802b032eebafd03eca80174f8baf803ec3c72740d3c"
    "7175ecba0406b80020efebe3baf90cb006eef4ebfd626f6f74732000"
)


def _qemu_io(options: str, *commands: str) -> str:
    asked = [word for command in commands for word in ("-c", command)]
    command = ["qemu-io", "--image-opts", *asked, options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_writes_flushes_discards_and_zeros_come_back(tmp_path: Path) -> None:
    disk, log = tmp_path / "a, b", tmp_path / "log"
    disk.write_bytes(bytes(1 << 20))
    said = _qemu_io(
        recorded(log)(disk) + ",discard=unmap",
        *("write -P 0x61 4k 4k", "flush", "write -P 0x62 512k 1k", "write -z 4k 1k", "discard 8k 4k", "flush"),
    )
    assert "rror" not in said, said
    with WriteLog(log) as read:
        entries = list(read.entries())
        found = [(each.offset, each.size, each.flags) for each in entries if each.flags != Flag.FLUSH or each.size]
        assert found == [(4096, 4096, 0), (512 << 10, 1024, 0), (4096, 1024, 0), (8192, 4096, Flag.DISCARD)]
        assert read.data(entries[0]) == b"a" * 4096
        assert next(each.number for each in entries if each.flags & Flag.FLUSH) == 1
        blank = tmp_path / "blank"
        blank.write_bytes(bytes(1 << 20))
        shown = Image(blank)
        for _ in Replay(shown, Image(blank), read).states():
            pass
        assert shown.read(0, shown.size) == disk.read_bytes()


def test_what_a_machine_writes_is_recorded(tmp_path: Path) -> None:
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.write_bytes(bytes.fromhex(_COUNTER).ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    before = disk.read_bytes()
    with Machine(disk, memory_mib=64, cpus=1, overlay=False, reboots=False, opened=recorded(log)) as machine:
        machine.wait_for("boots 1", 60)
        machine.send("r")
        machine.wait_off(60)
    with WriteLog(log) as read:
        writes = [(each.offset, read.data(each)[:2]) for each in read.entries() if not each.flags]
    assert writes == [(512, b"\1\0")] * len(writes)
    assert writes
    assert disk.read_bytes()[512] == 1
    assert before[512] == 0


@pytest.mark.parametrize("sectors", [1, 8])
def test_a_disk_has_sectors_that_cannot_be_read(tmp_path: Path, sectors: int) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"a" * (1 << 20))
    options = unreadable(tmp_path / "config", 64, sectors)(disk)
    said = _qemu_io(options, "read 0 32k", f"read {(64 + sectors - 1) * 512} 512", "write -P 0x62 32k 4k")
    assert said.count("read 32768/32768") == 1, said
    assert "read failed: Input/output error" in said
    assert "wrote 4096/4096" in said


def test_a_worn_disk_gives_back_what_was_written_elsewhere(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    said = _qemu_io(
        worn(tmp_path / "described", 8192, 65536)(disk),
        *("write -P 0x61 0 1M", "read -P 0x61 0 1M", "write -P 0x62 8k 4k", "read -P 0x62 64k 4k"),
        *("write -P 0x63 64k 4k", "read -P 0x63 8k 4k", "read -P 0x61 12k 52k"),
    )
    assert "rror" not in said, said
    assert "verification failed" not in said, said
