"""Writes the upgrade bundle: one OCI image layout, from two block images and what is known about them.

Images are streamed through all cores (`frames`), the directory appears whole or not at all, and the same inputs give
the same bytes. What the parts mean is written down in docs/reference/bundle.md; the host reads them with agent.bundle,
and so does everything here that reads. It does not sign (`signing`) and knows no recipe beyond `describe`.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from hostplane.agent.bundle.blockindex import BlockIndex
from hostplane.agent.bundle.manifest import (
    ANNOTATION_BASE,
    ANNOTATION_IMAGE,
    ANNOTATION_SCHEMA,
    MEDIA_CONFIG,
    MEDIA_MANIFEST,
    SCHEMA,
    TYPE_BLOCKINDEX,
    TYPE_BUNDLE,
    TYPE_FRAMES,
    TYPE_INVENTORY,
    TYPE_LICENCES,
    TYPE_METADATA,
    TYPE_PATCHES,
    TYPE_PATCHINDEX,
    TYPE_SBOM,
    TYPE_SIZES,
    parse_manifest,
    parse_metadata,
)
from hostplane.distros.profile import Profile
from hostplane.image.bundle import framecache
from hostplane.image.bundle.framebase import Base
from hostplane.image.bundle.frames import Coding, Packed, pack
from hostplane.image.bundle.ocilayout import (
    OCI_ARCH,
    Layout,
    Opened,
    bundle_descriptor,
    canonical,
    open_bundle,
    replaced_directory,
)
from hostplane.image.bundle.patches import Earlier, pack_patches, shorts_of
from hostplane.image.recipe import Recipe

__all__ = ["BundleInfo", "ImageSize", "Metadata", "Verity", "describe", "document", "write"]

_MEMORY = 256 << 20
_FRAME_COST = 16
"""Times a frame's average size that packing one takes: it, the coder's tables, what comes out."""


class Verity(Struct, frozen=True, kw_only=True, rename="camel"):
    """dm-verity of the root: hex root hash, bytes before the hash tree, hex salt."""

    root_hash: str
    hash_offset: int
    salt: str = ""


class Metadata(Struct, frozen=True, kw_only=True):
    """What the image says about itself (docs/reference/bundle.md). Sizes and digests are filled in by `write`."""

    name: str
    version: str
    distro: str
    release: str
    arch: str
    created: int
    """Seconds since the epoch."""
    root_fs: str
    boot_fs: str = "ext4"
    verity: Verity | None = None
    boot_arguments: tuple[str, ...] = ()
    reachable_from: tuple[str, ...] = ()
    minimum_version: str | None = None
    state_versions: Mapping[str, str] = {}
    facts: Mapping[str, str] = {}
    """Anything else worth showing: kernel, kubernetes, agent."""


class ImageSize(Struct, frozen=True, kw_only=True, rename="camel"):
    """What one image came to, in bytes and frames."""

    size: int
    content: int
    stored: int
    index: int
    frames: int
    reused: int
    cached: int
    patches: int = 0
    """Bytes for hosts of the previous bundle."""


class BundleInfo(Struct, frozen=True, kw_only=True, rename="camel"):
    """A bundle that was written. `digest` is the manifest's, the one that hosts are granted and signers sign."""

    path: Path
    digest: str
    size: int
    """Bytes of all blobs."""
    images: dict[str, ImageSize]


def describe(
    recipe: Recipe,
    profile: Profile,
    seal: Mapping[str, Any],
    *,
    created: int,
    packages: Mapping[str, str] = {},
    facts: Mapping[str, str] = {},
) -> Metadata:
    """The metadata of a recipe's image. `seal` is seal.json; `packages` maps installed packages to versions.

    State versions, which guard /var, are the container runtime's and the kubelet's.
    """
    verity = seal["root"].get("verity")
    runtime, kubernetes = recipe.kubernetes.runtime, recipe.kubernetes.version or packages.get("kubelet")
    installed = [packages[name] for name in profile.runtime_packages.get(runtime, ()) if name in packages]
    states = {runtime: installed[0]} if installed else {}
    if kubernetes is not None:
        states["kubelet"] = kubernetes
    return Metadata(
        name=recipe.name,
        version=recipe.version,
        distro=profile.id,
        release=profile.release,
        arch=str(recipe.arch),
        created=created,
        root_fs=str(seal["root"]["fs"]),
        verity=None
        if verity is None
        else Verity(root_hash=verity["roothash"], hash_offset=verity["hashoffset"], salt=verity.get("salt") or ""),
        boot_arguments=(*(f"console={name}" for name in recipe.boot.console), *recipe.boot.arguments),
        minimum_version=recipe.image.minimum_version,
        reachable_from=recipe.image.reachable_from,
        state_versions=states,
        facts=facts,
    )


def write(
    dest: Path,
    *,
    root: Path,
    boot: Path,
    metadata: Metadata,
    sbom: Path,
    licences: Path,
    inventory: Path | None = None,
    sizes: Path | None = None,
    codec: str = "xz",
    frame_bytes: int = 1 << 20,
    previous: Path | None = None,
    cache: Path | None = None,
    jobs: int | None = None,
    progress: Callable[[float, str], None] = lambda done, what: None,
) -> BundleInfo:
    """Write the bundle's directory `dest`; what stood there is replaced.

    Args:
        root, boot: the block images; multiples of 4 KiB, at most 16 GiB.
        inventory, sizes: inventory.json (`inventory.collect`) and the size report, for `inspect` and `diff`.
        codec: none, deflate, xz or zstd. frame_bytes: content of an average frame.
        previous: a bundle to build upon, so that its hosts fetch little; changes the bytes (`frames`, `patches`).
        cache: a directory of packed frames shared by all builds; never changes the bytes.
        jobs: frames packed at once; default: the cores, as far as about 256 MiB allow.

    Raises:
        ImageError: BundleImageUnfit, BundleTooManyFrames, CodecMissing; BundlePartMissing, BundleNotOne of `previous`.
        HostError: what reading `previous`, or a metadata field that no host would read, raises.
    """
    jobs = jobs or max(1, min(len(os.sched_getaffinity(0)), _MEMORY // (frame_bytes * _FRAME_COST)))
    coding = Coding(codec=codec, arch=metadata.arch, frame_bytes=frame_bytes, cache=cache)
    images = {"boot": boot, "root": root}
    earlier = None if previous is None else open_bundle(previous)
    bases = {} if earlier is None else _bases(earlier)
    total = sum(path.stat().st_size for path in images.values())
    packed: dict[str, Packed] = {}
    image_layers: list[dict[str, Any]] = []
    with replaced_directory(dest) as fresh, ThreadPoolExecutor(jobs, "pack") as pool:
        layout, done = Layout(fresh), 0
        for name, image in images.items():
            share = image.stat().st_size / total
            label = {ANNOTATION_IMAGE: name}

            def told(part: float, first: float = done / total, share: float = share, name: str = name) -> None:
                progress(first + part * share, f"packing the {name} image")

            with layout.sink(TYPE_FRAMES, annotations=label) as (sink, descriptor):
                packed[name] = pack(image, sink, coding, pool, depth=jobs + 2, base=bases.get(name), progress=told)
            image_layers += [layout.add(packed[name].index, TYPE_BLOCKINDEX, annotations=label), descriptor]
            done += image.stat().st_size
        patches = {} if earlier is None else _add_patches(layout, dest.parent, earlier, images, packed, pool, jobs + 2)
        image_layers += [layer for pair in patches.values() for layer in pair]
        facts = {name: (one.size, one.sha256) for name, one in packed.items()}
        layers = [layout.add(document(metadata, facts), TYPE_METADATA), *image_layers]
        layers += [layout.copy(sbom, TYPE_SBOM), layout.copy(licences, TYPE_LICENCES)]
        for path, media_type in ((inventory, TYPE_INVENTORY), (sizes, TYPE_SIZES)):
            if path is not None:
                layers.append(layout.copy(path, media_type))
        manifest = _manifest(layout, metadata, layers)
        layout.point(manifest, _ref(metadata.version), None)
    if cache is not None:
        framecache.trim(cache)
    return BundleInfo(
        path=dest,
        digest=manifest["digest"],
        size=sum(int(layer["size"]) for layer in layers),
        images={name: _size(one, patches.get(name, ())) for name, one in packed.items()},
    )


def _bases(earlier: Opened) -> dict[str, Base]:
    images = earlier.manifest.images
    return {name: Base(earlier.path(index), earlier.path(blob)) for name, (index, blob) in images.items()}


def _add_patches(
    layout: Layout,
    spacious: Path,
    earlier: Opened,
    images: Mapping[str, Path],
    packed: Mapping[str, Packed],
    pool: Executor,
    depth: int,
) -> dict[str, list[dict[str, Any]]]:
    """Each image's layers with the patches from `earlier`; the root's blocks serve the boot image, as on a host."""
    own = {name: shorts_of(BlockIndex(io.BytesIO(one.index).read, len(one.index))) for name, one in packed.items()}
    found = {}
    with tempfile.TemporaryFile(dir=spacious) as scratch:
        places = {
            name: (earlier.path(index), earlier.path(blob)) for name, (index, blob) in earlier.manifest.images.items()
        }
        known = Earlier(places, set().union(*own.values()), scratch, pool)
        for name in ("root", "boot"):
            label = {"annotations": {ANNOTATION_IMAGE: name, ANNOTATION_BASE: earlier.manifest.digest}}
            held = known.shorts if name == "root" else known.shorts | own["root"]
            with tempfile.NamedTemporaryFile(dir=spacious) as sink:
                made = pack_patches(images[name], packed[name].index, held, known, sink, pool, depth=depth)
                sink.flush()
                if made is not None:
                    stored = layout.copy(Path(sink.name), TYPE_PATCHES, **label)
                    found[name] = [layout.add(made.listing, TYPE_PATCHINDEX, **label), stored]
    return found


def _size(packed: Packed, patches: Sequence[Mapping[str, Any]]) -> ImageSize:
    return ImageSize(
        size=packed.size,
        content=packed.content,
        stored=packed.stored,
        index=len(packed.index),
        frames=packed.frames,
        reused=packed.reused,
        cached=packed.cached,
        patches=sum(int(layer["size"]) for layer in patches),
    )


def _ref(version: str) -> str:
    """The version as a registry's tag: `+` and `~` may not be in one."""
    return re.sub(r"[^0-9A-Za-z_.-]", "_", version)[:128]


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def document(metadata: Metadata, images: Mapping[str, tuple[int, str]]) -> bytes:
    """The document of `metadata`; `images` maps boot and root to (bytes, hex sha256).

    Raises:
        HostError: a field that no host would read.
    """

    def image(name: str, fs: str) -> dict[str, object]:
        size, sha256 = images[name]
        return {"size": size, "sha256": sha256, "fs": fs, "verity": None}

    verity = metadata.verity
    raw = canonical(
        {
            "schema": SCHEMA,
            "name": metadata.name,
            "version": metadata.version,
            "distro": metadata.distro,
            "release": metadata.release,
            "arch": metadata.arch,
            "created": _time(metadata.created),
            "images": {
                "boot": image("boot", metadata.boot_fs),
                "root": image("root", metadata.root_fs)
                | {
                    "verity": None
                    if verity is None
                    else {"rootHash": verity.root_hash, "hashOffset": verity.hash_offset, "salt": verity.salt}
                },
            },
            "bootArguments": list(metadata.boot_arguments),
            "reachableFrom": list(metadata.reachable_from),
            "minimumVersion": metadata.minimum_version,
            "stateVersions": dict(metadata.state_versions),
            "facts": dict(metadata.facts),
        }
    )
    parse_metadata(raw)  # what no host would read is not written
    return raw


def _manifest(layout: Layout, metadata: Metadata, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """The manifest's descriptor, written. Its config is an image's, since old registries and tools know no other."""
    labels = {
        "org.opencontainers.image.title": metadata.name,
        "org.opencontainers.image.version": metadata.version,
        "org.opencontainers.image.created": _time(metadata.created),
        ANNOTATION_SCHEMA: SCHEMA,
        "dev.hostplane.distro": metadata.distro,
        "dev.hostplane.release": metadata.release,
        "dev.hostplane.arch": metadata.arch,
    }
    config = {
        "architecture": OCI_ARCH[metadata.arch],
        "os": "linux",
        "created": _time(metadata.created),
        "config": {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
    }
    body = {
        "schemaVersion": 2,
        "mediaType": MEDIA_MANIFEST,
        "artifactType": TYPE_BUNDLE,
        "config": layout.add(canonical(config), MEDIA_CONFIG),
        "layers": layers,
        "annotations": labels,
    }
    raw = canonical(body)
    parse_manifest(raw)
    return bundle_descriptor(layout.add(raw, MEDIA_MANIFEST)["digest"], len(raw), metadata.arch)
