"""`hostplane image boot` on disks whose one sector says what a host would say: its verdict and its exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hostplane.cli.main import main

# 16-bit code that writes the text behind it to the first serial port and halts.
_CODE = "31c08ed8fcbe227cac84c0741288c4bafd03eca82074f888e0baf803eeebe9f4ebfd"


def _out(directory: Path, text: str) -> Path:
    raw = bytes.fromhex(_CODE) + text.encode() + b"\0"
    assert len(raw) <= 440
    (directory / "disk.raw").write_bytes(raw.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    (directory / "report.json").write_bytes(b'{"arch": "x86_64"}')
    return directory


def _boot(out: Path, *arguments: str) -> int:
    return main(["image", "boot", str(out), "--memory", "256", "--cpus", "1", *arguments])


def test_a_healthy_host_is_said_to_be_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = _out(tmp_path, "\nHostplane: slot A · node 1.0 · healthy\nnode login: ")
    before = (out / "disk.raw").read_bytes()
    assert _boot(out, "--timeout", "60") == 0
    said = capfd.readouterr()
    assert "node login:" in said.out
    assert "node 1.0" in said.err
    assert (out / "disk.raw").read_bytes() == before


def test_a_host_that_is_not_well_is_quoted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = _out(tmp_path, "\nHostplane: slot B · node 1.0 · failed: kubelet.service\nnode login: ")
    assert _boot(out, "--timeout", "60") == 3
    assert "failed: kubelet.service" in capfd.readouterr().err


def test_a_boot_that_gets_nowhere_ends_with_what_was_seen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = _out(tmp_path, "\nKernel panic - not syncing: no root\n")
    assert _boot(out, "--timeout", "3") == 3
    assert "Kernel panic" in capfd.readouterr().err


def test_a_directory_without_a_disk_names_what_is_missing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _boot(tmp_path) == 3
    assert "disk.raw" in capfd.readouterr().err


def test_a_stopped_command_leaves_no_machine_and_no_file(tmp_path: Path) -> None:
    out = _out(tmp_path, "\nhello\n")
    places = tmp_path / "tmp"
    places.mkdir()
    command = [sys.executable, "-m", "hostplane.cli", "image", "boot", str(out), "--memory", "256"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(places)}) as process:
        assert process.stdout is not None
        assert b"hello" in process.stdout.readline() + process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    assert list(places.iterdir()) == []
