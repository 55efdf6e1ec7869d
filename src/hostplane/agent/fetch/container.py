"""One file out of a container image, as a stream, straight from the registry and with no container engine.

The image is known by the digest of what its name leads to (the one that engines list as its repository digest); from
there every document and every layer is compared with its digest. Layers are read from the top; the file is given out
as it comes, and it is proven when the stream ends by itself. Nothing is kept on a disk.
"""

import hashlib
import platform
import tarfile
import zlib
from typing import Any, Iterator, List, NamedTuple

from hostplane.agent.bundle.limits import MAX_MANIFEST
from hostplane.agent.bundle.manifest import MEDIA_INDEX, MEDIA_MANIFEST
from hostplane.agent.bundle.strict import Fields, parse_object
from hostplane.agent.tarheader import StrictInfo
from hostplane.errors import HostError

from .reader import Reader
from .reference import Reference
from .remote import Remote

__all__ = ["Member", "file_of_image", "find"]

_INDEXES = (MEDIA_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = (MEDIA_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
_ACCEPT = {"Accept": ", ".join(_INDEXES + _MANIFESTS)}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "loongarch64": "loong64"}
_MOST_LAYERS, _MOST_PLATFORMS = 256, 64
_LARGEST_LAYER = 64 << 30
_PIECE = 256 << 10


class _Layer(NamedTuple):
    digest: str
    size: int


def file_of_image(remote: Remote, ref: Reference, digest: str, name: str) -> Iterator[bytes]:
    """The content of the file `name` (in the image's root directory), proven when this ends by itself.

    Raises:
        HostError: PayloadDigestMismatch when the name leads to another digest, ContainerImageUnfit, BundleInvalid,
            and why it could not be read. Cancelled.
    """
    where = "%s/%s" % (ref.place, ref.repository)
    raw = _document(remote, "manifests/" + (ref.digest or ref.tag or "latest"))
    got = "sha256:" + hashlib.sha256(raw).hexdigest()
    if got != digest:
        raise HostError("PayloadDigestMismatch", got=got, want=digest)
    fields = parse_object("container image", raw)
    if "manifests" in fields.values:
        chosen = _of_this_machine(fields, where)
        raw = _document(remote, "manifests/" + chosen)
        got = "sha256:" + hashlib.sha256(raw).hexdigest()
        if got != chosen:
            raise HostError("PayloadDigestMismatch", got=got, want=chosen)
        fields = parse_object("container image", raw)
    for layer in reversed(_layers(fields)):
        member = find(_checked(remote, layer), name, where)
        for piece in member.pieces():
            yield piece
        if member.is_found:
            return
        if member.is_removed:
            break
    raise HostError("ContainerImageUnfit", image=where, detail="it holds no file /%s" % name)


def find(layer: Iterator[bytes], name: str, where: str) -> "Member":
    """The search for the file `name` of a layer, which is read to its end by it; `where` names the image in errors."""
    return Member(_unpacked(layer, where), name, where)


def _document(remote: Remote, path: str) -> bytes:
    raw = remote.document(path, MAX_MANIFEST, _ACCEPT)
    if len(raw) > MAX_MANIFEST:
        raise HostError(
            "BundleTooLarge", part="container image", size="more than %d" % MAX_MANIFEST, limit=MAX_MANIFEST
        )
    return raw


def _of_this_machine(fields: Fields, where: str) -> str:
    machine = platform.machine()
    wanted = _ARCHITECTURES.get(machine, machine)
    for entry in fields.objects("manifests", _MOST_PLATFORMS):
        about = entry.optional_object("platform")
        if about is not None and about.values.get("architecture") == wanted and about.values.get("os") == "linux":
            return entry.digest("digest")
    raise HostError("ContainerImageUnfit", image=where, detail="it has none for linux on %s" % wanted)


def _layers(fields: Fields) -> List[_Layer]:
    found = fields.objects("layers", _MOST_LAYERS)
    return [_Layer(layer.digest("digest"), layer.number("size", 0, _LARGEST_LAYER)) for layer in found]


def _checked(remote: Remote, layer: _Layer) -> Iterator[bytes]:
    sha256 = hashlib.sha256()
    for piece in remote.spans("blobs/" + layer.digest, layer.size, [(0, layer.size)]):
        sha256.update(piece)
        yield piece
    got = "sha256:" + sha256.hexdigest()
    if got != layer.digest:
        raise HostError("PayloadDigestMismatch", got=got, want=layer.digest)


def _unpacked(pieces: Iterator[bytes], where: str) -> Iterator[bytes]:
    """The tar of a layer, gzip taken off, in pieces of bounded size."""
    first = next(pieces, b"")
    while 0 < len(first) < 4:
        more = next(pieces, b"")
        if not more:
            break
        first += more
    if first.startswith(b"\x28\xb5\x2f\xfd"):
        raise HostError("ContainerImageUnfit", image=where, detail="a layer is packed with zstd; only gzip is known")
    if not first.startswith(b"\x1f\x8b"):
        yield first
        for piece in pieces:
            yield piece
        return
    unpacker, piece = zlib.decompressobj(31), first
    try:
        while piece:
            while piece:
                content = unpacker.decompress(piece, _PIECE)
                if content:
                    yield content
                piece = unpacker.unconsumed_tail
                if unpacker.eof:
                    piece = unpacker.unused_data
                    if piece.strip(b"\0"):
                        unpacker = zlib.decompressobj(31)  # several gzip streams one after the other are one
                    else:
                        piece = b""
            piece = next(pieces, b"")
        if not unpacker.eof:
            raise HostError("ContainerImageUnfit", image=where, detail="a layer ends too early")
    except zlib.error as fault:
        raise HostError("ContainerImageUnfit", image=where, detail="a layer is damaged: %s" % fault) from None


class Member(object):
    """Looks for one file of a layer's tar while reading it to its end."""

    def __init__(self, pieces: Iterator[bytes], name: str, where: str) -> None:
        self._pieces, self._name, self._where = pieces, name, where
        self.is_found = self.is_removed = False

    def pieces(self) -> Iterator[bytes]:
        reader: Any = Reader(self._pieces)
        try:
            with tarfile.open(fileobj=reader, mode="r|", tarinfo=StrictInfo, errors="surrogateescape") as archive:
                for member in iter(archive.next, None):
                    setattr(archive, "members", [])  # noqa: B010 - else it remembers every one
                    getattr(archive, "pax_headers").clear()  # noqa: B009 - nor what counts for every one
                    for piece in self._look(archive, member):
                        yield piece
        except (tarfile.TarError, ValueError, EOFError, RecursionError) as fault:
            detail = "a layer is no tar: %s" % fault
            raise HostError("ContainerImageUnfit", image=self._where, detail=detail) from None
        for _ in self._pieces:  # to the end, which is what proves it
            pass

    def _look(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
        name = member.name[2:] if member.name.startswith("./") else member.name.lstrip("/")
        if name in (".wh." + self._name, ".wh..wh..opq"):
            self.is_removed = True
        if name != self._name:
            return
        source = archive.extractfile(member) if member.isreg() else None
        if source is None or self.is_found:
            raise ValueError("/%s is there twice, or no regular file" % name)
        self.is_found = True
        for piece in iter(lambda: source.read(_PIECE), b""):
            yield piece
