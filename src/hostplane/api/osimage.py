"""OSImage: one immutable release, with a variant per architecture."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from .definition import Column, Definition, Rule, about
from .host import Digest, Version
from .meta import ApiStruct, Conditions, ObjectMeta, Resource, SchemaVersion

__all__ = ["OSIMAGE", "OSIMAGE_DEFINITION", "OSImage", "OSImageSpec", "Variant"]


class Variant(ApiStruct, frozen=True, kw_only=True, gc=False):
    """The payload for one architecture, named as Kubernetes names it (amd64, arm64)."""

    architecture: Annotated[str, msgspec.Meta(min_length=1, max_length=32, description="Like amd64 or arm64.")]
    format: Annotated[
        str,
        msgspec.Meta(
            extra_json_schema={"enum": ["bundle", "rootTar", "osTar"]},
            description="bundle (ours), rootTar (a root file system) or osTar (KubeOS's os.tar).",
        ),
    ]
    ref: Annotated[str, msgspec.Meta(min_length=1, max_length=2048, description="Where hosts fetch the payload from.")]
    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=1, description="Bytes of the payload.")]
    verity_root_hash: Annotated[
        str, msgspec.Meta(pattern="^([0-9a-f]{64})?$", description="dm-verity root hash of the root file system.")
    ] = ""
    sbom_digest: Annotated[
        str, msgspec.Meta(pattern="^(sha256:[0-9a-f]{64})?$", description="Digest of its bill of materials.")
    ] = ""
    signature_digests: Annotated[
        list[Digest], msgspec.Meta(max_length=16, description="Digests of its signatures.")
    ] = []


class OSImageSpec(ApiStruct, frozen=True, kw_only=True, gc=False):
    """What the release is and where it may come from."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("self == oldSelf", "an OSImage is immutable: publish a new release under a new name"),
    )

    schema_version: SchemaVersion = "1.0"
    distro: Annotated[str, msgspec.Meta(min_length=1, max_length=64, description="ID of os-release.")]
    version: Version
    pretty_name: Annotated[
        str, msgspec.Meta(max_length=256, description="PRETTY_NAME of os-release, as nodes report it.")
    ] = ""
    reachable_from: Annotated[
        list[Version],
        msgspec.Meta(max_length=256, description="Versions this one may be reached from; empty: from any."),
    ] = []
    state_versions: Annotated[
        dict[str, Annotated[str, msgspec.Meta(max_length=64)]],
        msgspec.Meta(
            max_length=32, description="Versions of the state it writes in /var, by component (containerd, kubelet...)."
        ),
    ] = {}
    variants: Annotated[
        list[Variant],
        msgspec.Meta(
            min_length=1,
            max_length=16,
            extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["architecture"]},
            description="The payloads, one an architecture.",
        ),
    ]


class OSImageStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Where the release is in use."""

    hosts: Annotated[int, about("Hosts that run it.")] = 0
    conditions: Conditions = []


class OSImage(ApiStruct, frozen=True, kw_only=True, gc=False):
    """One release of an operating system."""

    metadata: ObjectMeta
    spec: OSImageSpec
    status: OSImageStatus = OSImageStatus()

    def variant(self, architecture: str) -> Variant | None:
        """The payload for that architecture, or None where the release has none."""
        return next((v for v in self.spec.variants if v.architecture == architecture), None)


OSIMAGE = Resource(OSImage, "hostplane.dev", "v1alpha1", "OSImage", "osimages")
OSIMAGE_DEFINITION = Definition(
    resource=OSIMAGE,
    short_names=("osi",),
    description="One immutable release of an operating system, with a payload per architecture.",
    columns=(
        Column(name="Distro", path=".spec.distro"),
        Column(name="Version", path=".spec.version"),
        Column(name="Architectures", path=".spec.variants[*].architecture"),
        Column(name="Hosts", path=".status.hosts", type="integer"),
        Column(name="Age", path=".metadata.creationTimestamp", type="date"),
    ),
)
