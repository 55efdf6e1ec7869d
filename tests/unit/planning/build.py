"""Short ways to make the objects that planning reads, as the API server would hand them out."""

from __future__ import annotations

from typing import Any

import msgspec

from hostplane.api.core import Node, NodeCondition, NodeInfo, NodeSpec, NodeStatus
from hostplane.api.host import Host, HostSpec, HostStatus, ImageRef, Settings, SettingsModel, SlotStatus
from hostplane.api.kubeos import (
    NODE_SELECTOR,
    KubeOS,
    KubeOSSpec,
    NamespacedName,
    OSInstance,
    OSInstanceSpec,
    OSInstanceStatus,
)
from hostplane.api.ledger import Holder, Ledger, LedgerSpec
from hostplane.api.meta import LabelSelector, ObjectMeta
from hostplane.api.nodegroup import NodeGroup, NodeGroupSpec
from hostplane.api.osimage import OSImage, OSImageSpec, Variant
from hostplane.api.rollout import Rollout, RolloutSpec, RolloutStatus, Step

__all__ = [
    "Step",
    "digest",
    "group",
    "host",
    "image",
    "instance",
    "ledger",
    "node",
    "os_object",
    "rollout",
    "settings",
    "wanted",
]

BORN = "2026-01-01T00:00:00Z"


def digest(version: str) -> str:
    """A digest that is readable and of the right form."""
    return "sha256:" + version.encode().hex().rjust(64, "0")[-64:]


def settings(version: str, model: str = "kernel.sysctl") -> Settings:
    return Settings(version=version, configs=[SettingsModel(model=model)])


def node(
    name: str,
    *,
    version: str = "v1",
    ready: bool = True,
    cordoned: bool = False,
    boot: str = "boot-1",
    uid: str = "",
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    architecture: str = "amd64",
) -> Node:
    return Node(
        metadata=ObjectMeta(
            name=name,
            uid=uid or f"uid-{name}",
            labels=labels or {},
            annotations=annotations or {},
            resource_version="1",
        ),
        spec=NodeSpec(unschedulable=cordoned),
        status=NodeStatus(
            conditions=[NodeCondition(type="Ready", status="True" if ready else "False")],
            node_info=NodeInfo(boot_id=boot, os_image=version, architecture=architecture),
        ),
    )


def instance(
    name: str,
    *,
    status: str = "idle",
    owner: str = "",
    wished: str | None = None,
    applied: str | None = None,
    record: str = "",
) -> OSInstance:
    """`owner` is namespace/name; `wished` and `applied` are versions of sysconfigs."""
    namespace, _, os_name = owner.partition("/")
    return OSInstance(
        metadata=ObjectMeta(
            name=name,
            namespace="default",
            uid=f"uid-instance-{name}",
            resource_version="1",
            annotations={"hostplane.dev/operation": record} if record else {},
        ),
        spec=OSInstanceSpec(
            nodestatus=status,
            namespacedname=NamespacedName(name=os_name, namespace=namespace) if owner else None,
            sysconfigs=None if wished is None else Settings(version=wished),
        ),
        status=OSInstanceStatus(sysconfigs=None if applied is None else Settings(version=applied)),
    )


def os_object(name: str = "pool", *, namespace: str = "default", generation: int = 1, **spec: Any) -> KubeOS:
    fields: dict[str, Any] = {"osversion": "v2", "opstype": "upgrade", "maxunavailable": 1, "nodeselector": name}
    return KubeOS(
        metadata=ObjectMeta(
            name=name, namespace=namespace, uid=f"uid-os-{name}", generation=generation, resource_version="1"
        ),
        spec=KubeOSSpec(**fields | spec),
    )


def group(name: str = "web", *, selector: LabelSelector | None = None, **spec: Any) -> NodeGroup:
    """Selects the nodes whose label `pool` is its name."""
    return NodeGroup(
        metadata=ObjectMeta(name=name, uid=f"uid-group-{name}", generation=1),
        spec=NodeGroupSpec(selector=selector or LabelSelector(match_labels={"pool": name}), **spec),
    )


def rollout(
    name: str = "up",
    *,
    born: str = BORN,
    generation: int = 1,
    complete: bool = False,
    **spec: Any,
) -> Rollout:
    fields: dict[str, Any] = {"operation": "upgrade", "groups": ["web"], "image": "v2"} | spec
    if fields["operation"] != "upgrade":
        fields["image"] = spec.get("image", "")
    status = RolloutStatus(phase="Complete", observed_generation=generation) if complete else RolloutStatus()
    return Rollout(
        metadata=ObjectMeta(name=name, uid=f"uid-{name}", generation=generation, creation_timestamp=born),
        spec=RolloutSpec(**fields),
        status=status,
    )


def image(version: str = "v2", *, architecture: str = "amd64", reachable_from: list[str] | None = None) -> OSImage:
    variant = Variant(
        architecture=architecture, format="rootTar", ref=f"http://images/{version}", digest=digest(version), size=10
    )
    return OSImage(
        metadata=ObjectMeta(name=version),
        spec=OSImageSpec(distro="test", version=version, variants=[variant], reachable_from=reachable_from or []),
    )


def wanted(picture: OSImage, attempt: int = 0) -> ImageRef:
    """The image as a Host's spec names it."""
    variant = picture.spec.variants[0]
    return ImageRef(
        format=variant.format,
        ref=variant.ref,
        digest=variant.digest,
        size=variant.size,
        version=picture.spec.version,
        attempt=attempt,
    )


def host(name: str, *, node_uid: str = "", status: HostStatus | None = None, **spec: Any) -> Host:
    """A Host that runs v1 in slot A and has reported so."""
    reported = status or HostStatus(
        schema="1.0",
        protocol=1,
        phase="Idle",
        boot_id="boot-1",
        active_slot="A",
        slots={"A": SlotStatus(state="Confirmed", digest=digest("v1"), version="v1", size=10), "B": SlotStatus()},
    )
    return Host(
        metadata=ObjectMeta(name=name, uid=f"uid-host-{name}", resource_version="7"),
        spec=HostSpec(node_uid=node_uid or f"uid-{name}", **spec),
        status=reported,
    )


def ledger(next_seq: int = 1, *, groups: list[str] | None = None, **holders: tuple[int, int, int]) -> Ledger:
    """Holders are name=(seq, group index, since); an underscore in a name stands for a dash."""
    held = {n.replace("_", "-"): Holder(seq=s, group=g, since=t) for n, (s, g, t) in holders.items()}
    return Ledger(
        metadata=ObjectMeta(name="cluster", resource_version="1"),
        spec=LedgerSpec(next_seq=next_seq, groups=groups or ["group/web"], holders=held),
    )


def with_labels(subject: Node, **labels: str) -> Node:
    """The same node with more labels."""
    merged = subject.metadata.labels | labels
    return msgspec.structs.replace(subject, metadata=msgspec.structs.replace(subject.metadata, labels=merged))


POOL = NODE_SELECTOR
