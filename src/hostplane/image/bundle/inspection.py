"""What an image holds, read from what a build wrote: a bundle, the directory it stands in, or a raw disk.

A bundle carries everything: its parts are compared with their digests before they are believed, and its signatures are
judged where a trust file is given. A disk alone says what its partition table and BOOT-x say, and where its bundle is.
What is derived rather than read says so (`Listener.how`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from hostplane.agent.bundle.blockindex import BlockIndex
from hostplane.agent.bundle.limits import BLOCK, MAX_REPORT
from hostplane.agent.bundle.manifest import Descriptor
from hostplane.agent.bundle.signature import openssl_verify
from hostplane.agent.bundle.trust import judge, require
from hostplane.errors import HostError, ImageError
from hostplane.image.bundle.ocilayout import Opened, open_bundle
from hostplane.image.bundle.trust import SignatureTold, named, trusted
from hostplane.image.bundle.unpack import verify
from hostplane.image.disk import diskview

__all__ = [
    "Account",
    "Capable",
    "Image",
    "Inspection",
    "Installed",
    "Inventory",
    "Listener",
    "Special",
    "bundle_of",
    "inspect",
]

_BUNDLE = "bundle"
_DISK = "disk.raw"
_SYSTEM = "operating-system"

T = TypeVar("T")


class Installed(Struct, frozen=True, kw_only=True):
    """One package of the bill of materials; `size` is installed bytes, 0 where unknown."""

    name: str
    version: str
    size: int = 0


class Image(Struct, frozen=True, kw_only=True, rename="camel"):
    """One block image in bytes: whole, without zero blocks, as stored, and its block index."""

    name: str
    fs: str
    size: int
    content: int
    stored: int
    index: int
    frames: int
    sha256: str
    verity_root_hash: str = ""


class Special(Struct, frozen=True, kw_only=True):
    """A file that runs with its owner's or its group's rights."""

    path: str
    mode: str
    owner: int
    group: int


class Capable(Struct, frozen=True, kw_only=True):
    """A file with capabilities."""

    path: str
    capabilities: str


class Listener(Struct, frozen=True, kw_only=True):
    """Where the host will listen; `how` is `socket unit` (read) or `known service` (derived from its default)."""

    unit: str
    protocol: str
    address: str
    how: str


class Account(Struct, frozen=True, kw_only=True, rename="camel"):
    """Somebody who may log in."""

    name: str
    uid: int
    shell: str
    password: str
    ssh_keys: int


class Inventory(Struct, frozen=True, kw_only=True, rename="camel"):
    """inventory.json, as `inventory.collect` writes it; fields of a newer one are passed over."""

    files: int = 0
    bytes: int = 0
    os_release: dict[str, str] = {}
    kernels: list[str] = []
    setuid: list[Special] = []
    capabilities: list[Capable] = []
    world_writable: list[str] = []
    enabled_units: list[str] = []
    masked_units: list[str] = []
    listeners: list[Listener] = []
    accounts: list[Account] = []


class Inspection(Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything that is known of one image."""

    kind: str
    """bundle or disk."""
    path: str
    digest: str = ""
    size: int = 0
    """Bytes of all layers."""
    sbom_digest: str = ""
    signature_digests: list[str] = []
    """With the two above, what an OSImage names."""
    metadata: dict[str, Any] = {}
    """The metadata document, or a disk's image.json."""
    boot_arguments: list[str] = []
    images: list[Image] = []
    packages: list[Installed] = []
    unowned: dict[str, int] = {}
    """Bytes of files that no package owns, by place."""
    removed: dict[str, int] = {}
    """Bytes that slimming took out, by reason."""
    inventory: Inventory | None = None
    signature_state: str = "None"
    """None, Unjudged (no trust file given), Trusted or Untrusted."""
    signatures: list[SignatureTold] = []
    verified: bool = False
    """Whether every byte was unpacked and compared."""
    partitions: list[diskview.Part] = []
    notes: list[str] = []
    """What could not be read from here, a catalogue sentence each."""


class _Component(Struct, frozen=True, kw_only=True):
    name: str
    version: str = ""
    type: str = ""


class _Bill(Struct, frozen=True, kw_only=True):
    components: list[_Component] = []


class _Share(Struct, frozen=True, kw_only=True):
    name: str
    size: int = 0


class _Sizes(Struct, frozen=True, kw_only=True):
    packages: list[_Share] = []
    unowned: dict[str, int] = {}
    removed: dict[str, int] = {}


def bundle_of(path: Path) -> Path:
    """The bundle's directory, when `path` is one, is a build's directory, or is a disk that has one beside it.

    Raises:
        ImageError: InspectNothing.
    """
    for place in (path.parent / _BUNDLE,) if path.is_file() else (path, path / _BUNDLE):
        if (place / "oci-layout").is_file():
            return place
    raise ImageError("InspectNothing", path=path)


def inspect(path: Path, *, trust: Path | None = None, now: float | None = None, verified: bool = False) -> Inspection:
    """What `path` holds; `verified`: a bundle only after every byte of it was unpacked and compared.

    Raises:
        ImageError: InspectNothing, BundlePartMissing, BundleNotOne.
        LocalError: TrustFileUnreadable. HostError: a part that breaks the format, SignatureToolMissing.
    """
    if not path.exists():
        raise ImageError("InspectNothing", path=path)
    if path.is_file():
        return _disk(path)
    if not (path / _BUNDLE).is_dir() and (path / _DISK).is_file():
        return _disk(path / _DISK)
    return _bundle(bundle_of(path), trust, time.time() if now is None else now, verified)


def _bundle(directory: Path, trust: Path | None, now: float, verified: bool) -> Inspection:
    opened = open_bundle(directory)
    if verified:
        verify(opened)
    state, signatures = _judged(opened, trust, now)
    inventory = _document(opened, "inventory", opened.manifest.inventory)
    sizes = _sizes(_document(opened, "size report", opened.manifest.sizes))
    metadata: dict[str, Any] = json.loads(opened.read("metadata", opened.manifest.metadata))
    return Inspection(
        kind="bundle",
        path=str(directory),
        digest=opened.manifest.digest,
        size=sum(layer.size for layer in opened.manifest.layers),
        sbom_digest=opened.manifest.sbom.digest,
        signature_digests=list(opened.signature_digests),
        metadata=metadata,
        boot_arguments=list(opened.metadata.boot_arguments),
        images=[_image(opened, name) for name in opened.manifest.images],
        packages=_packages(opened, {one.name: one.size for one in sizes.packages}),
        unowned=sizes.unowned,
        removed=sizes.removed,
        inventory=None if inventory is None else _converted("inventory", inventory, Inventory),
        signature_state=state,
        signatures=signatures,
        verified=verified,
    )


def _judged(opened: Opened, trust: Path | None, now: float) -> tuple[str, list[SignatureTold]]:
    listed = opened.signatures
    if trust is None:
        told = [
            SignatureTold(key_id=one.key_id, algorithm=one.algorithm, expires=one.expires, state="Unjudged")
            for one in listed.signatures
        ]
        return ("Unjudged" if told else "None"), told
    keys = trusted(trust, now)
    verdicts = named(judge(listed, keys, now, openssl_verify))
    try:
        require(opened.manifest.digest, listed, keys, now, openssl_verify)
    except HostError as fault:
        if fault.name != "BundleUnsigned":
            raise
        return "Untrusted", verdicts
    return "Trusted", verdicts


def _image(opened: Opened, name: str) -> Image:
    index, blob = opened.manifest.images[name]
    facts = opened.metadata.images[name]
    with opened.path(index).open("rb") as file:
        header = BlockIndex(file.read, index.size).header
    return Image(
        name=name,
        fs=facts.fs,
        size=facts.size,
        content=header.entries * BLOCK,
        stored=blob.size,
        index=index.size,
        frames=header.frames,
        sha256=facts.sha256,
        verity_root_hash=facts.verity.root_hash if facts.verity else "",
    )


def _document(opened: Opened, part: str, descriptor: Descriptor | None) -> Any:
    """A JSON blob's value; None where the bundle has none."""
    if descriptor is None or descriptor.size > MAX_REPORT:
        return None
    try:
        return msgspec.json.decode(opened.read(part, descriptor))
    except msgspec.DecodeError as fault:
        raise HostError("BundleInvalid", part=part, detail=fault) from fault


def _converted(part: str, value: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as fault:
        raise HostError("BundleInvalid", part=part, detail=fault) from fault


def _sizes(report: Any) -> _Sizes:
    return _Sizes() if report is None else _converted("size report", report, _Sizes)


def _packages(opened: Opened, sizes: Mapping[str, int]) -> list[Installed]:
    bill = _document(opened, "bill of materials", opened.manifest.sbom)
    found = []
    for one in _converted("bill of materials", bill, _Bill).components:
        if one.type != _SYSTEM:
            found.append(Installed(name=one.name, version=one.version, size=sizes.get(one.name, 0)))
    return sorted(found, key=lambda package: (package.name, package.version))


def _disk(path: Path) -> Inspection:
    view = diskview.read(path)
    beside = path.parent / _BUNDLE
    notes = [f"the bundle beside it says more: {beside}"] if (beside / "oci-layout").is_file() else []
    return Inspection(
        kind="disk",
        path=str(path),
        metadata=view.image,
        boot_arguments=view.boot_arguments,
        partitions=view.partitions,
        notes=[*view.notes, *notes],
    )
