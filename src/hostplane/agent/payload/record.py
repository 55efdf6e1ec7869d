"""What a slot holds, as it was when it was staged: var/lib/hostplane/slots/A and B.

    manifest.json metadata.json signatures.json    the bundle's own documents, so that it can be judged again offline
    boot.index root.index                          its block indexes: what the next upgrade is compared with
    boot.scan root.scan                            in their place, where a slot came to its image without a bundle

The directory is made beside its place, as SLOT.new, and renamed when all of it is on the medium; it is taken away
before the slot's first byte is written. So it may be missing, which costs one reading of the slot, and is never of
another image. An index that does not have the digest its manifest names is passed over.
"""

import base64
import hashlib
import json
import os
import shutil
from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Optional

from hostplane.agent.bundle.blockindex import ENTRY, BlockIndex
from hostplane.agent.bundle.limits import MAX_JSON, MAX_MANIFEST, MAX_METADATA
from hostplane.agent.bundle.manifest import (
    Descriptor,
    Manifest,
    Metadata,
    check_blob,
    digest_of,
    parse_manifest,
    parse_metadata,
)
from hostplane.agent.disk.volume import Volume
from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

from .blocks import Sorter, entries_of
from .supply import IndexFile

__all__ = ["Fresh", "Record", "RecordedSource", "clear", "held_entries", "load", "metadata"]

_DIRECTORY = "var/lib/hostplane/slots"
_MANIFEST, _METADATA, _SIGNATURES = "manifest.json", "metadata.json", "signatures.json"
_PATCHES = ".patches"
_CHUNK_RECORDS = 4096
_SHA256 = 32


class Record(NamedTuple):
    """What was staged into a slot."""

    manifest: Manifest
    metadata: Metadata
    manifest_raw: bytes
    metadata_raw: bytes
    signatures: List[bytes]


class RecordedSource(object):
    """A record in the place of a bundle's source, as far as judging the bundle goes."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.received = 0

    def manifest(self) -> bytes:
        """The manifest's bytes."""
        return self._record.manifest_raw

    def signatures(self) -> List[bytes]:
        """The lists of signatures, unverified."""
        return self._record.signatures

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The metadata."""
        return iter((self._record.metadata_raw,))

    def close(self) -> None:
        """Nothing is open."""


def _place(host: HostRoot, slot: str) -> str:
    return host.path(os.path.join(_DIRECTORY, slot))


def load(host: HostRoot, slot: str) -> Optional[Record]:
    """What was staged into `slot`; None where there is no record of it, or no whole one."""
    directory = _place(host, slot)
    try:
        manifest_raw = _read(directory, _MANIFEST, MAX_MANIFEST)
        metadata_raw = _read(directory, _METADATA, MAX_METADATA)
        manifest = parse_manifest(manifest_raw)
        check_blob("metadata", metadata_raw, manifest.metadata.size, manifest.metadata.digest)
        lists = json.loads(_read(directory, _SIGNATURES, 64 * MAX_JSON).decode("ascii"))
        signatures = [base64.b64decode(one, validate=True) for one in lists]
        return Record(manifest, parse_metadata(metadata_raw), manifest_raw, metadata_raw, signatures)
    except (OSError, ValueError, TypeError, HostError):
        return None


def metadata(host: HostRoot, slot: str) -> Optional[Metadata]:
    """What was said of the image in `slot` when it was staged; None where there is no record of it."""
    found = load(host, slot)
    return None if found is None else found.metadata


def _read(directory: str, name: str, limit: int) -> bytes:
    with open(os.path.join(directory, name), "rb") as file:
        return file.read(limit + 1)


def clear(host: HostRoot, slot: str) -> None:
    """Forget what `slot` held, for good: it is about to be written. Raises HostError ScratchFailed."""
    directory = _place(host, slot)
    try:
        if os.path.isdir(directory):
            shutil.rmtree(directory)
            _sync_directory(os.path.dirname(directory))
    except OSError as fault:
        raise _failed(directory, fault) from fault


def held_entries(host: HostRoot, slot: str, image: str, volume: Volume, scratch: str) -> Callable[[], Iterator[bytes]]:
    """What gives the sorted entries of `image` in `slot`: its recorded index, else one reading of it, which is kept.

    Raises:
        HostError: ScratchFailed, SlotReadFailed.
    """
    directory = _place(host, slot)
    recorded = load(host, slot)
    if recorded is not None:
        descriptor = recorded.manifest.images[image][0]
        path = os.path.join(directory, image + ".index")
        if _has_digest(path, descriptor):
            return lambda: _indexed(path, descriptor.size)
    path = os.path.join(directory, image + ".scan")
    if not _is_whole_scan(path):
        host.refuse_if_vetoed()
        _scan(path, volume, scratch)
    return lambda: _scanned(path)


def _indexed(path: str, size: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        for entry in BlockIndex(file.read, size).entries():
            yield entry


def _has_digest(path: str, descriptor: Descriptor) -> bool:
    try:
        return os.path.getsize(path) == descriptor.size and _digest(path) == descriptor.digest
    except OSError:
        return False


def _digest(path: str) -> str:
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            sha256.update(piece)
    return "sha256:" + sha256.hexdigest()


# --- slots without an index


def _scan(path: str, volume: Volume, scratch: str) -> None:
    """Read the partition and keep its entries, sorted; the file ends with the digest of all before it."""
    sorter = Sorter(ENTRY.size, scratch)
    try:
        entries_of(volume.scan(volume.scan_bytes, strict=False), sorter)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        sha256 = hashlib.sha256()
        fresh = "%s.%d.new" % (path, os.getpid())  # a plan may be made while an image is staged
        with open(fresh, "wb") as file:
            for record in sorter:
                sha256.update(record)
                file.write(record)
            file.write(sha256.digest())
            _flush(file)
        os.replace(fresh, path)
        _sync_directory(os.path.dirname(path))
    except OSError as fault:
        raise _failed(path, fault) from fault
    finally:
        sorter.close()


def _is_whole_scan(path: str) -> bool:
    try:
        sha256, left = hashlib.sha256(), os.path.getsize(path) - _SHA256
        with open(path, "rb") as file:
            while left > 0:
                piece = file.read(min(left, 1 << 20))
                sha256.update(piece)
                left -= len(piece) or left
            return left == 0 and file.read() == sha256.digest()
    except OSError:
        return False


def _scanned(path: str) -> Iterator[bytes]:
    width = ENTRY.size
    left = os.path.getsize(path) - _SHA256
    with open(path, "rb") as file:
        while left > 0:
            piece = file.read(min(left, _CHUNK_RECORDS * width))
            if not piece:
                return
            left -= len(piece)
            for at in range(0, len(piece), width):
                yield piece[at : at + width]


# --- a record in the making


class Fresh(object):
    """The documents of the bundle that is being staged, kept so that a restarted staging fetches no index twice."""

    def __init__(self, directory: str, digest: str) -> None:
        """`directory` is emptied unless it is of the bundle `digest` already. Raises HostError ScratchFailed."""
        self._directory = directory
        try:
            if not self._is_of(digest):
                if os.path.isdir(directory):
                    shutil.rmtree(directory)
                os.makedirs(directory)
        except OSError as fault:
            raise _failed(directory, fault) from fault

    @classmethod
    def of(cls, host: HostRoot, slot: str, digest: str) -> "Fresh":
        """The one that becomes the record of `slot`."""
        return cls(_place(host, slot) + ".new", digest)

    def _is_of(self, digest: str) -> bool:
        try:
            return digest_of(_read(self._directory, _MANIFEST, MAX_MANIFEST)) == digest
        except OSError:
            return False

    def keep(self, manifest_raw: bytes, metadata_raw: bytes, signatures: List[bytes]) -> None:
        """Write the small documents. Raises HostError ScratchFailed."""
        listed = json.dumps([base64.b64encode(one).decode("ascii") for one in signatures]).encode("ascii")
        for name, content in ((_METADATA, metadata_raw), (_SIGNATURES, listed), (_MANIFEST, manifest_raw)):
            self._write(name, (content,))

    def index(self, source: Any, manifest: Manifest, metadata: Metadata, image: str) -> IndexFile:
        """The block index of `image`, fetched unless it is here. Raises HostError ScratchFailed, the source's."""
        descriptor = manifest.images[image][0]
        path = os.path.join(self._directory, image + ".index")
        if not _has_digest(path, descriptor):
            self._write(image + ".index", source.blob(descriptor))
            if not _has_digest(path, descriptor):
                raise HostError(
                    "BundleDigestMismatch", part="%s block index" % image, got=_digest(path), want=descriptor.digest
                )
        facts = metadata.images[image]
        return IndexFile(path, descriptor.size, facts.size, facts.sha256)

    def patches(self, source: Any, manifest: Manifest, metadata: Metadata, image: str) -> IndexFile:
        """The patch index of `image`, fetched. Raises HostError ScratchFailed, the source's."""
        assert manifest.patches is not None
        descriptor, name = manifest.patches.images[image][0], image + _PATCHES
        self._write(name, source.blob(descriptor))
        facts = metadata.images[image]
        return IndexFile(os.path.join(self._directory, name), descriptor.size, facts.size, facts.sha256)

    def has_index(self, manifest: Manifest, image: str) -> bool:
        """Whether the block index of `image` need not be fetched."""
        return _has_digest(os.path.join(self._directory, image + ".index"), manifest.images[image][0])

    def _write(self, name: str, pieces: Iterable[bytes]) -> None:
        path = os.path.join(self._directory, name)
        try:
            with open(path, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                _flush(file)
        except OSError as fault:
            raise _failed(path, fault) from fault

    def settle(self) -> None:
        """Become the slot's record. Raises HostError ScratchFailed."""
        target = self._directory[: -len(".new")]
        try:
            for name in os.listdir(self._directory):
                if name.endswith(_PATCHES):  # of no use once the slot is written
                    os.unlink(os.path.join(self._directory, name))
            _sync_directory(self._directory)
            if os.path.isdir(target):
                shutil.rmtree(target)
            os.rename(self._directory, target)
            _sync_directory(os.path.dirname(target))
        except OSError as fault:
            raise _failed(target, fault) from fault

    def discard(self) -> None:
        """Take it away."""
        shutil.rmtree(self._directory, ignore_errors=True)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(path: str, fault: OSError) -> HostError:
    return HostError("ScratchFailed", path=path, detail=fault.strerror or str(fault))
