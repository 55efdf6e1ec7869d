"""Versions of shim and GRUB are read from what they are; a damaged ESP or note costs a version, never the report."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from hostplane.agent import firmware
from hostplane.agent.hostroot import HostRoot
from tests.unit.agent.payload.signed import put, raw

SHIM = b"sbat,1,SBAT Version,sbat,1,https://x\nshim,4,UEFI shim,shim,1,https://x\nshim.debian,1,Debian,shim,15.8,https://x\n"
GRUB = b"sbat,1,SBAT Version,sbat,1,https://x\ngrub,4,FSF,grub,2.06,https://x\ngrub.debian,4,Debian,grub2,2.06-13+deb12u1,x\n"


def program(sbat: bytes) -> bytes:
    """A PE program with one section, .sbat."""
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x80)
    coff = b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, 16, 0)
    section = struct.pack("<8sIIII", b".sbat", len(sbat), 0, 512, 0x200).ljust(40, b"\0")
    return (head.ljust(0x80, b"\0") + coff + bytes(16) + section).ljust(0x200, b"\0") + sbat.ljust(512, b"\0")


def test_signed_programs_say_their_version_in_their_sbat_section() -> None:
    found = firmware.found_in([program(SHIM), program(GRUB), b"no program"])
    assert found == {"shim": "15.8", "grub": "2.06-13+deb12u1"}


def test_others_say_it_in_their_text() -> None:
    made = b"\0normal\0GNU GRUB  version %s\0" + b"\x002.06-13+deb12u1\0"
    assert firmware.found_in([made, b"$Version: 15.4 $"]) == {"grub": "2.06-13+deb12u1", "shim": "15.4"}
    assert firmware.grub_version(made) == "2.06-13+deb12u1"
    assert firmware.grub_version(b"none") == ""


@pytest.mark.parametrize("length", range(0, 0x200, 7))
def test_a_cut_program_costs_its_version_only(length: int) -> None:
    assert firmware.found_in([program(SHIM)[:length]]) in ({}, {"shim": "15.8"})


def test_what_was_seen_on_this_boot_counts_before_the_builders_word(tmp_path: Path) -> None:
    host = HostRoot(str(tmp_path))
    assert firmware.read(host) == {}
    put(tmp_path, firmware.RECORD, raw({"schema": "1.0", "shim": "", "grub": "2.04", "esp": "node 1.0"}))
    assert firmware.read(host) == {"grub": "2.04", "esp": "node 1.0"}
    firmware.refresh(host)
    put(tmp_path, "run/hostplane/firmware.json", raw({"shim": "15.8"}))
    assert firmware.read(host) == {"shim": "15.8", "grub": "2.04", "esp": "node 1.0"}


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", json.dumps({"shim": None, "grub": []}).encode()])
def test_a_damaged_note_is_passed_over(tmp_path: Path, content: bytes) -> None:
    put(tmp_path, firmware.RECORD, content)
    assert firmware.read(HostRoot(str(tmp_path))) == {}
