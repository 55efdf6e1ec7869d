"""One serial line of a virtual machine: everything it ever said, waited for with a deadline, and typed into.

A thread reads without pause, so that a machine never stalls on a full line. Terminal escapes and carriage returns are
left out of the text: firmware and boot loaders paint, tests read words. Nothing here knows what a machine is.
"""

from __future__ import annotations

import codecs
import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable

from hostplane.errors import LocalError

__all__ = ["SerialPort"]

_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?=]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()*+][0-9A-B]|[=>78cDEHMNOZ])")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;?=]*[ -/]*|\][^\x07\x1b]*\x1b?|[()*+])?$")
_SILENT = {ord(letter): None for letter in "\r\0\a\b\x0e\x0f"}
_LONGEST_ESCAPE = 256
_SEND_SECONDS = 10.0


class SerialPort:
    """One line. `text` grows until the other end closes; waiting moves a mark, so that each word is waited for once."""

    def __init__(
        self,
        line: socket.socket,
        live: Callable[[str], None] | None = None,
        raw: Callable[[bytes], None] | None = None,
    ) -> None:
        """Read `line` from now on; `live` is given the text as it comes, `raw` every byte, both in another thread."""
        line.settimeout(_SEND_SECONDS)
        self._line = line
        self._live = live
        self._raw = raw
        self._decode = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._pieces: list[str] = []
        self._text = ""
        self._mark = 0
        self._closed = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="serial-port", daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """All it said so far."""
        with self._news:
            return self._whole()

    @property
    def closed(self) -> bool:
        """Whether the other end is gone."""
        with self._news:
            return self._closed

    def wait_for(self, pattern: str, timeout: float, *, unless: str | None = None) -> re.Match[str]:
        """Wait until `pattern` (a regular expression, `^` and `$` at lines) is said after what was waited for last.

        Args:
            timeout: seconds.
            unless: what must not be said before it; seeing it ends the waiting at once.

        Raises:
            LocalError: ConsoleTimeout, ConsoleClosed or ConsoleSaidOtherwise, each with the last lines.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        refused = re.compile(unless, re.MULTILINE) if unless else None
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                closed, text = self._closed, self._whole()
                found = wanted.search(text, self._mark)
                bad = refused.search(text, self._mark) if refused else None
                if bad and (not found or bad.start() < found.start()):
                    raise LocalError("ConsoleSaidOtherwise", said=bad.group(), pattern=pattern, tail=_tail(text))
                if found:
                    self._mark = found.end()
                    return found
                if closed:
                    raise LocalError("ConsoleClosed", pattern=pattern, tail=_tail(text))
                left = deadline - time.monotonic()
                if left <= 0:
                    raise LocalError("ConsoleTimeout", pattern=pattern, seconds=f"{timeout:g}", tail=_tail(text))
                self._news.wait(left)

    def send(self, text: str, *, end: str = "\r") -> None:
        """Type `text` and the Enter key.

        Raises:
            LocalError: ConsoleClosed; the other end is gone, or has taken nothing for ten seconds.
        """
        try:
            self._line.sendall((text + end).encode())
        except OSError as error:
            raise LocalError("ConsoleClosed", pattern=text, tail=_tail(self.text)) from error

    def close(self) -> None:
        """Hang up, and wait for the reader. Safe to repeat."""
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._reader:
            self._reader.join(5.0)
        self._line.close()

    def drain(self, timeout: float) -> None:
        """Wait, at most `timeout` seconds, until the other end has closed and all it said is read."""
        self._reader.join(timeout)

    def _whole(self) -> str:
        if self._pieces:
            self._text += "".join(self._pieces)
            self._pieces.clear()
        return self._text

    def _read(self) -> None:
        try:
            while data := self._receive():
                text = self._clean(self._decode.decode(data))
                with self._news:
                    self._pieces.append(text)
                    self._news.notify_all()
                self._show(data, text)
        finally:
            with self._news:
                self._closed = True
                self._news.notify_all()

    def _show(self, data: bytes, text: str) -> None:
        try:
            if self._raw:
                self._raw(data)
            if self._live and text:
                self._live(text)
        except OSError:  # whoever looked on has gone; the machine must not stall for that
            self._raw = self._live = None

    def _receive(self) -> bytes:
        while True:
            try:
                return self._line.recv(65536)
            except TimeoutError:  # a deadline is the waiters' affair
                continue
            except OSError:
                return b""

    def _clean(self, text: str) -> str:
        text = self._pending + text
        tail = _UNFINISHED.search(text)
        cut = tail.start() if tail and len(text) - tail.start() < _LONGEST_ESCAPE else len(text)
        self._pending = text[cut:]
        return _ESCAPE.sub("", text[:cut]).translate(_SILENT)


def _tail(text: str, lines: int = 8) -> str:
    return " / ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])[-800:] or "(nothing)"
