"""Where one message ends: a line for our protocol, a closed JSON object for KubeOS's; both bounded in size and time.

A peer may send slowly, for ever, or far too much; none of it is ever buffered beyond the limit, and one slow peer
costs one thread until its deadline, not the agent. Nothing here looks inside a message.
"""

import re
import socket
import time
from typing import Optional

from hostplane.errors import HostError

__all__ = ["LineReader", "ObjectReader", "discard", "send"]

_CHUNK = 64 << 10
_STRUCTURE = re.compile(rb'["\\{}\[\]]')


class _Reader(object):
    """Collects bytes of one connection; `seconds` is the time a message may take from its first byte to its last."""

    def __init__(self, sock: socket.socket, limit: int, seconds: float) -> None:
        self._sock = sock
        self._limit = limit
        self._seconds = seconds
        self._buffer = bytearray()

    def _end(self) -> int:
        """Length of the first complete message in the buffer, -1 while there is none."""
        raise NotImplementedError

    def read(self, first_byte_seconds: Optional[float] = None) -> Optional[bytes]:
        """The next message; None when the peer has closed, or said nothing for `first_byte_seconds`.

        Raises:
            HostError: RequestTooLarge, RequestSlow; after either the connection is of no more use.
        """
        deadline = None if not self._buffer else time.monotonic() + self._seconds
        while True:
            end = self._end()
            if end > self._limit or (end < 0 and len(self._buffer) >= self._limit):
                self._buffer.clear()
                raise HostError("RequestTooLarge", limit=self._limit)
            if end >= 0:
                message = bytes(self._buffer[:end])
                del self._buffer[:end]
                return message
            wait = first_byte_seconds if deadline is None else deadline - time.monotonic()
            if wait is not None and wait <= 0:
                raise HostError("RequestSlow", seconds=self._seconds)
            self._sock.settimeout(wait)
            try:
                piece = self._sock.recv(min(_CHUNK, self._limit + 1 - len(self._buffer)))
            except socket.timeout:
                if deadline is None:
                    return None
                raise HostError("RequestSlow", seconds=self._seconds) from None
            except OSError:
                return None
            if not piece:
                return None
            self._buffer += piece
            if deadline is None:
                deadline = time.monotonic() + self._seconds


class LineReader(_Reader):
    """Messages that end with a line feed."""

    _seen = 0

    def _end(self) -> int:
        found = self._buffer.find(b"\n", self._seen)
        self._seen = 0 if found >= 0 else len(self._buffer)
        return found + 1 if found >= 0 else -1


class ObjectReader(_Reader):
    """Messages that end where their JSON object does; the peer sends no line feed and keeps its side open.

    Each byte is looked at once, however many pieces it arrives in. What does not begin with a brace or bracket is
    handed over as it is, for the parser to refuse.
    """

    _seen = 0
    _depth = 0
    _in_string = False

    def _end(self) -> int:
        buffer = self._buffer
        if not self._depth:
            start = len(buffer) - len(buffer.lstrip())
            if start == len(buffer):
                return -1
            if buffer[start] not in b"{[":
                return len(buffer)
            self._seen = start
        while True:
            found = _STRUCTURE.search(buffer, self._seen)
            if found is None:
                self._seen = len(buffer)
                return -1
            at, mark = found.start(), found.group()
            if mark == b"\\":
                if at + 1 == len(buffer):
                    self._seen = at
                    return -1
                self._seen = at + 2
                continue
            self._seen = at + 1
            if mark == b'"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if mark in (b"{", b"[") else -1
                if self._depth == 0:
                    self._seen = 0
                    return at + 1


def send(sock: socket.socket, message: bytes, seconds: float) -> bool:
    """Whether all of `message` was taken within `seconds`; a dead or stuck peer gives False, never an exception."""
    deadline = time.monotonic() + seconds
    view = memoryview(message)
    try:
        while view:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            view = view[sock.send(view) :]
            if view and time.monotonic() >= deadline:
                return False
    except OSError:
        return False
    return True


def discard(sock: socket.socket, seconds: float) -> None:
    """Read and drop what a refused peer still sends, for at most `seconds`, so that it gets to read the answer."""
    deadline = time.monotonic() + seconds
    scratch = bytearray(_CHUNK)
    try:
        sock.shutdown(socket.SHUT_WR)
        while True:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            if not sock.recv_into(scratch) or time.monotonic() >= deadline:
                return
    except OSError:
        return
