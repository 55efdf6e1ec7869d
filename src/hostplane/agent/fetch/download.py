"""One payload from one address, as a stream that goes on after dropped connections and never gives more than expected.

http, https (also with a client certificate) and file. A download goes on where it broke, by a range request; a server
that cannot do ranges is read again and the known part skipped. A server that sends nothing, too much or for ever costs
a bounded time and no memory. Whether the bytes are the right ones is the caller's business: it hashes them.
"""

import errno
import os
import threading
from typing import Iterator, NamedTuple, Optional
from urllib.parse import urlsplit

from hostplane.errors import HostError

from .access import Access, Credentials, Proxies, shown
from .pace import Limits, Pace

__all__ = ["Fetch", "Source"]

_CHUNK = 128 << 10


class Source(NamedTuple):
    """Where a payload is and how to reach it. The certificate fields are paths that were resolved already."""

    url: str
    plain_http: bool = True
    ca: str = ""
    cert: str = ""
    key: str = ""
    proxies: Proxies = Proxies()


class Fetch(object):
    """One download. `pieces` may be iterated once; `cancel` may be called from any thread and ends it at once.

    `size` is the exact number of bytes expected, or 0 where nobody knows; `room` bounds it either way.
    """

    def __init__(
        self,
        source: Source,
        size: int,
        room: int,
        limits: Limits,
        file_path: str = "",
        cancelled: Optional[threading.Event] = None,
    ) -> None:
        self._source, self._size, self._room, self._limits = source, size, room, limits
        self._file_path = file_path
        self._cancelled = cancelled or threading.Event()
        self.total = size

    def cancel(self) -> None:
        """End the download: the iteration raises Cancelled."""
        self._cancelled.set()

    def pieces(self, offset: int = 0) -> Iterator[bytes]:
        """The payload from `offset` bytes on.

        Raises:
            HostError: PayloadUnreachable, PayloadRefused, PayloadSizeMismatch, PayloadTruncated, PayloadTooLarge,
                PayloadSourceRefused. Cancelled.
        """
        pace = Pace(self._limits, self._cancelled)
        scheme = urlsplit(self._source.url).scheme
        if scheme == "file":
            return self._checked(self._local(offset, pace), offset, pace)
        if scheme not in ("http", "https"):
            detail = "only http, https and file are known"
            raise HostError("PayloadSourceRefused", url=shown(self._source.url), detail=detail)
        return self._checked(self._remote(offset, pace), offset, pace)

    def _checked(self, pieces: Iterator[bytes], offset: int, pace: Pace) -> Iterator[bytes]:
        at = offset
        for piece in pieces:
            at += len(piece)
            if self._size and at > self._size:
                raise HostError("PayloadSizeMismatch", got="more than %d" % self._size, want=self._size)
            if at > self._room:
                raise HostError("PayloadTooLarge", size="more than %d" % self._room, room=self._room)
            pace.check()
            yield piece
        pace.check()
        if self._size and at < self._size:
            raise HostError("PayloadTruncated", got=at, want=self._size)

    def _local(self, offset: int, pace: Pace) -> Iterator[bytes]:
        try:
            if not os.path.isfile(self._file_path):  # a pipe would be waited for
                raise OSError(errno.ENOENT, "no such regular file")
            with open(self._file_path, "rb", buffering=0) as handle:
                self._expect(os.fstat(handle.fileno()).st_size)
                handle.seek(offset)
                for piece in iter(lambda: handle.read(_CHUNK), b""):
                    pace.took(len(piece))
                    yield piece
        except OSError as fault:
            raise HostError("PayloadUnreachable", url=self._source.url, detail=fault.strerror) from fault

    def _expect(self, size: int) -> None:
        if self._size and size != self._size:
            raise HostError("PayloadSizeMismatch", got=size, want=self._size)
        if size > self._room:
            raise HostError("PayloadTooLarge", size=size, room=self._room)
        self.total = size

    def _remote(self, offset: int, pace: Pace) -> Iterator[bytes]:
        from .endpoint import Endpoint  # an agent at rest does without the network's modules
        from .remote import Remote
        from .transport import Transport, origin_of

        source = self._source
        own = Access(ca=source.ca, client_cert=source.cert, client_key=source.key)
        origin = origin_of(source.url)

        def access_of(host: str, port: int) -> Access:
            """KubeOS's cacert counts for whatever a redirect names; the client certificate for its own server only."""
            return own if (host, port) == origin[1:] else Access(ca=source.ca)

        transport = Transport(pace, source.proxies, access_of)
        try:
            endpoint = Endpoint(transport, source.url, source.plain_http, Credentials)
            for piece in Remote([endpoint], pace).spans("", self._size, [(offset, None)], expect=self._expect):
                yield piece
        finally:
            transport.close()
