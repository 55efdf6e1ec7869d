"""Kubernetes' own kinds, trimmed to what our programs read.

A Node's heartbeat time is left out on purpose: it changes all the time and decides nothing here, so a Node that only
beat its heart decodes to an equal value and wakes nobody. Readiness comes from the condition's status, and a boot is
recognised by its boot id (the kubelet posts both in one update), never by comparing clocks.
"""

from __future__ import annotations

import msgspec

from .meta import ApiStruct, ObjectMeta, OwnerReference, Resource

__all__ = ["DAEMON_SET", "NODE", "POD", "POD_DISRUPTION_BUDGET", "Node", "NodeInfo", "Pod", "PodDisruptionBudget"]


class NodeInfo(ApiStruct, frozen=True, kw_only=True, gc=False):
    """What the kubelet says of its host."""

    boot_id: str = msgspec.field(name="bootID", default="")
    os_image: str = ""
    kernel_version: str = ""
    architecture: str = ""
    kubelet_version: str = ""
    container_runtime_version: str = ""


class NodeCondition(ApiStruct, frozen=True, kw_only=True, gc=False):
    """One condition, without its heartbeat."""

    type: str = ""
    status: str = ""


class Taint(ApiStruct, frozen=True, kw_only=True, gc=False):
    """A taint on a node."""

    key: str = ""
    effect: str = ""


class NodeSpec(ApiStruct, frozen=True, kw_only=True, gc=False):
    """What is wished of a node."""

    unschedulable: bool = False


class NodeStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """What a node reports."""

    conditions: list[NodeCondition] = []
    node_info: NodeInfo = NodeInfo()


class Node(ApiStruct, frozen=True, kw_only=True, gc=False):
    """A node of the cluster."""

    metadata: ObjectMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def ready(self) -> bool:
        """True while the Ready condition says so; an absent condition is not ready."""
        for condition in self.status.conditions:  # asked for every node in every pass: plain is fastest
            if condition.type == "Ready":
                return condition.status == "True"
        return False


class PodVolume(ApiStruct, frozen=True, kw_only=True, gc=False):
    """A volume, as far as a drain cares: emptyDir or something else."""

    name: str = ""
    empty_dir: dict[str, object] | None = None


class PodSpec(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Where a pod runs and what it mounts."""

    node_name: str = ""
    volumes: list[PodVolume] = []
    termination_grace_period_seconds: int | None = None


class PodCondition(ApiStruct, frozen=True, kw_only=True, gc=False):
    """One condition of a pod."""

    type: str = ""
    status: str = ""


class PodStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """How a pod is."""

    phase: str = ""
    conditions: list[PodCondition] = []


class Pod(ApiStruct, frozen=True, kw_only=True, gc=False):
    """A pod, as a drain sees it."""

    metadata: ObjectMeta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def controller(self) -> OwnerReference | None:
        """The owner that manages this pod, if any."""
        return next((o for o in self.metadata.owner_references if o.controller), None)

    @property
    def ready(self) -> bool:
        """True while the Ready condition says so."""
        return any(c.type == "Ready" and c.status == "True" for c in self.status.conditions)


class LabelSelectorRaw(ApiStruct, frozen=True, kw_only=True, gc=False):
    """A label selector as another API wrote it."""

    match_labels: dict[str, str] = {}
    match_expressions: list[dict[str, object]] = []


class PodDisruptionBudgetSpec(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Which pods a budget protects."""

    selector: LabelSelectorRaw | None = None


class PodDisruptionBudgetStatus(ApiStruct, frozen=True, kw_only=True, gc=False):
    """How many disruptions a budget allows now."""

    disruptions_allowed: int = 0


class PodDisruptionBudget(ApiStruct, frozen=True, kw_only=True, gc=False):
    """A PodDisruptionBudget, as far as naming the one that blocks a drain needs."""

    metadata: ObjectMeta
    spec: PodDisruptionBudgetSpec = PodDisruptionBudgetSpec()
    status: PodDisruptionBudgetStatus = PodDisruptionBudgetStatus()


class Bare(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Any object of which only the metadata matters."""

    metadata: ObjectMeta


NODE = Resource(Node, "", "v1", "Node", "nodes")
POD = Resource(Pod, "", "v1", "Pod", "pods", namespaced=True)
POD_DISRUPTION_BUDGET = Resource(
    PodDisruptionBudget, "policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", namespaced=True
)
DAEMON_SET = Resource(Bare, "apps", "v1", "DaemonSet", "daemonsets", namespaced=True)
