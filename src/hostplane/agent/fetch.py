"""Bytes from a URL, as a stream that survives dropped connections and never gives more than it was told to expect.

http, https (also with a client certificate) and file. A download goes on where it broke, by a range request; a server
that cannot do ranges is read again and the known part skipped. A server that sends nothing, too much or for ever costs
a bounded time and no memory. Whether the bytes are the right ones is the caller's business: it hashes them.

The network's modules are imported only when a download begins: an agent at rest does without them.
"""

import errno
import os
import threading
import time
from typing import Any, Iterator, NamedTuple, Optional, Tuple
from urllib.parse import urljoin, urlsplit

from hostplane.errors import HostError

__all__ = ["Cancelled", "Fetch", "Limits", "Source"]

_CHUNK = 128 << 10
_REDIRECTS = 5
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_SLOWEST = 1024  # bytes per stall time: less is a stall, however often a byte drips


class Source(NamedTuple):
    """Where a payload is and how to reach it. The certificate fields are paths that were resolved already."""

    url: str
    plain_http: bool = True
    ca: str = ""
    cert: str = ""
    key: str = ""


class Limits(NamedTuple):
    """How long and how fast."""

    stall_seconds: float = 30.0
    attempts: int = 5
    bytes_per_second: int = 0
    back_off_seconds: float = 1.0


class Cancelled(Exception):
    """The caller wants no more of it."""


class _DroppedError(Exception):
    """The connection ended before the body did; going on is worth a try."""


class Fetch(object):
    """One download. `pieces` may be iterated once; `cancel` may be called from any thread and ends it at once.

    `size` is the exact number of bytes expected, or 0 where nobody knows; `room` bounds it either way.
    """

    def __init__(self, source: Source, size: int, room: int, limits: Limits, file_path: str = "") -> None:
        self._source, self._size, self._room, self._limits = source, size, room, limits
        self._file_path = file_path
        self._cancelled = threading.Event()
        self._connection: Any = None
        self._sock: Any = None  # the connection lets go of it once the answer began
        self.total = size

    def cancel(self) -> None:
        """End the download: the iteration raises Cancelled."""
        self._cancelled.set()
        sock = self._sock
        if sock is not None:
            try:
                sock.shutdown(2)
            except OSError:
                pass

    def pieces(self, offset: int = 0) -> Iterator[bytes]:
        """The payload from `offset` bytes on.

        Raises:
            HostError: PayloadUnreachable, PayloadRefused, PayloadSizeMismatch, PayloadTruncated, PayloadTooLarge,
                PayloadSourceRefused. Cancelled.
        """
        scheme = urlsplit(self._source.url).scheme
        if scheme == "file":
            return self._paced(self._local(offset), offset)
        if scheme not in ("http", "https"):
            raise HostError("PayloadSourceRefused", url=self._source.url, detail="only http, https and file are known")
        return self._paced(self._resumed(offset), offset)

    def _paced(self, pieces: Iterator[bytes], offset: int) -> Iterator[bytes]:
        """Checks size and cancellation on every piece and holds the rate."""
        began, got, rate = time.monotonic(), 0, self._limits.bytes_per_second
        for piece in pieces:
            got += len(piece)
            if self._size and offset + got > self._size:
                raise HostError("PayloadSizeMismatch", got="more than %d" % self._size, want=self._size)
            if offset + got > self._room:
                raise HostError("PayloadTooLarge", size="more than %d" % self._room, room=self._room)
            if rate and self._cancelled.wait(max(0.0, began + got / rate - time.monotonic())):
                raise Cancelled()
            if self._cancelled.is_set():
                raise Cancelled()
            yield piece
        if self._cancelled.is_set():
            raise Cancelled()
        if self._size and offset + got < self._size:
            raise HostError("PayloadTruncated", got=offset + got, want=self._size)

    def _local(self, offset: int) -> Iterator[bytes]:
        try:
            if not os.path.isfile(self._file_path):  # a pipe would be waited for
                raise OSError(errno.ENOENT, "no such regular file")
            with open(self._file_path, "rb", buffering=0) as handle:
                self._expect(os.fstat(handle.fileno()).st_size)
                handle.seek(offset)
                for piece in iter(lambda: handle.read(_CHUNK), b""):
                    yield piece
        except OSError as fault:
            raise HostError("PayloadUnreachable", url=self._source.url, detail=fault.strerror) from fault

    def _expect(self, size: int) -> None:
        if self._size and size != self._size:
            raise HostError("PayloadSizeMismatch", got=size, want=self._size)
        if size > self._room:
            raise HostError("PayloadTooLarge", size=size, room=self._room)
        self.total = size

    def _resumed(self, offset: int) -> Iterator[bytes]:
        import http.client

        failures, pause = 0, self._limits.back_off_seconds
        while True:
            began = offset
            try:
                for piece in self._once(offset):
                    offset += len(piece)
                    yield piece
                return
            except (OSError, http.client.HTTPException, ValueError, _DroppedError) as fault:
                if self._cancelled.is_set():
                    raise Cancelled() from None
                failures = 1 if offset > began else failures + 1
                detail = str(fault) or type(fault).__name__
            finally:
                if self._connection is not None:
                    self._connection.close()
            if failures >= self._limits.attempts:
                if offset:
                    raise HostError("PayloadTruncated", got=offset, want=self.total or "unknown")
                raise HostError("PayloadUnreachable", url=self._source.url, detail=detail[:200])
            if self._cancelled.wait(min(30.0, pause * 2 ** (failures - 1))):
                raise Cancelled()

    def _once(self, offset: int) -> Iterator[bytes]:
        """One request's worth; raises _DroppedError when the body ends early."""
        response, skip, length = self._open(offset)
        left = length
        window_began, window_bytes = time.monotonic(), 0
        while left is None or left > 0:
            piece = response.read1(_CHUNK if left is None else min(_CHUNK, left))
            if not piece:
                if left is None and (not self.total or offset == self.total):
                    return
                raise _DroppedError("the connection was closed early")
            if left is not None:
                left -= len(piece)
            window_bytes += len(piece)
            elapsed = time.monotonic() - window_began
            if elapsed >= self._limits.stall_seconds:
                if window_bytes < _SLOWEST:
                    raise _DroppedError("almost nothing came for %g seconds" % elapsed)
                window_began, window_bytes = time.monotonic(), 0
            if skip:
                dropped = min(skip, len(piece))
                skip, piece = skip - dropped, piece[dropped:]
            if piece:
                offset += len(piece)
                yield piece

    def _open(self, offset: int) -> Tuple[Any, int, Optional[int]]:
        """(response, bytes to skip, bytes of body or None)."""
        url = self._source.url
        for _ in range(_REDIRECTS + 1):
            response = self._request(url, offset)
            location = response.getheader("Location")
            if response.status in (301, 302, 303, 307, 308) and location:
                before, url = urlsplit(url).scheme, urljoin(url, location)
                if urlsplit(url).scheme != "https" and (before == "https" or not self._source.plain_http):
                    raise HostError("PayloadSourceRefused", url=url, detail="a redirect gives up encryption")
                continue
            break
        else:
            raise HostError("PayloadSourceRefused", url=url, detail="too many redirects")
        if response.status in _RETRIED:
            raise _DroppedError("HTTP %d" % response.status)
        if response.status not in (200, 206) or (response.status == 206 and not offset):
            raise HostError("PayloadRefused", url=url, status=response.status)
        length = response.getheader("Content-Length")
        body = int(length) if length is not None and not response.chunked else None
        is_partial = response.status == 206
        if is_partial and not (response.getheader("Content-Range") or "").startswith("bytes %d-" % offset):
            raise HostError("PayloadRefused", url=url, status="206 with another range")
        if body is not None:
            if body < 0:
                raise HostError("PayloadRefused", url=url, status="a negative length")
            self._expect(body + (offset if is_partial else 0))
        return response, 0 if is_partial else offset, body

    def _request(self, url: str, offset: int) -> Any:
        import http.client

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise HostError("PayloadSourceRefused", url=url, detail="only http and https addresses can be followed")
        if parts.scheme == "http" and not self._source.plain_http:
            raise HostError("PayloadSourceRefused", url=url, detail="plain http was not allowed (flagSafe)")
        if self._connection is not None:
            self._connection.close()
        timeout = self._limits.stall_seconds
        if parts.scheme == "https":
            context = self._tls()
            self._connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=context)
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
        target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        headers = {"Accept-Encoding": "identity", "User-Agent": "hostplane-agent", "Connection": "close"}
        if offset:
            headers["Range"] = "bytes=%d-" % offset
        self._connection.request("GET", target, headers=headers)
        self._sock = self._connection.sock
        if self._cancelled.is_set():
            raise Cancelled()
        return self._connection.getresponse()

    def _tls(self) -> Any:
        import ssl

        try:
            context = ssl.create_default_context(cafile=self._source.ca or None)
            if self._source.cert:
                context.load_cert_chain(self._source.cert, self._source.key)
        except (OSError, ssl.SSLError) as fault:
            raise HostError("CertificateRefused", detail=str(fault)) from fault
        return context
