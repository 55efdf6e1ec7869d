"""A serial line: what is waited for, what is left out, and how waiting ends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from hostplane.errors import LocalError
from hostplane.local.serialport import SerialPort

_SECONDS = 20.0


class Line(NamedTuple):
    port: SerialPort
    guest: socket.socket


@pytest.fixture
def line() -> Iterator[Line]:
    ours, guest = socket.socketpair()
    port = SerialPort(ours)
    with guest:
        guest.settimeout(_SECONDS)
        yield Line(port, guest)
    port.close()


def _failure(port: SerialPort, pattern: str, timeout: float = _SECONDS, unless: str | None = None) -> str:
    with pytest.raises(LocalError) as caught:
        port.wait_for(pattern, timeout, unless=unless)
    return caught.value.reason.name


def test_each_word_is_waited_for_once(line: Line) -> None:
    line.guest.sendall(b"one two one ")
    assert line.port.wait_for("one", _SECONDS).start() == 0
    assert line.port.wait_for("one", _SECONDS).start() == 8
    assert _failure(line.port, "one", timeout=0.05) == "ConsoleTimeout"


def test_a_pattern_may_arrive_in_pieces(line: Line) -> None:
    line.guest.sendall(b"lo")
    line.guest.sendall(b"gin: ")
    assert line.port.wait_for("^login: $", _SECONDS)


def test_escapes_are_left_out_also_when_cut_in_two(line: Line) -> None:
    for piece in (b"\x1b[0;3", b"7mgreen\x1b", b"[2J\x1b[01;01H slot\x1b=\r\n", b"\x1b]0;title\x07end"):
        line.guest.sendall(piece)
    line.port.wait_for("end", _SECONDS)
    assert line.port.text == "green slot\nend"


def test_a_letter_cut_in_two_is_whole(line: Line) -> None:
    for byte in "主机 ok".encode():
        line.guest.sendall(bytes([byte]))
    assert line.port.wait_for("主机 ok", _SECONDS)


def test_the_unwanted_ends_the_wait_only_when_it_comes_first(line: Line) -> None:
    line.guest.sendall(b"login: panic ")
    line.port.wait_for("login", _SECONDS, unless="panic")
    assert _failure(line.port, "banner", unless="panic") == "ConsoleSaidOtherwise"


def test_the_other_end_closing_ends_the_wait(line: Line) -> None:
    line.guest.sendall(b"bye")
    line.guest.close()
    assert line.port.wait_for("bye", _SECONDS)
    assert _failure(line.port, "more") == "ConsoleClosed"
    assert line.port.closed


def test_what_is_typed_arrives(line: Line) -> None:
    line.port.send("root")
    assert line.guest.recv(64) == b"root\r"


def test_typing_into_a_closed_line_is_an_error(line: Line) -> None:
    line.guest.close()
    with pytest.raises(LocalError):
        line.port.send("x" * 1_000_000)


def test_an_onlooker_who_leaves_does_not_stall_the_line() -> None:
    def leave(text: str) -> None:
        raise BrokenPipeError

    ours, guest = socket.socketpair()
    port = SerialPort(ours, leave)
    with guest:
        guest.sendall(b"first")
        port.wait_for("first", _SECONDS)
        guest.sendall(b"second")
        port.wait_for("second", _SECONDS)
    port.close()
