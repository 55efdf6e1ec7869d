"""Which pods of a node are asked to leave, which are waited for, which stay, and which forbid the drain.

Every decision of a drain is made here, from a listing of the node's pods and the group's policy; nothing here talks to
anyone. Two rules protect what cannot be brought back:

- one pod that may not be evicted stops the drain before its first eviction: half a drain helps nobody;
- a pod that belongs to the node (DaemonSet, mirror) is left alone in every phase, also while it terminates, because
  it would come back at once or is not the API server's to remove.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import msgspec

from hostplane.api.core import POD, LabelSelectorRaw, Pod, PodDisruptionBudget, PodSpec
from hostplane.api.meta import ApiStruct, Resource
from hostplane.api.nodegroup import Drain
from hostplane.errors import Reason, reason

__all__ = [
    "TENANT",
    "DrainPlan",
    "Evict",
    "Refuse",
    "Skip",
    "Tenant",
    "Toleration",
    "Verdict",
    "Wait",
    "blocking_budgets",
    "classify",
    "plan_drain",
    "pod_name",
    "selecting_budgets",
    "tolerates_cordon",
]

_MIRROR = "kubernetes.io/config.mirror"
_CORDON_TAINT = "node.kubernetes.io/unschedulable"
_FINISHED = ("Succeeded", "Failed")


class Toleration(ApiStruct, frozen=True, kw_only=True, gc=False):
    """A taint a pod puts up with."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class TenantSpec(PodSpec, frozen=True, kw_only=True, gc=False):
    """A pod's spec with what it tolerates."""

    tolerations: tuple[Toleration, ...] = ()


class Tenant(Pod, frozen=True, kw_only=True, gc=False):
    """A pod as it is read from a node that is drained: also with what it tolerates."""

    spec: TenantSpec = TenantSpec()


TENANT = Resource(Tenant, POD.group, POD.version, POD.kind, POD.plural, namespaced=True)


class Skip(msgspec.Struct, frozen=True):
    """The pod stays on the node, and `reason` says why that is right."""

    reason: Reason


class Wait(msgspec.Struct, frozen=True):
    """The pod is leaving already; asking again would change nothing."""


class Evict(msgspec.Struct, frozen=True):
    """The pod is asked to leave."""


class Refuse(msgspec.Struct, frozen=True):
    """The policy forbids to evict this pod, so the node is not drained at all."""

    reason: Reason


Verdict = Skip | Wait | Evict | Refuse


class DrainPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do about each pod of one listing. While anything is refused, `evict` is empty."""

    evict: tuple[Tenant, ...] = ()
    wait: tuple[Tenant, ...] = ()
    skip: tuple[tuple[Tenant, Reason], ...] = ()
    refused: tuple[tuple[Tenant, Reason], ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left that has to leave."""
        return not (self.evict or self.wait or self.refused)


def pod_name(pod: Pod) -> str:
    """`namespace/name`, as people and messages call a pod."""
    return f"{pod.metadata.namespace}/{pod.metadata.name}"


def classify(pod: Pod, policy: Drain) -> Verdict:
    """What a drain under `policy` does about this one pod."""
    controller = pod.controller
    if _MIRROR in pod.metadata.annotations:
        return Skip(reason("MirrorPodStays", pod=pod_name(pod)))
    if controller is not None and controller.kind == "DaemonSet":
        return Skip(reason("DaemonSetPodStays", pod=pod_name(pod)))
    if pod.metadata.deletion_timestamp is not None:
        return Wait()
    if pod.status.phase in _FINISHED:
        return Evict()
    if controller is None and not policy.evict_unmanaged:
        return Refuse(reason("UnmanagedPod", pod=pod_name(pod)))
    if not policy.evict_empty_dir and any(volume.empty_dir is not None for volume in pod.spec.volumes):
        return Refuse(reason("EmptyDirPod", pod=pod_name(pod)))
    return Evict()


def tolerates_cordon(pod: Tenant) -> bool:
    """Whether the scheduler may put this pod on a cordoned node."""
    return any(
        toleration.key in ("", _CORDON_TAINT)
        and toleration.effect in ("", "NoSchedule")
        and (toleration.operator == "Exists" or (toleration.key != "" and toleration.value == ""))
        for toleration in pod.spec.tolerations
    )


def plan_drain(pods: Iterable[Tenant], policy: Drain, first: Container[str] | None = None) -> DrainPlan:
    """Sorts the pods of one node; a single refusal leaves nothing to evict.

    `first` holds the uids of the first listing of this drain. A pod that came later although the node is cordoned, and
    may do so again, is skipped: evicting it for ever would end at the deadline, never at an empty node.
    """
    evict: list[Tenant] = []
    wait: list[Tenant] = []
    skip: list[tuple[Tenant, Reason]] = []
    refused: list[tuple[Tenant, Reason]] = []
    for pod in pods:
        late = first is not None and pod.metadata.uid not in first and tolerates_cordon(pod)
        match classify(pod, policy):
            case Evict() | Wait() if late:
                skip.append((pod, reason("CordonToleratingPodStays", pod=pod_name(pod))))
            case Evict():
                evict.append(pod)
            case Wait():
                wait.append(pod)
            case Skip(why):
                skip.append((pod, why))
            case Refuse(why):
                refused.append((pod, why))
    return DrainPlan(evict=() if refused else tuple(evict), wait=tuple(wait), skip=tuple(skip), refused=tuple(refused))


def blocking_budgets(pod: Pod, budgets: Iterable[PodDisruptionBudget]) -> tuple[str, ...]:
    """`namespace/name` of the budgets that do not let this pod go, sorted.

    A budget blocks when it selects the pod and allows no disruption now. Where several budgets select one pod, all of
    them block, whatever they allow: Kubernetes never evicts such a pod.
    """
    ours = _selecting(pod, budgets)
    blocking = ours if len(ours) > 1 else [budget for budget in ours if budget.status.disruptions_allowed <= 0]
    return _names(blocking)


def selecting_budgets(pod: Pod, budgets: Iterable[PodDisruptionBudget]) -> tuple[str, ...]:
    """`namespace/name` of the budgets that select this pod, sorted, whatever they allow now."""
    return _names(_selecting(pod, budgets))


def _names(budgets: Iterable[PodDisruptionBudget]) -> tuple[str, ...]:
    return tuple(sorted(f"{budget.metadata.namespace}/{budget.metadata.name}" for budget in budgets))


def _selecting(pod: Pod, budgets: Iterable[PodDisruptionBudget]) -> list[PodDisruptionBudget]:
    return [
        budget
        for budget in budgets
        if budget.metadata.namespace == pod.metadata.namespace
        and budget.spec.selector is not None  # policy/v1: no selector selects nothing, an empty one everything
        and _matches(budget.spec.selector, pod.metadata.labels)
    ]


def _matches(selector: LabelSelectorRaw, labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.match_labels.items()) and all(
        _expression_matches(expression, labels) for expression in selector.match_expressions
    )


def _expression_matches(expression: Mapping[str, object], labels: Mapping[str, str]) -> bool:
    value = labels.get(str(expression.get("key")))
    listed = expression.get("values")
    values = listed if isinstance(listed, list) else []
    match expression.get("operator"):
        case "In":
            return value is not None and value in values
        case "NotIn":
            return value is None or value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    return False  # an operator of a later Kubernetes: better no name than a wrong one
