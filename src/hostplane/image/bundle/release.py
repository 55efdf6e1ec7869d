"""From bundles to the OSImage that names them: what an administrator applies after a bundle was pushed.

Everything but the address comes out of the bundles themselves, each part of them compared with its digest; so a release
cannot say what its payload does not. One bundle for each architecture, all of one release.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from hostplane.api.osimage import OSIMAGE, OSImageSpec, Variant
from hostplane.errors import ImageError
from hostplane.image.bundle.inspection import Inspection
from hostplane.image.bundle.ocilayout import OCI_ARCH

__all__ = ["object_name", "osimage"]

_ALIKE = ("name", "version", "distro", "release", "reachableFrom", "stateVersions")


def osimage(bundles: Sequence[tuple[Inspection, str]], name: str = "") -> dict[str, Any]:
    """The manifest of the OSImage for (bundle, its address for hosts) pairs; `name` by default that of the release.

    Raises:
        ImageError: ReleasesDiffer, when they are not one release's, or two are for one architecture.
    """
    first = bundles[0][0].metadata
    for other, _ in bundles[1:]:
        for key in _ALIKE:
            if other.metadata.get(key) != first.get(key):
                raise ImageError("ReleasesDiffer", key=key, one=first.get(key), other=other.metadata.get(key))
    architectures = [found.metadata["arch"] for found, _ in bundles]
    if len(set(architectures)) < len(architectures):
        raise ImageError("ReleasesDiffer", key="arch", one=architectures[0], other="the same again")
    inventory = bundles[0][0].inventory
    spec = OSImageSpec(
        distro=first["distro"],
        version=first["version"],
        pretty_name=inventory.os_release.get("PRETTY_NAME", "") if inventory else "",
        reachable_from=list(first["reachableFrom"]),
        state_versions=dict(first["stateVersions"]),
        variants=[_variant(found, ref) for found, ref in bundles],
    )
    chosen = name or object_name(f"{first['name']}-{first['version']}")
    return OSIMAGE.manifest(chosen, spec=msgspec.to_builtins(spec))


def object_name(text: str) -> str:
    """`text` as Kubernetes names objects: lower case, digits, `-` and `.`, at most 253 characters."""
    parts = (part.strip("-") for part in re.sub(r"[^a-z0-9.]+", "-", text.lower())[:253].split("."))
    return ".".join(part for part in parts if part)


def _variant(found: Inspection, ref: str) -> Variant:
    root = next((image for image in found.images if image.name == "root"), None)
    return Variant(
        architecture=OCI_ARCH[found.metadata["arch"]],
        format="bundle",
        ref=ref,
        digest=found.digest,
        size=found.size,
        verity_root_hash=root.verity_root_hash if root else "",
        sbom_digest=found.sbom_digest,
        signature_digests=list(found.signature_digests),
    )
