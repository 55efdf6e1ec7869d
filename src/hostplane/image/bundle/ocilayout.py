"""A bundle's directory: an OCI image layout whose one entry is an index of the bundle's manifest and its signatures.

Blobs are written beside their place and renamed to their digest; reading compares digest and size. The index lists the
bundle first and the list of signatures after it, so that whatever copies the index copies both, and signing changes the
index and never the manifest that was signed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from msgspec import Struct

from hostplane.agent.bundle.limits import MAX_LAYERS, MAX_MANIFEST
from hostplane.agent.bundle.manifest import (
    ANNOTATION_SUBJECT,
    MEDIA_INDEX,
    MEDIA_MANIFEST,
    TYPE_BUNDLE,
    TYPE_SIGNATURES,
    Descriptor,
    Manifest,
    Metadata,
    artifact_type_of,
    check_blob,
    parse_index,
    parse_layout,
    parse_manifest,
    parse_metadata,
    parse_signature_manifest,
)
from hostplane.agent.bundle.signature import Signature, SignatureList, parse_signatures
from hostplane.errors import HostError, ImageError

__all__ = [
    "OCI_ARCH",
    "Layout",
    "Opened",
    "bundle_descriptor",
    "canonical",
    "open_bundle",
    "replaced_directory",
    "replaced_file",
]

_REF = "org.opencontainers.image.ref.name"
_MEDIA_EMPTY = "application/vnd.oci.empty.v1+json"
_COPY = 1 << 20
OCI_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}


def canonical(value: object) -> bytes:
    """JSON with one spelling: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


@contextmanager
def replaced_directory(target: Path) -> Iterator[Path]:
    """A fresh directory beside `target` that takes its place when the block ends well, and vanishes otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fresh.chmod(0o755)
        yield fresh
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            target.rename(old / "old")
            fresh.rename(target)
            shutil.rmtree(old)
        else:
            fresh.rename(target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def replaced_file(target: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `target` whole or not at all."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class _Sink:
    """A file that hashes what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, piece: bytes) -> int:
        self.sha256.update(piece)
        self.size += len(piece)
        return self._file.write(piece)


class Layout:
    """The directory, for writing blobs and reading them back."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._blobs = directory / "blobs" / "sha256"

    def path(self, digest: str) -> Path:
        """Where the blob is."""
        return self._blobs / digest.removeprefix("sha256:")

    def add(self, raw: bytes, media_type: str, **more: object) -> dict[str, Any]:
        """The descriptor of a blob with these bytes, written."""
        with self.sink(media_type, **more) as (sink, descriptor):
            sink.write(raw)
        return descriptor

    def copy(self, source: Path, media_type: str, **more: object) -> dict[str, Any]:
        """The descriptor of a blob with the file's bytes, written."""
        with source.open("rb") as file, self.sink(media_type, **more) as (sink, descriptor):
            while piece := file.read(_COPY):
                sink.write(piece)
        return descriptor

    @contextmanager
    def sink(self, media_type: str, **more: object) -> Iterator[tuple[IO[bytes], dict[str, Any]]]:
        """(where to write, the blob's descriptor, filled in at the end)."""
        self._blobs.mkdir(parents=True, exist_ok=True)
        descriptor: dict[str, Any] = {"mediaType": media_type, **more}
        handle, name = tempfile.mkstemp(dir=self._blobs)
        try:
            with os.fdopen(handle, "wb") as file:
                sink = _Sink(file)
                yield sink, descriptor  # type: ignore[misc]  # it has the one method that writers call
                os.fchmod(handle, 0o644)
            descriptor.update(digest=f"sha256:{sink.sha256.hexdigest()}", size=sink.size)
            os.replace(name, self.path(descriptor["digest"]))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def read(self, part: str, digest: str, size: int) -> bytes:
        """A blob's bytes, when they are what the descriptor says.

        Raises:
            ImageError: BundlePartMissing.
            HostError: BundleDigestMismatch.
        """
        return check_blob(part, self._read(self.path(digest), size + 1), size, digest)

    def check(self, part: str, digest: str, size: int) -> None:
        """Compare a blob of any size with its descriptor.

        Raises:
            ImageError: BundlePartMissing. HostError: BundleDigestMismatch.
        """
        sha256 = hashlib.sha256()
        try:
            with self.path(digest).open("rb") as file:
                while piece := file.read(_COPY):
                    sha256.update(piece)
                is_whole = file.tell() == size
        except OSError as fault:
            raise ImageError("BundlePartMissing", path=self.path(digest), detail=fault.strerror) from fault
        got = f"sha256:{sha256.hexdigest()}"
        if got != digest or not is_whole:
            raise HostError("BundleDigestMismatch", part=part, got=got, want=digest)

    def read_file(self, name: str) -> bytes:
        """A small file of the layout itself: oci-layout, index.json.

        Raises:
            ImageError: BundlePartMissing.
        """
        return self._read(self.directory / name, MAX_MANIFEST + 1)

    @staticmethod
    def _read(path: Path, limit: int) -> bytes:
        try:
            with path.open("rb") as file:
                return file.read(limit)
        except OSError as fault:
            raise ImageError("BundlePartMissing", path=path, detail=fault.strerror) from fault

    def point(self, manifest: Mapping[str, object], ref: str, listed: bytes | None) -> None:
        """Let index.json name, as `ref`, an index of `manifest` and of its list of signatures, if any."""
        entries: list[Mapping[str, object]] = [manifest]
        if listed is not None:
            entries.append(self._add_signatures(manifest, listed))
        index = {"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": entries}
        top = self.add(canonical(index), MEDIA_INDEX, annotations={_REF: ref})
        replaced_file(self.directory / "oci-layout", canonical({"imageLayoutVersion": "1.0.0"}))
        head = canonical({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [top]})
        replaced_file(self.directory / "index.json", head)

    def keep_only(self, opened: Opened) -> None:
        """Remove blobs that the bundle no longer names: what an earlier list of signatures left behind."""
        for blob in self._blobs.iterdir():
            if f"sha256:{blob.name}" not in opened.digests:
                blob.unlink()

    def _add_signatures(self, manifest: Mapping[str, object], listed: bytes) -> dict[str, Any]:
        subject = {key: manifest[key] for key in ("mediaType", "digest", "size")}
        body = {
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "artifactType": TYPE_SIGNATURES,
            "config": self.add(b"{}", _MEDIA_EMPTY),
            "layers": [self.add(listed, TYPE_SIGNATURES)],
            "subject": subject,
        }
        return self.add(
            canonical(body),
            MEDIA_MANIFEST,
            artifactType=TYPE_SIGNATURES,
            annotations={ANNOTATION_SUBJECT: str(manifest["digest"])},
            platform={"architecture": "unknown", "os": "unknown"},
        )


class Opened(Struct, frozen=True, kw_only=True):
    """A bundle's small parts, each checked against its digest; `signatures` is empty where there are none."""

    layout: Layout
    ref: str
    descriptor: dict[str, Any]
    """The manifest's, as the index lists it."""
    manifest: Manifest
    metadata: Metadata
    signatures: SignatureList
    signature_digests: tuple[str, ...]
    """Of the lists of signatures."""
    digests: frozenset[str]
    """Of every blob the layout needs."""

    def path(self, descriptor: Descriptor) -> Path:
        """Where a blob is."""
        return self.layout.path(descriptor.digest)

    def read(self, part: str, descriptor: Descriptor) -> bytes:
        """A blob's bytes, compared with its digest."""
        return self.layout.read(part, descriptor.digest, descriptor.size)

    def check(self, part: str, descriptor: Descriptor) -> None:
        """Compare a blob of any size with its digest.

        Raises:
            ImageError: BundlePartMissing. HostError: BundleDigestMismatch.
        """
        self.layout.check(part, descriptor.digest, descriptor.size)


def open_bundle(directory: Path) -> Opened:
    """Read the bundle in `directory`. Signatures are parsed, not judged.

    Raises:
        ImageError: BundlePartMissing, BundleNotOne.
        HostError: what the parsers raise.
    """
    layout = Layout(directory)
    parse_layout(layout.read_file("oci-layout"))
    top = parse_index(layout.read_file("index.json"))
    listed = [one for entry in top for one in _manifests(layout, entry)]
    if len(listed) > MAX_LAYERS:
        raise ImageError("BundleNotOne", path=directory)
    # Told apart by what the manifests say: tools that copy an index drop fields of its entries that they do not know.
    raw = {one.digest: layout.read("manifest", one.digest, one.size) for one in listed}
    types = {digest: artifact_type_of(body) for digest, body in raw.items()}
    bundles = [digest for digest, type_ in types.items() if type_ == TYPE_BUNDLE]
    if len(bundles) != 1:
        raise ImageError("BundleNotOne", path=directory)
    manifest = parse_manifest(raw[bundles[0]])
    metadata = parse_metadata(layout.read("metadata", manifest.metadata.digest, manifest.metadata.size))
    needed = {*(one.digest for one in (*top, *listed, *manifest.layers)), manifest.config.digest}
    signatures: list[Signature] = []
    lists = []
    for body in (raw[digest] for digest, type_ in types.items() if type_ == TYPE_SIGNATURES):
        subject, blob, config = parse_signature_manifest(body)
        if subject == manifest.digest:
            signatures += parse_signatures(layout.read("signatures", blob.digest, blob.size)).signatures
            needed |= {blob.digest, config.digest}
            lists.append(blob.digest)
    return Opened(
        layout=layout,
        ref=top[0].annotations.get(_REF, ""),
        descriptor=bundle_descriptor(manifest.digest, len(raw[manifest.digest]), metadata.arch),
        manifest=manifest,
        metadata=metadata,
        signatures=SignatureList(manifest.digest, tuple(signatures)),
        signature_digests=tuple(lists),
        digests=frozenset(needed),
    )


def bundle_descriptor(digest: str, size: int, arch: str) -> dict[str, Any]:
    """How an index lists a bundle's manifest."""
    return {
        "mediaType": MEDIA_MANIFEST,
        "digest": digest,
        "size": size,
        "artifactType": TYPE_BUNDLE,
        "platform": {"architecture": OCI_ARCH[arch], "os": "linux"},
    }


def _manifests(layout: Layout, entry: Descriptor) -> tuple[Descriptor, ...]:
    """The manifest an entry of index.json is, or those of the index that it is."""
    if entry.media_type != MEDIA_INDEX:
        return (entry,)
    listed = parse_index(layout.read("index", entry.digest, entry.size), "index")
    return tuple(one for one in listed if one.media_type == MEDIA_MANIFEST)
