"""A bundle's parts by their digests, wherever the bundle lies: a registry, a web server's directory, a directory here.

The manifest and whole blobs are compared with digest and size before, or as, they end; the bytes of ranges are not:
the hashes of frames tell. The lists of signatures are only looked for: anybody can add one, so one that makes no sense
is passed over, and none of them is believed here.
"""

import hashlib
import logging
import os
import stat
import threading
from collections import deque
from typing import TYPE_CHECKING, Deque, Iterable, Iterator, List, NamedTuple, Sequence, Set, Tuple

from hostplane.agent.bundle.limits import MAX_JSON, MAX_MANIFEST
from hostplane.agent.bundle.manifest import (
    MEDIA_INDEX,
    MEDIA_MANIFEST,
    TYPE_SIGNATURES,
    Descriptor,
    artifact_type_of,
    check_blob,
    parse_index,
    parse_signature_manifest,
)
from hostplane.errors import HostError

from .pace import MissingError, Pace
from .reference import Reference, parse_reference
from .tarball import limits_of

if TYPE_CHECKING:
    from ..hostroot import HostRoot
    from ..state import Image
    from .remote import Remote
    from .transport import Transport

__all__ = ["BundleSource", "coalesced", "open_bundle"]

_log = logging.getLogger("hostplane.agent")
_PIECE = 128 << 10
_GAP = 16 << 10  # bytes that are cheaper to read and drop than to ask around
_MOST_MANIFESTS = 64  # looked at in search of signatures
_ACCEPT = {"Accept": ", ".join((MEDIA_MANIFEST, MEDIA_INDEX))}

Ranges = Sequence[Tuple[int, int]]


class Span(NamedTuple):
    """Bytes that are asked for together: the first, and the one after the last."""

    start: int
    end: int


def coalesced(ranges: Ranges, size: int, gap: int = _GAP) -> Iterator[Span]:
    """The spans that cover `ranges` of (offset, length), those nearer than `gap` to each other in one.

    Raises:
        ValueError: they are not ascending, disjoint and inside of `size` bytes.
    """
    start = end = -1
    for offset, length in ranges:
        if offset < end or length < 1 or offset + length > size:
            raise ValueError("ranges must be ascending, disjoint and inside of %d bytes" % size)
        if end >= 0 and offset - end > gap:
            yield Span(start, end)
            start = -1
        start, end = offset if start < 0 else start, offset + length
    if end >= 0:
        yield Span(start, end)


class BundleSource(object):
    """One bundle, by the digest of its manifest. Methods are called from one thread; `close` may be called from any."""

    def __init__(self, digest: str, pace: Pace) -> None:
        self._digest, self._pace = digest, pace

    @property
    def received(self) -> int:
        """Bytes that came over the network so far, all headers included."""
        return self._pace.received

    def manifest(self) -> bytes:
        """The manifest, which is the one of the digest.

        Raises:
            HostError: BundleDigestMismatch, BundleTooLarge, and why it could not be read. Cancelled.
        """
        return self._manifest(self._digest)

    def signatures(self) -> List[bytes]:
        """Every list of signatures that names this bundle, unverified; none where there is none.

        Raises:
            HostError: why they could not be looked for. Cancelled.
        """
        seen: Set[str] = {self._digest}
        found: List[bytes] = []
        for listing in self._listings():
            self._search(listing, seen, found, is_top=True)
        return found

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The whole blob in pieces; digest and size hold when it ends.

        Raises:
            HostError: BundleDigestMismatch, and why it could not be read. Cancelled.
        """
        sha256 = hashlib.sha256()
        for piece in self._spans(descriptor.digest, descriptor.size, [Span(0, descriptor.size)]):
            sha256.update(piece)
            yield piece
        got = "sha256:" + sha256.hexdigest()
        if got != descriptor.digest:
            self.distrust()
            raise HostError("BundleDigestMismatch", part=descriptor.media_type, got=got, want=descriptor.digest)

    def ranges(self, descriptor: Descriptor, ranges: Ranges) -> Iterator[bytes]:
        """The bytes of `ranges` (offset, length), ascending and disjoint, one after the other; nothing is compared.

        Raises:
            HostError: why they could not be read. ValueError for ranges that are none. Cancelled.
        """
        asked: Deque[Span] = deque()  # there may be a quarter of a million

        def spans() -> Iterator[Span]:
            for span in coalesced(ranges, descriptor.size):
                asked.append(span)
                yield span

        at = wanted = 0
        for piece in self._spans(descriptor.digest, descriptor.size, spans()):
            if at >= asked[0].end:
                asked.popleft()
            begin = max(at, asked[0].start)
            at = begin + len(piece)
            while wanted < len(ranges) and ranges[wanted][0] < at:
                start, end = ranges[wanted][0], sum(ranges[wanted])
                yield piece[max(0, start - begin) : end - begin]
                if end > at:
                    break
                wanted += 1

    def distrust(self) -> None:
        """What was read last proved wrong: read from elsewhere, and whole, where there is an elsewhere."""

    def close(self) -> None:
        """Let go of every connection. Safe to repeat."""

    # --- what each kind of place does in its own way

    def _spans(self, digest: str, size: int, spans: Iterable[Span]) -> Iterator[bytes]:
        """The bytes of `spans` of a blob; no piece goes over the end of a span."""
        raise NotImplementedError

    def _document(self, digest: str) -> bytes:
        """A manifest or index, unchecked; at most one byte more than a manifest may have. Raises MissingError."""
        raise NotImplementedError

    def _listings(self) -> Iterator[bytes]:
        """Indexes that may name signatures."""
        raise NotImplementedError

    # --- shared

    def _manifest(self, digest: str) -> bytes:
        raw = self._document(digest)
        if len(raw) > MAX_JSON:
            raise HostError("BundleTooLarge", part="manifest", size="more than %d" % MAX_JSON, limit=MAX_JSON)
        try:
            return check_blob("manifest", raw, len(raw), digest)
        except HostError:
            self.distrust()
            raise

    def _search(self, listing: bytes, seen: Set[str], found: List[bytes], is_top: bool) -> None:
        """Adds the lists of signatures below an index to `found`."""
        try:
            entries = parse_index(listing, "index")
        except HostError as fault:
            _log.info("an index is passed over: %s", fault)
            return
        for entry in entries:
            if entry.digest in seen or entry.artifact_type not in ("", TYPE_SIGNATURES):
                continue
            if len(seen) > _MOST_MANIFESTS:
                _log.warning("not every manifest was searched for signatures: there are too many")
                return
            seen.add(entry.digest)
            try:
                body = self._manifest(entry.digest)
                if entry.media_type == MEDIA_INDEX:
                    if is_top:
                        self._search(body, seen, found, is_top=False)
                elif artifact_type_of(body) == TYPE_SIGNATURES:
                    subject, blob, _ = parse_signature_manifest(body)
                    if subject == self._digest:
                        found.append(b"".join(self.blob(blob)))
            except HostError as fault:
                if not isinstance(fault, MissingError) and not fault.name.startswith("Bundle"):
                    raise
                _log.info("a manifest is passed over in search of signatures: %s", fault)


class _FileSource(BundleSource):
    """A layout on this host."""

    def __init__(self, digest: str, pace: Pace, host: "HostRoot", directory: str) -> None:
        super().__init__(digest, pace)
        self._host, self._directory = host, directory

    def _spans(self, digest: str, size: int, spans: Iterable[Span]) -> Iterator[bytes]:
        with self._open("blobs/sha256/" + digest.partition(":")[2]) as handle:
            held = os.fstat(handle.fileno()).st_size
            if held != size:
                raise HostError("PayloadSizeMismatch", got=held, want=size)
            for start, end in spans:
                handle.seek(start)
                while start < end:
                    self._pace.check()
                    piece = handle.read(min(_PIECE, end - start))
                    if not piece:
                        raise HostError("PayloadTruncated", got=start, want=size)
                    start += len(piece)
                    yield piece

    def _document(self, digest: str) -> bytes:
        return self._read("blobs/sha256/" + digest.partition(":")[2])

    def _listings(self) -> Iterator[bytes]:
        yield self._read("index.json")

    def _read(self, name: str) -> bytes:
        with self._open(name) as handle:
            found: bytes = handle.read(MAX_MANIFEST + 1)
            return found

    def _open(self, name: str):  # type: ignore[no-untyped-def]  # an unbuffered file; its type has a name since 3.8 only
        path = self._directory + "/" + name
        try:
            descriptor = os.open(self._host.inside(path), os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for
            handle = os.fdopen(descriptor, "rb", 0)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return handle
            handle.close()
            raise ValueError("not a regular file")
        except FileNotFoundError:
            raise MissingError("PayloadUnreachable", url="file://" + path, detail="there is no such file") from None
        except OSError as fault:
            raise HostError("PayloadUnreachable", url="file://" + path, detail=fault.strerror) from None
        except ValueError as fault:
            raise HostError("PayloadSourceRefused", url="file://" + path, detail=str(fault)) from None


class _RemoteSource(BundleSource):
    """A layout that a web server gives out as files."""

    _BLOBS = _MANIFESTS = "blobs/sha256/%s"

    def __init__(self, digest: str, pace: Pace, transport: "Transport", remote: "Remote", ref: Reference) -> None:
        super().__init__(digest, pace)
        self._transport, self._remote, self._ref = transport, remote, ref

    def distrust(self) -> None:
        self._remote.distrust()

    def close(self) -> None:
        self._transport.close()

    def _spans(self, digest: str, size: int, spans: Iterable[Span]) -> Iterator[bytes]:
        return self._remote.spans(self._BLOBS % _named(self._BLOBS, digest), size, spans)

    def _document(self, digest: str) -> bytes:
        return self._get(self._MANIFESTS % _named(self._MANIFESTS, digest))

    def _get(self, path: str) -> bytes:
        return self._remote.document(path, MAX_MANIFEST, _ACCEPT)

    def _listings(self) -> Iterator[bytes]:
        yield self._get("index.json")


def _named(place: str, digest: str) -> str:
    return digest.partition(":")[2] if "sha256/" in place else digest


class _RegistrySource(_RemoteSource):
    """A repository of a registry. Signatures: its referrers, what the address names by tag or digest, the tag that
    stands in for referrers where a registry has none."""

    _BLOBS, _MANIFESTS = "blobs/%s", "manifests/%s"

    def _listings(self) -> Iterator[bytes]:
        paths = ["referrers/%s?artifactType=%s" % (self._digest, TYPE_SIGNATURES.replace("+", "%2B"))]
        named = self._ref.digest if self._ref.digest != self._digest else ""
        paths += ["manifests/" + name for name in (named, self._ref.tag) if name]
        paths.append("manifests/" + self._digest.replace(":", "-"))
        for path in paths:
            try:
                yield self._get(path)
            except MissingError:
                continue


def open_bundle(host: "HostRoot", image: "Image", cancelled: threading.Event) -> BundleSource:
    """The bundle that `image` names; nothing is asked of the network yet.

    Raises:
        HostError: PayloadSourceRefused for an address that makes no sense.
    """
    pace = Pace(limits_of(host), cancelled)
    ref = parse_reference(image.ref)
    if ref.kind == "file":
        return _FileSource(image.digest, pace, host, ref.place)
    from .remote import Remote  # an agent at rest does without the network's modules
    from .site import Site

    site = Site(host, pace)
    if ref.kind == "web":
        return _RemoteSource(image.digest, pace, site.transport, Remote(site.web(ref.place), pace), ref)
    return _RegistrySource(image.digest, pace, site.transport, Remote(site.registry(ref), pace), ref)
