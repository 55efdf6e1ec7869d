"""A root's tar from wherever KubeOS or a test keeps it, as a stream that is proven when it ends by itself.

    http(s)://... file:///...    the tar; the image's digest is its sha256
    oci://NAME                   a container image that holds /os.tar; the digest is the image's

Certificates that KubeOS names lie below /etc/KubeOS/certs and nowhere else.
"""

import hashlib
import threading
from typing import TYPE_CHECKING, Generator, Iterator, Optional

from hostplane.errors import HostError

from .download import Fetch, Source
from .pace import Limits, Pace
from .reader import Reader
from .reference import parse_reference

if TYPE_CHECKING:
    from ..hostroot import HostRoot
    from ..state import Image

__all__ = ["IN_IMAGE", "TarSource", "check_source", "file_of", "is_in_image", "limits_of", "source_of"]

IN_IMAGE = "os.tar"
"""The tar's name in a container image."""


def is_in_image(image: "Image") -> bool:
    """Whether the tar is a file of a container image, and the digest the image's and not the tar's."""
    return image.ref.startswith("oci://")


def limits_of(host: "HostRoot") -> Limits:
    """How long and how fast this host fetches."""
    config = host.config
    least, window = config.minimum_bytes_per_second, config.minimum_over_seconds
    return Limits(config.stall_seconds, config.fetch_attempts, config.bytes_per_second, least, window)


def source_of(host: "HostRoot", image: "Image") -> Source:
    """Where `image` is, its certificates found under the host's own directory for them.

    Raises:
        HostError: CertificateRefused for a name that leads out of it or to nothing.
    """
    from .site import host_proxies

    found = []
    for name in (image.ca, image.cert, image.key):
        if not name:
            found.append("")
            continue
        try:
            base = host.inside("/etc/KubeOS/certs")
            path = host.inside("/etc/KubeOS/certs/" + name)
            if not path.startswith(base + "/"):
                raise ValueError("it leads out of /etc/KubeOS/certs")
            with open(path, "rb"):
                found.append(path)
        except (ValueError, OSError) as fault:
            raise HostError("CertificateRefused", detail="%s: %s" % (name, fault)) from None
    ca, cert, key = found
    return Source(image.ref, image.plain_http, ca, cert, key, host_proxies(host))


def file_of(host: "HostRoot", image: "Image") -> str:
    """The path of a file:// tar on this host; empty for one that is elsewhere.

    Raises:
        HostError: PayloadSourceRefused.
    """
    if not image.ref.startswith("file:"):
        return ""
    try:
        return host.inside(image.ref[len("file://") :] if image.ref.startswith("file:///") else "")
    except ValueError as fault:
        raise HostError("PayloadSourceRefused", url=image.ref, detail=str(fault)) from None


def check_source(host: "HostRoot", image: "Image") -> None:
    """Refuse at once what could never be fetched.

    Raises:
        HostError: CertificateRefused, PayloadSourceRefused.
    """
    if is_in_image(image):
        parse_reference(image.ref)
        return
    source_of(host, image)
    file_of(host, image)


class TarSource(object):
    """One tar, read once from front to back. `total` is 0 while nobody knows the size."""

    def __init__(
        self, host: "HostRoot", image: "Image", room: int, cancelled: threading.Event, offset: int = 0
    ) -> None:
        """The tar may have `room` bytes. Who begins at an `offset` compares the digest himself, and can do so only with
        a tar that is not in an image. Raises as `check_source`.
        """
        self._host, self._image, self._room = host, image, room
        self._cancelled = cancelled
        self._fetch: Optional[Fetch] = None
        if not is_in_image(image):
            source = source_of(host, image)
            self._fetch = Fetch(source, image.size, room, limits_of(host), file_of(host, image), cancelled)
        self._pieces = self._from_image() if self._fetch is None else self._hashed(self._fetch, offset)
        self._reader = Reader(self._pieces)

    @property
    def total(self) -> int:
        """Bytes of the tar."""
        return self._fetch.total if self._fetch is not None else 0

    def pieces(self) -> Iterator[bytes]:
        """The tar; it is the image's when this ends by itself.

        Raises:
            HostError: PayloadDigestMismatch, PayloadTooLarge, ContainerImageUnfit, and why it could not be read.
            Cancelled.
        """
        return self._pieces

    def read(self, size: int = -1) -> bytes:
        """The same like a file: fewer than `size` bytes only at the end, which is then proven. Raises as `pieces`."""
        return self._reader.read(size)

    def close(self) -> None:
        """Let go of every connection. Safe to repeat; not from another thread (that one sets `cancelled`)."""
        self._pieces.close()

    def _hashed(self, fetch: Fetch, offset: int) -> Generator[bytes, None, None]:
        sha256 = hashlib.sha256()
        for piece in fetch.pieces(offset):
            sha256.update(piece)
            yield piece
        got = "sha256:" + sha256.hexdigest()
        if not offset and got != self._image.digest:
            raise HostError("PayloadDigestMismatch", got=got, want=self._image.digest)

    def _from_image(self) -> Generator[bytes, None, None]:
        from .certsd import CLIENT_CONFIG, engine_access  # an agent at rest does without the network's modules
        from .container import file_of_image
        from .remote import Remote
        from .site import Site

        ref, pace = parse_reference(self._image.ref), Pace(limits_of(self._host), self._cancelled)
        site = Site(self._host, pace, engine_access(self._host, ref.place), CLIENT_CONFIG)
        at = 0
        try:
            for piece in file_of_image(Remote(site.registry(ref), pace), ref, self._image.digest, IN_IMAGE):
                at += len(piece)
                if at > self._room:
                    raise HostError("PayloadTooLarge", size="more than %d" % self._room, room=self._room)
                pace.check()
                yield piece
        finally:
            site.transport.close()
