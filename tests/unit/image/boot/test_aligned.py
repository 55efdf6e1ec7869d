"""An initramfs on block boundaries: the same files for every reader, and the root's own blocks."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from hostplane.image.boot.aligned import BLOCK, align
from tests.unit.image.boot.test_initramfs import _cpio

BIG = {f"lib/modules/{n}.ko": random.Random(n).randbytes(3 * BLOCK + 17 * n) for n in range(1, 30)}
FILES = {"init": b"#!/bin/sh\n", **BIG, "etc/empty": b"", "x/" + "long" * 900: bytes(BLOCK)}


def aligned(tmp_path: Path, raw: bytes) -> bytes:
    image = tmp_path / "initrd.img"
    image.write_bytes(raw)
    align(image)
    return image.read_bytes()


def read(raw: bytes) -> dict[str, bytes]:
    """Every archive's files, as the kernel reads them."""
    found, at = {}, 0
    while at < len(raw):
        if raw[at] == 0:
            at += 4
            continue
        assert raw[at : at + 6] == b"070701"
        size, name_size = int(raw[at + 54 : at + 62], 16), int(raw[at + 94 : at + 102], 16)
        assert 0 < name_size <= 4096
        name = raw[at + 110 : at + 110 + name_size]
        assert name[-1:] == b"\0"
        at = -(-(at + 110 + name_size) // 4) * 4
        found[name.partition(b"\0")[0].decode()] = raw[at : at + size]
        at = -(-(at + size) // 4) * 4
    return found


@pytest.mark.parametrize("early", [b"", _cpio({"kernel/x86/microcode/a.bin": b"code" * 3000})])
def test_files_stay_and_begin_on_blocks(tmp_path: Path, early: bytes) -> None:
    raw = early + _cpio(FILES)
    made = aligned(tmp_path, raw)
    assert read(made) == read(raw)
    blocks = {made[at : at + BLOCK] for at in range(0, len(made), BLOCK)}
    for content in BIG.values():
        assert {content[at : at + BLOCK] for at in (0, BLOCK, 2 * BLOCK)} <= blocks
    assert len(made) <= len(raw) + BLOCK * (len(FILES) + 2)


def test_doing_it_again_changes_nothing(tmp_path: Path) -> None:
    made = aligned(tmp_path, _cpio(FILES))
    assert aligned(tmp_path, made) == made


@pytest.mark.parametrize("raw", [b"", b"\x1f\x8b packed", _cpio({"init": b"x"}) + b"\x28\xb5\x2f\xfd packed"])
def test_what_is_packed_stays_as_it_is(tmp_path: Path, raw: bytes) -> None:
    assert aligned(tmp_path, raw) == raw


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio")
def test_cpio_reads_it(tmp_path: Path) -> None:
    files = {name: content for name, content in FILES.items() if name.startswith(("init", "lib"))}
    made = aligned(tmp_path, _cpio(files))
    listed = subprocess.run(["cpio", "-t", "--quiet"], input=made, check=True, capture_output=True).stdout
    assert listed.decode().split() == list(files)
