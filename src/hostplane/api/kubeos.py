"""KubeOS's two kinds, so that its manifests and its proxies keep working unchanged.

Wider than KubeOS where its own manual is (empty imagetype for config and rollback, missing imageurl, flagSafe, mtls):
missing fields get defaults, because KubeOS's proxies decode every stored object whole and stop watching when one
lacks a field.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from .definition import Column, Definition, Rule
from .host import Settings
from .meta import ApiStruct, Condition, ObjectMeta, Resource

__all__ = [
    "CONFIGURING",
    "CONTROL_PLANE",
    "NODE_SELECTOR",
    "OS",
    "OSINSTANCE",
    "OSINSTANCE_DEFINITION",
    "OSINSTANCE_NODE",
    "OS_DEFINITION",
    "SERIAL",
    "UPGRADING",
    "KubeOS",
    "KubeOSSpec",
    "KubeOSStatus",
    "NamespacedName",
    "OSInstance",
    "OSInstanceSpec",
    "OSInstanceStatus",
    "TimeWindow",
]

UPGRADING = "upgrade.openeuler.org/upgrading"
CONFIGURING = "upgrade.openeuler.org/configuring"
SERIAL = "upgrade.openeuler.org/serial"
NODE_SELECTOR = "upgrade.openeuler.org/node-selector"
OSINSTANCE_NODE = "upgrade.openeuler.org/osinstance-node"
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"


class TimeWindow(ApiStruct, frozen=True, kw_only=True, gc=False):
    """KubeOS's window: both `YYYY-MM-DD HH:MM:SS`, or both `HH:MM:SS`, in the operator's own zone."""

    starttime: Annotated[str, msgspec.Meta(max_length=64)]
    endtime: Annotated[str, msgspec.Meta(max_length=64)]


class KubeOSSpec(ApiStruct, frozen=True, kw_only=True, gc=False, omit_defaults=False):
    """KubeOS's wish for a set of nodes. Defaults are written into every stored object."""

    store_defaults: ClassVar[bool] = True
    rules: ClassVar[tuple[Rule, ...]] = ()

    osversion: Annotated[str, msgspec.Meta(max_length=256)] = ""
    opstype: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["upgrade", "config", "rollback"]})]
    imagetype: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["docker", "disk", "containerd", ""]})] = ""
    containerimage: Annotated[str, msgspec.Meta(max_length=2048)] = ""
    imageurl: Annotated[str, msgspec.Meta(max_length=2048)] = ""
    checksum: Annotated[str, msgspec.Meta(max_length=256)] = ""
    flag_safe: bool = False
    mtls: bool = False
    cacert: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    clientcert: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    clientkey: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    evictpodforce: bool = False
    maxunavailable: int
    sysconfigs: Settings | None = None
    upgradeconfigs: Settings | None = None
    nodeselector: Annotated[str, msgspec.Meta(max_length=256)] = "no-label"
    timewindow: TimeWindow | None = None
    timeinterval: int = 15
    executionmode: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["serial", "parallel"]})] = "parallel"


class KubeOSStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Ours (KubeOS declares the subresource and no field): how far it is, and what is wrong with the object."""

    observed_generation: int = 0
    phase: Annotated[str, msgspec.Meta(max_length=32)] = ""
    total: int = 0
    done: int = 0
    in_progress: int = 0
    failed: int = 0
    summary: Annotated[str, msgspec.Meta(max_length=256)] = ""
    conditions: Annotated[list[Condition], msgspec.Meta(max_length=16)] = []


class KubeOS(ApiStruct, frozen=True, kw_only=True, gc=False):
    """An OS object of KubeOS."""

    metadata: ObjectMeta
    spec: KubeOSSpec
    status: KubeOSStatus = KubeOSStatus()


class NamespacedName(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Which OS object owns the running operation."""

    name: str = ""
    namespace: str = ""


class OSInstanceSpec(ApiStruct, frozen=True, kw_only=True, gc=False):
    """What KubeOS's operator asks of one node."""

    nodestatus: Annotated[str, msgspec.Meta(max_length=64)] = ""
    namespacedname: NamespacedName | None = None
    sysconfigs: Settings | None = None
    upgradeconfigs: Settings | None = None


class OSInstanceStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """What the node last applied."""

    sysconfigs: Settings | None = None
    upgradeconfigs: Settings | None = None


class OSInstance(ApiStruct, frozen=True, kw_only=True, gc=False):
    """KubeOS's object for one node; same name as the node, in namespace `default`."""

    metadata: ObjectMeta
    spec: OSInstanceSpec = OSInstanceSpec()
    status: OSInstanceStatus = OSInstanceStatus()


OS = Resource(KubeOS, "upgrade.openeuler.org", "v1alpha1", "OS", "os", namespaced=True)
OS_DEFINITION = Definition(
    resource=OS,
    description="KubeOS's wish for the operating system of a set of nodes.",
    columns=(
        Column(name="OS VERSION", path=".spec.osversion"),
        Column(name="SYSCONFIG VERSION", path=".spec.sysconfigs.version"),
        Column(name="UPGRADECONFIG VERSION", path=".spec.upgradeconfigs.version"),
        Column(name="PROGRESS", path=".status.summary"),
    ),
)
OSINSTANCE = Resource(OSInstance, "upgrade.openeuler.org", "v1alpha1", "OSInstance", "osinstances", namespaced=True)
OSINSTANCE_DEFINITION = Definition(
    resource=OSINSTANCE,
    description="KubeOS's object for one node.",
    columns=(
        Column(name="NODESTATUS", path=".spec.nodestatus"),
        Column(name="SYSCONFIG-VERSION-CURRENT", path=".status.sysconfigs.version"),
        Column(name="SYSCONFIG-VERSION-DESIRED", path=".spec.sysconfigs.version"),
        Column(name="UPGRADECONFIG-VERSION-CURRENT", path=".status.upgradeconfigs.version"),
        Column(name="UPGRADECONFIG-VERSION-DESIRED", path=".spec.upgradeconfigs.version"),
    ),
)
