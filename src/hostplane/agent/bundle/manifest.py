"""The JSON parts of a bundle: which blobs there are, and what the image says about itself.

The chain of trust is short: a signature covers the digest of the manifest, the manifest names every blob by digest and
size, and each parser here is handed bytes that were compared with their descriptor (`check_blob`). What a manifest
lists beyond what this version knows is left alone; what must be there is there exactly once.
"""

import hashlib
from typing import Dict, List, NamedTuple, Optional, Tuple

from hostplane.agent.bundle.limits import (
    BLOCK,
    MAX_IMAGE,
    MAX_INDEX,
    MAX_LAYERS,
    MAX_MANIFEST,
    MAX_METADATA,
    MAX_REPORT,
)
from hostplane.agent.bundle.strict import Fields, check_schema, invalid, parse_object, parse_time
from hostplane.errors import HostError

__all__ = [
    "ANNOTATION_BASE",
    "ANNOTATION_IMAGE",
    "ANNOTATION_SCHEMA",
    "ANNOTATION_SUBJECT",
    "IMAGES",
    "MEDIA_CONFIG",
    "MEDIA_INDEX",
    "MEDIA_MANIFEST",
    "SCHEMA",
    "TYPE_BLOCKINDEX",
    "TYPE_BUNDLE",
    "TYPE_FRAMES",
    "TYPE_INVENTORY",
    "TYPE_LICENCES",
    "TYPE_METADATA",
    "TYPE_PATCHES",
    "TYPE_PATCHINDEX",
    "TYPE_SBOM",
    "TYPE_SIGNATURES",
    "TYPE_SIZES",
    "Descriptor",
    "ImageFacts",
    "Manifest",
    "Metadata",
    "Patches",
    "Verity",
    "artifact_type_of",
    "check_blob",
    "digest_of",
    "is_reachable",
    "parse_index",
    "parse_layout",
    "parse_manifest",
    "parse_metadata",
    "parse_signature_manifest",
]

SCHEMA = "1.0"
IMAGES = ("boot", "root")
MEDIA_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_CONFIG = "application/vnd.oci.image.config.v1+json"
TYPE_BUNDLE = "application/vnd.hostplane.bundle.v1"
TYPE_METADATA = "application/vnd.hostplane.metadata.v1+json"
TYPE_BLOCKINDEX = "application/vnd.hostplane.blockindex.v1"
TYPE_FRAMES = "application/vnd.hostplane.frames.v1"
TYPE_PATCHINDEX = "application/vnd.hostplane.patchindex.v1"
TYPE_PATCHES = "application/vnd.hostplane.patches.v1"
TYPE_SBOM = "application/vnd.cyclonedx+json"
TYPE_LICENCES = "application/vnd.hostplane.licences.v1+json"
TYPE_INVENTORY = "application/vnd.hostplane.inventory.v1+json"
TYPE_SIZES = "application/vnd.hostplane.sizes.v1+json"
TYPE_SIGNATURES = "application/vnd.hostplane.signatures.v1+json"
ANNOTATION_SCHEMA = "dev.hostplane.schema"
ANNOTATION_IMAGE = "dev.hostplane.image"
ANNOTATION_BASE = "dev.hostplane.base"
ANNOTATION_SUBJECT = "dev.hostplane.subject"

_LIMITS = {
    TYPE_METADATA: MAX_METADATA,
    TYPE_BLOCKINDEX: MAX_INDEX,
    TYPE_FRAMES: 2 * MAX_IMAGE,
    TYPE_PATCHINDEX: MAX_INDEX,
    TYPE_PATCHES: MAX_REPORT,
    TYPE_SBOM: MAX_REPORT,
    TYPE_LICENCES: MAX_REPORT,
    TYPE_INVENTORY: MAX_REPORT,
    TYPE_SIZES: MAX_REPORT,
}
_VERSION = r"[0-9A-Za-z][0-9A-Za-z._+~-]{0,62}"
_WORD = r"[0-9A-Za-z][0-9A-Za-z._+:~-]{0,62}"
_HEX64 = r"[0-9a-f]{64}"


class Descriptor(NamedTuple):
    """What names a blob. `platform` is OCI's architecture, empty where none is given."""

    media_type: str
    digest: str
    size: int
    annotations: Dict[str, str]
    artifact_type: str
    platform: str


class Patches(NamedTuple):
    """What makes new blocks of an earlier bundle's images: its digest, and image to (patch index, patches)."""

    base: str
    images: Dict[str, Tuple[Descriptor, Descriptor]]


class Manifest(NamedTuple):
    """One bundle's blobs. `images` maps boot and root to (block index, frames)."""

    digest: str
    config: Descriptor
    metadata: Descriptor
    images: Dict[str, Tuple[Descriptor, Descriptor]]
    sbom: Descriptor
    licences: Descriptor
    inventory: Optional[Descriptor]
    sizes: Optional[Descriptor]
    layers: Tuple[Descriptor, ...]
    annotations: Dict[str, str]
    patches: Optional[Patches]


class Verity(NamedTuple):
    """dm-verity of a root: hex root hash, bytes before the hash tree, hex salt."""

    root_hash: str
    hash_offset: int
    salt: str


class ImageFacts(NamedTuple):
    """One block image: bytes, hex sha256 of all of them, file system."""

    size: int
    sha256: str
    fs: str
    verity: Optional[Verity]


class Metadata(NamedTuple):
    """What a host must know before it takes the image. `created` is in seconds since the epoch."""

    schema: str
    name: str
    version: str
    distro: str
    release: str
    arch: str
    created: int
    images: Dict[str, ImageFacts]
    boot_arguments: Tuple[str, ...]
    reachable_from: Tuple[str, ...]
    minimum_version: Optional[str]
    state_versions: Dict[str, str]


def digest_of(raw: bytes) -> str:
    """`sha256:` and the hex digest of `raw`."""
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def check_blob(part: str, raw: bytes, size: int, digest: str) -> bytes:
    """`raw`, when it is what the descriptor named.

    Raises:
        HostError: BundleDigestMismatch.
    """
    if len(raw) != size or digest_of(raw) != digest:
        raise HostError("BundleDigestMismatch", part=part, got=digest_of(raw), want=digest)
    return raw


def parse_layout(raw: bytes) -> None:
    """Check the `oci-layout` file.

    Raises:
        HostError: BundleInvalid, BundleTooLarge, BundleSchemaUnknown.
    """
    version = parse_object("oci-layout", raw, 1024).text("imageLayoutVersion", r"[0-9]{1,4}\.[0-9]{1,4}(\.[0-9]{1,4})?")
    check_schema("oci-layout", ".".join(version.split(".")[:2]))


def parse_index(raw: bytes, part: str = "index.json") -> Tuple[Descriptor, ...]:
    """The manifests and indexes an OCI image index lists.

    Raises:
        HostError: BundleInvalid, BundleTooLarge.
    """
    fields = parse_object(part, raw, MAX_MANIFEST)
    if fields.number("schemaVersion", 0, 1000) != 2:
        raise invalid(part, "schemaVersion is not 2")
    return tuple(_descriptor(one, MAX_MANIFEST) for one in fields.objects("manifests", MAX_LAYERS))


def artifact_type_of(raw: bytes) -> str:
    """What a manifest says it is, before it is parsed as that; empty where it does not say.

    Raises:
        HostError: BundleInvalid, BundleTooLarge.
    """
    return parse_object("manifest", raw, MAX_MANIFEST).optional_text("artifactType") or ""


def parse_manifest(raw: bytes) -> Manifest:
    """The bundle a manifest describes.

    Raises:
        HostError: BundleInvalid, BundleTooLarge, BundleSchemaUnknown.
    """
    part = "manifest"
    fields = parse_object(part, raw, MAX_MANIFEST)
    if fields.number("schemaVersion", 0, 1000) != 2 or fields.text("artifactType") != TYPE_BUNDLE:
        raise invalid(part, "it is not of a bundle (artifactType %s)" % TYPE_BUNDLE)
    annotations = fields.mapping("annotations", 64)
    check_schema(part, annotations.get(ANNOTATION_SCHEMA, ""))
    layers = tuple(_descriptor(one, MAX_REPORT) for one in fields.objects("layers", MAX_LAYERS))
    images = {}
    for name in IMAGES:
        own = [layer for layer in layers if layer.annotations.get(ANNOTATION_IMAGE) == name]
        images[name] = (_one(own, TYPE_BLOCKINDEX, name), _one(own, TYPE_FRAMES, name))
    for type_, count in ((TYPE_BLOCKINDEX, len(IMAGES)), (TYPE_FRAMES, len(IMAGES))):
        if sum(layer.media_type == type_ for layer in layers) != count:
            raise invalid(part, "it lists an image that is neither boot nor root")
    return Manifest(
        digest=digest_of(raw),
        config=_descriptor(fields.object("config"), MAX_MANIFEST),
        metadata=_one(layers, TYPE_METADATA),
        images=images,
        sbom=_one(layers, TYPE_SBOM),
        licences=_one(layers, TYPE_LICENCES),
        inventory=_at_most_one(layers, TYPE_INVENTORY),
        sizes=_at_most_one(layers, TYPE_SIZES),
        layers=layers,
        annotations=annotations,
        patches=_patches(layers),
    )


def _patches(layers: Tuple[Descriptor, ...]) -> Optional[Patches]:
    """The patches, when there are some of one base for both images; others help nobody and hurt nobody."""
    own = [layer for layer in layers if layer.media_type in (TYPE_PATCHINDEX, TYPE_PATCHES)]
    bases = {layer.annotations.get(ANNOTATION_BASE, "") for layer in own}
    images = {}
    for name in IMAGES:
        of_image = [layer for layer in own if layer.annotations.get(ANNOTATION_IMAGE) == name]
        pair = [layer for type_ in (TYPE_PATCHINDEX, TYPE_PATCHES) for layer in of_image if layer.media_type == type_]
        if len(of_image) == 2 and [layer.media_type for layer in pair] == [TYPE_PATCHINDEX, TYPE_PATCHES]:
            images[name] = (pair[0], pair[1])
    return Patches(bases.pop(), images) if len(bases) == 1 and images else None


def parse_signature_manifest(raw: bytes) -> Tuple[str, Descriptor, Descriptor]:
    """(digest of the manifest that is signed, the list of signatures, the empty config).

    Raises:
        HostError: BundleInvalid, BundleTooLarge.
    """
    part = "signature manifest"
    fields = parse_object(part, raw, MAX_MANIFEST)
    if fields.number("schemaVersion", 0, 1000) != 2 or fields.text("artifactType") != TYPE_SIGNATURES:
        raise invalid(part, "it is not of a list of signatures")
    layers = [_descriptor(one, MAX_METADATA) for one in fields.objects("layers", MAX_LAYERS)]
    config = _descriptor(fields.object("config"), MAX_METADATA)
    return fields.object("subject").digest("digest"), _one(layers, TYPE_SIGNATURES), config


def parse_metadata(raw: bytes) -> Metadata:
    """What the image says about itself; fields of a newer minor schema are ignored.

    Raises:
        HostError: BundleInvalid, BundleTooLarge, BundleSchemaUnknown.
    """
    fields = parse_object("metadata", raw, MAX_METADATA)
    schema = fields.text("schema", r"[0-9.]{3,9}")
    check_schema("metadata", schema)
    images = fields.object("images")
    return Metadata(
        schema=schema,
        name=fields.text("name", r"[a-z0-9][a-z0-9._-]{0,62}"),
        version=fields.text("version", _VERSION),
        distro=fields.text("distro", _WORD),
        release=fields.text("release", _WORD),
        arch=fields.text("arch", r"x86_64|aarch64"),
        created=parse_time("metadata", fields.text("created")),
        images={name: _facts(images.object(name)) for name in IMAGES},
        boot_arguments=fields.texts("bootArguments", 256),
        reachable_from=fields.texts("reachableFrom", 256),
        minimum_version=fields.optional_text("minimumVersion", _VERSION),
        state_versions=fields.mapping("stateVersions", 32),
    )


def is_reachable(metadata: Metadata, version: str) -> bool:
    """Whether the image may be installed over `version`: listed, matched by a prefix ending in `*`, or none listed."""
    return not metadata.reachable_from or any(
        version.startswith(rule[:-1]) if rule.endswith("*") else version == rule for rule in metadata.reachable_from
    )


def _facts(fields: Fields) -> ImageFacts:
    size = fields.number("size", BLOCK, MAX_IMAGE)
    if size % BLOCK:
        raise invalid(fields.part, "size is not a multiple of %d" % BLOCK)
    return ImageFacts(
        size=size,
        sha256=fields.text("sha256", _HEX64),
        fs=fields.text("fs", r"[a-z0-9]{1,16}"),
        verity=_verity(fields.optional_object("verity"), size),
    )


def _verity(fields: Optional[Fields], size: int) -> Optional[Verity]:
    if fields is None:
        return None
    offset = fields.number("hashOffset", 0, size)
    return Verity(fields.text("rootHash", _HEX64), offset, fields.text("salt", r"[0-9a-f]{0,512}"))


def _descriptor(fields: Fields, limit: int) -> Descriptor:
    media_type = fields.text("mediaType", r"[A-Za-z0-9!#$&^_.+/-]{1,255}")
    platform = fields.optional_object("platform")
    return Descriptor(
        media_type=media_type,
        digest=fields.digest("digest"),
        size=fields.number("size", 0, _LIMITS.get(media_type, limit)),
        annotations=fields.mapping("annotations", 64),
        artifact_type=fields.optional_text("artifactType", r"[A-Za-z0-9!#$&^_.+/-]{1,255}") or "",
        platform="" if platform is None else platform.text("architecture", r"[a-z0-9]{1,32}"),
    )


def _one(layers: "List[Descriptor] | Tuple[Descriptor, ...]", media_type: str, image: str = "") -> Descriptor:
    found = [layer for layer in layers if layer.media_type == media_type]
    if len(found) != 1:
        where = "%s of %s" % (media_type, image) if image else media_type
        raise invalid("manifest", "%s is there %d times, not once" % (where, len(found)))
    return found[0]


def _at_most_one(layers: Tuple[Descriptor, ...], media_type: str) -> Optional[Descriptor]:
    return _one(layers, media_type) if any(layer.media_type == media_type for layer in layers) else None
