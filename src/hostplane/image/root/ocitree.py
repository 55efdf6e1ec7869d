"""Reads an OCI image from a layout directory: which layers it has, each one's digest checked before it is used.

Only what a root needs is understood: an index, an image manifest, tar layers. A layer is checked against the digest and
the size its manifest names, the manifest against the index; a blob that differs stops the build.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hostplane.errors import ImageError

__all__ = ["is_layout", "layers", "manifest_digest", "split"]

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_REF = "org.opencontainers.image.ref.name"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
_TAR = re.compile(r"(image\.layer|rootfs\.diff).*tar")
_JSON_BYTES = 8 << 20


def split(source: str) -> tuple[Path, str]:
    """The directory and the tag of DIR or DIR:tag."""
    if not Path(source).exists() and ":" in source:
        place, _, tag = source.rpartition(":")
        return Path(place), tag
    return Path(source), ""


def is_layout(directory: Path) -> bool:
    """Whether `directory` is an OCI image layout."""
    return (directory / "oci-layout").is_file() and (directory / "index.json").is_file()


def manifest_digest(directory: Path, tag: str, arch: str) -> str:
    """sha256:… of the manifest of the image `tag` (empty: the only one) for `arch`, in uname's words.

    Raises:
        ImageError: OciImageUnclear, OciBlobWrong, OciImageUnreadable.
    """
    return _manifest(directory, tag, arch)[0]


def layers(directory: Path, tag: str, arch: str) -> list[Path]:
    """The files of the image's layers, the lowest first, each one checked.

    Raises:
        ImageError: as `manifest_digest`.
    """
    _, manifest = _manifest(directory, tag, arch)
    found = []
    for layer in manifest.get("layers", ()):
        if not _TAR.search(str(layer.get("mediaType", ""))):
            raise ImageError("OciImageUnreadable", path=directory, error=f"layer of type {layer.get('mediaType')}")
        found.append(_blob(directory, layer))
    return found


def _manifest(directory: Path, tag: str, arch: str) -> tuple[str, dict[str, Any]]:
    try:
        listed = json.loads((directory / "index.json").read_text(encoding="utf-8"))["manifests"]
        chosen = _choose(directory, listed, tag, arch)
        while chosen.get("mediaType") in _INDEXES:
            inner = _json(directory, chosen)["manifests"]
            chosen = _choose(directory, inner, "", arch)
        return str(chosen["digest"]), _json(directory, chosen)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImageError("OciImageUnreadable", path=directory, error=error) from error


def _choose(directory: Path, listed: list[dict[str, Any]], tag: str, arch: str) -> dict[str, Any]:
    images = [each for each in listed if (each.get("platform") or {}).get("os") != "unknown"]
    if tag:
        images = [each for each in images if (each.get("annotations") or {}).get(_REF) == tag]
    own = [each for each in images if (each.get("platform") or {}).get("architecture", "") == _ARCH.get(arch, arch)]
    images = own or [each for each in images if not (each.get("platform") or {}).get("architecture")]
    if len(images) != 1:
        known = ", ".join(sorted({str((each.get("annotations") or {}).get(_REF, "no tag")) for each in listed}))
        raise ImageError("OciImageUnclear", path=directory, tag=tag or "-", arch=arch, found=len(images), known=known)
    return images[0]


def _json(directory: Path, descriptor: Mapping[str, Any]) -> dict[str, Any]:
    path = _blob(directory, descriptor)
    if path.stat().st_size > _JSON_BYTES:
        raise ImageError("OciImageUnreadable", path=path, error="too large for a manifest")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _blob(directory: Path, descriptor: Mapping[str, Any]) -> Path:
    digest = str(descriptor["digest"])
    if not _DIGEST.fullmatch(digest):
        raise ImageError("OciImageUnreadable", path=directory, error=f"digest {digest}")
    path = directory / "blobs/sha256" / digest.removeprefix("sha256:")
    with path.open("rb") as stream:
        got = hashlib.file_digest(stream, "sha256").hexdigest()
    if f"sha256:{got}" != digest or path.stat().st_size != descriptor.get("size", path.stat().st_size):
        raise ImageError("OciBlobWrong", path=path, want=digest, got=f"sha256:{got}")
    return path
