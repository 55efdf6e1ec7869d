"""What is read from a booting machine's console: a login, and the host's own word."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from hostplane.errors import LocalError
from hostplane.local import bootcheck
from hostplane.local.serialport import SerialPort

_SECONDS = 20.0
_HEALTHY = "Hostplane: slot A · debian-12 1.0 · healthy\r\n"


class Line(NamedTuple):
    port: SerialPort
    guest: socket.socket

    def says(self, text: str) -> None:
        self.guest.sendall(text.encode())


@pytest.fixture
def line() -> Iterator[Line]:
    ours, guest = socket.socketpair()
    port = SerialPort(ours)
    with guest:
        yield Line(port, guest)
    port.close()


@pytest.mark.parametrize("text", [f"{_HEALTHY}\r\nnode-1 login: ", f"node-1 login: \r\n{_HEALTHY}"])
def test_a_login_and_a_healthy_line_are_enough_in_any_order(line: Line, text: str) -> None:
    line.says(f"[  1.0] kernel\r\nHostplane: slot A · debian-12 1.0 · starting\r\n{text}")
    booted = bootcheck.watch(line.port, _SECONDS)
    assert booted.is_healthy
    assert (booted.slot, booted.image) == ("A", "debian-12 1.0")


def test_what_is_wrong_is_said(line: Line) -> None:
    line.says("Hostplane: slot B · x 2 · failed: ssh.service; agent: HP-6001: no\r\nlocalhost login: ")
    booted = bootcheck.watch(line.port, _SECONDS)
    assert not booted.is_healthy
    assert booted.state == "failed: ssh.service; agent: HP-6001: no"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (_HEALTHY, "ConsoleTimeout"),
        ("node login: \r\nHostplane: slot A · x 1 · starting\r\n", "ConsoleTimeout"),
        ("\r\nHostplane: no slot can be booted by itself.\r\n", "ConsoleSaidOtherwise"),
    ],
)
def test_half_of_it_is_not_enough(line: Line, text: str, name: str) -> None:
    line.says(text)
    with pytest.raises(LocalError) as caught:
        bootcheck.watch(line.port, 0.2)
    assert caught.value.reason.name == name


def test_a_disk_is_found_in_a_build_or_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"disk\.raw"):
        bootcheck.find_disk(tmp_path)
    (tmp_path / "disk.qcow2").touch()
    assert bootcheck.find_disk(tmp_path) == tmp_path / "disk.qcow2"
    (tmp_path / "disk.raw").touch()
    assert bootcheck.find_disk(tmp_path) == tmp_path / "disk.raw"
    assert bootcheck.find_disk(tmp_path / "disk.qcow2").suffix == ".qcow2"
