"""NodeGroup: which nodes belong together, how many may be away at once, and when."""

from __future__ import annotations

from typing import Annotated

import msgspec

from .definition import Column, Definition, IntOrPercent, about, checked
from .host import HostSettings
from .meta import ApiStruct, Conditions, LabelSelector, ObjectMeta, Resource, SchemaVersion

__all__ = [
    "NODEGROUP",
    "NODEGROUP_DEFINITION",
    "Drain",
    "NodeGroup",
    "NodeGroupSpec",
    "NodeGroupStatus",
    "TopologyCap",
    "Window",
    "Wish",
]

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class TopologyCap(ApiStruct, frozen=True, kw_only=True, gc=False):
    """At most so many nodes away at once among those that share a value of this node label."""

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=317, description="Like topology.kubernetes.io/zone.")]
    max_unavailable: Annotated[IntOrPercent, about("Nodes away at once among those with the same value.")] = 1


class Window(ApiStruct, frozen=True, kw_only=True, gc=False):
    """When new work may begin: on these weekdays, from `start` for `duration`, in an IANA time zone."""

    weekdays: Annotated[
        list[Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(WEEKDAYS)})]],
        msgspec.Meta(
            max_length=7, extra_json_schema={"x-kubernetes-list-type": "set"}, description="Empty: every day."
        ),
    ] = []
    start: Annotated[
        str, msgspec.Meta(pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$", description="HH:MM, local time of the zone.")
    ]
    duration: Annotated[
        str,
        msgspec.Meta(
            description="Like 4h or 90m, at most a week.",
            extra_json_schema=checked(
                "self.matches('^[0-9]{1,5}[hm]$') && duration(self) > duration('0s') "
                "&& duration(self) <= duration('168h')",
                "write a duration like 4h or 90m, more than nothing and at most 168h",
                maxLength=8,
            ),
        ),
    ]
    time_zone: Annotated[str, msgspec.Meta(max_length=64, description="IANA name, like Asia/Shanghai.")] = "UTC"


class Drain(ApiStruct, frozen=True, kw_only=True, gc=False):
    """How pods are asked to leave. A class that may not be evicted stops the drain before the first eviction."""

    deadline_seconds: Annotated[
        int, msgspec.Meta(ge=10, le=86400, description="After this the host is released and tried later.")
    ] = 1800
    evict_unmanaged: Annotated[bool, msgspec.Meta(description="Also pods that no controller would bring back.")] = False
    evict_empty_dir: Annotated[bool, msgspec.Meta(description="Also pods whose emptyDir data would be lost.")] = True
    grace_period_seconds: (
        Annotated[int, msgspec.Meta(ge=0, le=86400, description="Instead of each pod's own.")] | None
    ) = None
    skip: Annotated[bool, msgspec.Meta(description="Reboot without a drain (the cordon stays).")] = False


class NodeGroupSpec(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Membership, budget, windows and drain policy."""

    schema_version: SchemaVersion = "1.0"
    selector: Annotated[LabelSelector, about("Which nodes; a node in two groups is worked on by neither.")]
    mode: Annotated[
        str,
        msgspec.Meta(
            extra_json_schema={"enum": ["Managed", "Hidden"]},
            description="Hidden nodes are left alone and out of lists.",
        ),
    ] = "Managed"
    max_unavailable: Annotated[
        IntOrPercent, msgspec.Meta(description="Nodes away at once: a count, or a share rounded down, at least 1.")
    ] = 1
    topology: Annotated[
        list[TopologyCap],
        msgspec.Meta(
            max_length=8,
            extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key"]},
            description="Further caps, per zone or rack.",
        ),
    ] = []
    windows: Annotated[
        list[Window], msgspec.Meta(max_length=32, description="When new work may begin; empty: always.")
    ] = []
    drain: Annotated[Drain, about("How pods are asked to leave before a reboot.")] = Drain()
    settings: Annotated[
        HostSettings | None, about("What every member is to be set to, also one that joins late; no Rollout is needed.")
    ] = None


class Wish(ApiStruct, frozen=True, kw_only=True, gc=False):
    """The Rollout in force for a group."""

    rollout: Annotated[str, msgspec.Meta(max_length=253, description="Name of the Rollout.")] = ""
    operation: Annotated[str, msgspec.Meta(max_length=32, description="Its operation.")] = ""
    image: Annotated[str, msgspec.Meta(max_length=253, description="The OSImage this group is to run.")] = ""
    generation: Annotated[int, about("The Rollout's generation.")] = 0


class NodeGroupStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """How many nodes are in the group, and how far they are."""

    observed_generation: Annotated[int, about("The generation of the spec this was judged by.")] = 0
    current: Wish | None = None
    nodes: Annotated[int, about("Members.")] = 0
    up_to_date: Annotated[int, about("Members that are as wished.")] = 0
    unavailable: Annotated[int, about("Members that are away now, for whatever reason.")] = 0
    budget: Annotated[int, about("Members that may be away at once.")] = 0
    conditions: Conditions = []


class NodeGroup(ApiStruct, frozen=True, kw_only=True, gc=False):
    """A group of nodes that share budget, windows and policy."""

    metadata: ObjectMeta
    spec: NodeGroupSpec
    status: NodeGroupStatus = NodeGroupStatus()


NODEGROUP = Resource(NodeGroup, "hostplane.dev", "v1alpha1", "NodeGroup", "nodegroups")
NODEGROUP_DEFINITION = Definition(
    resource=NODEGROUP,
    short_names=("ng",),
    description="Which nodes belong together, how many may be away at once, and when.",
    columns=(
        Column(name="Nodes", path=".status.nodes", type="integer"),
        Column(name="Up-to-date", path=".status.upToDate", type="integer"),
        Column(name="Away", path=".status.unavailable", type="integer"),
        Column(name="Budget", path=".status.budget", type="integer"),
        Column(name="Rollout", path=".status.current.rollout"),
        Column(name="Mode", path=".spec.mode", priority=1),
        Column(name="Age", path=".metadata.creationTimestamp", type="date"),
    ),
)
