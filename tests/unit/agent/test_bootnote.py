"""Once a boot the agent looks at what the ESP really holds, without mounting it; whatever that is stops nothing."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hostplane.agent import fat, firmware
from hostplane.agent.hostroot import HostRoot
from tests.unit.agent.payload.signed import host, put, raw, record
from tests.unit.agent.test_firmware import GRUB, SHIM, program

pytestmark = pytest.mark.skipif(not all(map(shutil.which, ("mkfs.vfat", "mcopy", "mmd"))), reason="needs mtools")


def esp(root: Path, bits: int = 16, mib: int = 16) -> Path:
    """The ESP of the host at `root`, with shim, GRUB and what else lies there."""
    image = put(root, "dev/hostplane/ESP", b"")
    with image.open("r+b") as file:
        file.truncate(mib << 20)
    subprocess.run(["mkfs.vfat", "-F", str(bits), str(image)], capture_output=True, check=True)
    subprocess.run(["mmd", "-i", str(image), "::EFI", "::EFI/BOOT", "::EFI/a vendor of linux"], check=True)
    for name, content in (
        ("BOOTX64.EFI", program(SHIM)),
        ("grubx64.efi", program(GRUB) + bytes(100_000)),
        ("a long name.efi", b"x"),
        ("grub.cfg", b"x"),
        ("empty.efi", b""),
    ):
        path = put(root, "esp/" + name, content)
        subprocess.run(["mcopy", "-i", str(image), str(path), f"::EFI/BOOT/{name}"], check=True)
    return image


def state(root: Path) -> int:
    words = [sys.executable, "-m", "hostplane.agent.main", "state", "--root", str(root)]
    return subprocess.run(words, capture_output=True, timeout=60, check=False).returncode


@pytest.mark.parametrize(("bits", "mib"), [(12, 2), (16, 16), (32, 40)])
def test_every_kind_of_fat_is_read(tmp_path: Path, bits: int, mib: int) -> None:
    found = fat.read_files(str(esp(tmp_path, bits, mib)), ("EFI", "BOOT"), 1 << 20)
    assert found["BOOTX64.EFI"] == program(SHIM)
    assert found["GRUBX64.EFI"] == program(GRUB) + bytes(100_000)
    assert found["EMPTY.EFI"] == b""
    assert "GRUBX64.EFI" not in fat.read_files(str(tmp_path / "dev/hostplane/ESP"), ("EFI", "BOOT"), 50_000)


def test_the_report_names_what_the_esp_holds(tmp_path: Path) -> None:
    root = host(tmp_path)
    esp(tmp_path)
    put(tmp_path, firmware.RECORD, raw({"schema": "1.0", "shim": "15.0", "grub": "2.02", "esp": "node 1.0"}))
    assert state(tmp_path) == 0
    assert firmware.read(root) == {"shim": "15.8", "grub": "2.06-13+deb12u1", "esp": "node 1.0"}


@pytest.mark.parametrize("content", [b"", b"none", bytes(1 << 20), b"\xff" * 4096])
def test_an_esp_that_cannot_be_read_stops_nothing(tmp_path: Path, content: bytes) -> None:
    host(tmp_path)
    put(tmp_path, "dev/hostplane/ESP", content)
    assert state(tmp_path) == 0
    assert firmware.read(HostRoot(str(tmp_path))) == {}


def test_a_host_that_knows_nothing_of_itself_starts(tmp_path: Path) -> None:
    assert state(tmp_path) == 0
    put(tmp_path, "etc/hostplane/agent.json", b"{")
    assert state(tmp_path) == 0


def test_state_that_cannot_be_read_stops_what_would_read_it(tmp_path: Path) -> None:
    host(tmp_path)
    record(tmp_path, "A", stateVersions={"database": "1.0"})
    put(tmp_path, "var/lib/hostplane/state-versions.json", raw({"schema": "1.0", "versions": {"database": "2.0"}}))
    assert state(tmp_path) == 1


def test_a_damaged_file_system_neither_loops_nor_crashes(tmp_path: Path) -> None:
    image, chance = esp(tmp_path, 12, 2), random.Random(5)
    whole = image.read_bytes()
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 30)):
            damaged[chance.randrange(40_000)] = chance.randrange(256)
        image.write_bytes(damaged[: chance.choice((len(whole), chance.randrange(len(whole))))])
        with contextlib.suppress(OSError, ValueError):
            firmware.refresh(HostRoot(str(tmp_path)))
