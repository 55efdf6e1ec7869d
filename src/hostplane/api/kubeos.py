"""KubeOS's two kinds, so that its manifests and its proxies keep working unchanged.

Wider than KubeOS where its own manual is (empty imagetype for config and rollback, missing imageurl, flagSafe, mtls):
missing fields get defaults, because KubeOS's proxies decode every stored object whole and stop watching when one
lacks a field.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from .definition import Column, Definition, Rule, about, checked, text
from .host import Settings
from .meta import ApiStruct, Conditions, ObjectMeta, Resource

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


_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_DATE = "[0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|[12][0-9]))"
_INSTANT = msgspec.Meta(
    description="`YYYY-MM-DD HH:MM:SS` or `HH:MM:SS` on the operator's clock; empty: always open.",
    extra_json_schema=checked(
        f"self == '' || self.matches('^({_DATE} )?{_TIME}$')",
        "write YYYY-MM-DD HH:MM:SS or HH:MM:SS, two digits each, an existing date and time",
        maxLength=64,
    ),
)


class TimeWindow(ApiStruct, frozen=True, kw_only=True, gc=False):
    """KubeOS's window: both `YYYY-MM-DD HH:MM:SS`, or both `HH:MM:SS`, in the operator's own zone."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(self.starttime == '') == (self.endtime == '')",
            "give both starttime and endtime; leave both empty for a window that is always open",
        ),
        Rule(
            "self.starttime == '' || self.endtime == '' || size(self.starttime) == size(self.endtime)",
            "starttime and endtime have the same form: both with a date, or both without",
        ),
        Rule(
            "self.starttime == '' || self.starttime != self.endtime",
            "starttime equals endtime: this window would never be open",
        ),
        Rule(
            "size(self.starttime) != 19 || size(self.endtime) != 19 || self.starttime <= self.endtime",
            "endtime lies before starttime: this window would never be open",
        ),
    )

    starttime: Annotated[str, _INSTANT]
    endtime: Annotated[str, _INSTANT]


class KubeOSSpec(ApiStruct, frozen=True, kw_only=True, gc=False, omit_defaults=False):
    """KubeOS's wish for a set of nodes. Defaults are written into every stored object."""

    store_defaults: ClassVar[bool] = True
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.opstype != 'upgrade' || self.imagetype != ''",
            "an upgrade needs imagetype disk, containerd or docker",
        ),
        Rule(
            "self.opstype != 'upgrade' || self.imagetype != 'disk' || self.imageurl.matches('^https?://.')",
            "an upgrade with imagetype disk needs an imageurl that begins with http:// or https://",
        ),
        Rule(
            "self.opstype != 'upgrade' || !(self.imagetype in ['containerd', 'docker']) || self.containerimage != ''",
            "an upgrade with imagetype containerd or docker needs a containerimage",
        ),
    )

    osversion: Annotated[str, text(256, "What a node's osImage (PRETTY_NAME) is to become.")] = ""
    opstype: Annotated[
        str,
        msgspec.Meta(
            extra_json_schema={"enum": ["upgrade", "config", "rollback"]},
            description="Upgrade, go back to the other partition, or only apply sysconfigs.",
        ),
    ]
    imagetype: Annotated[
        str,
        msgspec.Meta(
            extra_json_schema={"enum": ["docker", "disk", "containerd", ""]},
            description="How an upgrade gets its image; may be empty for config and rollback.",
        ),
    ] = ""
    containerimage: Annotated[str, text(2048, "Image name for containerd and docker.")] = ""
    imageurl: Annotated[str, text(2048, "Where the root tar is, for disk.")] = ""
    checksum: Annotated[str, text(256, "SHA-256 of the tar, or the image's digest without `sha256:`.")] = ""
    flag_safe: Annotated[bool, about("Must be true to use plain http.")] = False
    mtls: Annotated[bool, about("https with a client certificate.")] = False
    cacert: Annotated[str, text(256, "File name below the node's certificate directory.")] | None = None
    clientcert: Annotated[str, text(256, "File name below the node's certificate directory.")] | None = None
    clientkey: Annotated[str, text(256, "File name below the node's certificate directory.")] | None = None
    evictpodforce: Annotated[bool, about("Also evict pods whose data or existence would be lost.")] = False
    maxunavailable: Annotated[
        int,
        msgspec.Meta(
            description="Nodes of this object in operation at once; in serial mode the size of a batch.",
            extra_json_schema=checked("self >= 1", "maxunavailable is at least 1: with less, no node is ever taken"),
        ),
    ]
    sysconfigs: Annotated[
        Settings | None, about("Settings to apply; with an upgrade or rollback, after the reboot.")
    ] = None
    upgradeconfigs: Annotated[Settings | None, about("Settings to apply before an upgrade or rollback.")] = None
    nodeselector: Annotated[
        str,
        msgspec.Meta(
            description=(
                "Value of the label upgrade.openeuler.org/node-selector on the nodes meant; `no-label`: those "
                "without the label; `all-label`: every node."
            ),
            extra_json_schema=checked(
                "self.matches('^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$')",
                "nodeselector is a label value: at most 63 letters, digits, dots, dashes and underscores",
                maxLength=256,
            ),
        ),
    ] = "no-label"
    timewindow: Annotated[TimeWindow | None, about("When new nodes may be taken; absent: always.")] = None
    timeinterval: Annotated[
        int,
        msgspec.Meta(
            description="KubeOS's seconds between rounds; kept for its programs, ours waits for events.",
            extra_json_schema=checked("self >= 0", "timeinterval is a number of seconds, 0 or more"),
        ),
    ] = 15
    executionmode: Annotated[
        str,
        msgspec.Meta(
            extra_json_schema={"enum": ["serial", "parallel"]},
            description="parallel: up to maxunavailable at once; serial: batches of that size, one node after another.",
        ),
    ] = "parallel"


class KubeOSStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Ours (KubeOS declares the subresource and no field): how far it is, and what is wrong with the object."""

    observed_generation: Annotated[int, about("The generation of the spec this was judged by.")] = 0
    phase: Annotated[str, msgspec.Meta(max_length=32, description="Running, Paused or Complete.")] = ""
    total: Annotated[int, about("Nodes it selects.")] = 0
    done: Annotated[int, about("As wished.")] = 0
    in_progress: Annotated[int, about("Being worked on.")] = 0
    failed: Annotated[int, about("Failed, and not tried again until the object changes.")] = 0
    summary: Annotated[str, msgspec.Meta(max_length=256, description="How far it is, at a glance.")] = ""
    conditions: Conditions = []


class KubeOS(ApiStruct, frozen=True, kw_only=True, gc=False):
    """An OS object of KubeOS."""

    metadata: ObjectMeta
    spec: KubeOSSpec
    status: KubeOSStatus = KubeOSStatus()


class NamespacedName(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Which OS object owns the running operation."""

    store_defaults: ClassVar[bool] = True

    name: Annotated[str, text(253, "Its name.")] = ""
    namespace: Annotated[str, text(253, "Its namespace.")] = ""


class OSInstanceSpec(ApiStruct, frozen=True, kw_only=True, gc=False):
    """What KubeOS's operator asks of one node."""

    store_defaults: ClassVar[bool] = True

    nodestatus: Annotated[str, text(64, "idle, upgrade (also for a rollback) or config.")] = ""
    namespacedname: NamespacedName | None = None
    sysconfigs: Annotated[Settings | None, about("Settings wished of this node.")] = None
    upgradeconfigs: Annotated[Settings | None, about("Settings wished of this node before the operation.")] = None


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
