"""One TCP or TLS connection that gives up on a peer that sends almost nothing, and at once when nobody wants the rest.

It is what http.client is handed in place of a socket. Only the time spent waiting for the peer counts as a stall: a
reader that is slow (a busy disk, a rate limit) is not the peer's fault.
"""

import io
import socket
import time
from typing import Any

from .pace import DroppedError, Pace

__all__ = ["Wire"]

_POLL_SECONDS = 0.25
_BUFFER = 64 << 10
_SLOWEST = 1024  # bytes per stall time: less is a stall, however often a byte drips


class Wire(object):
    """`sock` is connected to `place`, through a proxy and TLS where there are any."""

    def __init__(self, sock: Any, pace: Pace, place: str) -> None:
        self.sock = sock
        self._pace, self._place = pace, place
        self._waited, self._came, self._silent = 0.0, 0, 0.0

    def sendall(self, data: Any) -> None:
        """Send a request, which is small. Raises OSError."""
        self._waited, self._came, self._silent = 0.0, 0, 0.0
        self.sock.settimeout(self._pace.limits.stall_seconds)
        self.sock.sendall(data)

    def makefile(self, *_: Any) -> io.BufferedReader:
        """What http.client reads an answer from."""
        return io.BufferedReader(_Incoming(self), _BUFFER)

    def close(self) -> None:
        """http.client lets go of it while the answer is still being read: only `shut` ends it."""

    def shut(self) -> None:
        """End the connection."""
        self.sock.close()

    def receive_into(self, buffer: Any) -> int:
        """Bytes put into `buffer`, 0 at the end.

        Raises:
            DroppedError for a stall, HostError PayloadTooSlow, OSError, Cancelled.
        """
        stall = self._pace.limits.stall_seconds
        self.sock.settimeout(min(_POLL_SECONDS, stall))
        while True:
            self._pace.check()
            began = time.monotonic()
            try:
                count = self.sock.recv_into(buffer)
            except socket.timeout:
                count = -1
            waited = time.monotonic() - began
            self._waited, self._silent = self._waited + waited, self._silent + waited
            if count >= 0:
                self._came += count
                self._pace.took(count)
            if count > 0:  # a server that is silent from the start is not slow but away
                silent, self._silent = self._silent, 0.0
                self._pace.waited(silent, count, self._place)
            if self._waited >= stall:
                if self._came < _SLOWEST and count:
                    if self._came:
                        self._pace.waited(self._silent)
                    raise DroppedError("almost nothing came for %g seconds" % self._waited)
                self._waited, self._came = 0.0, 0
            if count >= 0:
                return int(count)


class _Incoming(io.RawIOBase):
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.receive_into(buffer)
