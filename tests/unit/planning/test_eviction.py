"""Which pods leave, which stay, and which forbid a drain."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostplane.api.core import PodDisruptionBudget
from hostplane.api.nodegroup import Drain
from hostplane.planning.eviction import (
    Evict,
    Refuse,
    Skip,
    Tenant,
    Wait,
    blocking_budgets,
    classify,
    plan_drain,
    selecting_budgets,
    tolerates_cordon,
)

CAREFUL = Drain(evict_unmanaged=False, evict_empty_dir=False)
BOLD = Drain(evict_unmanaged=True, evict_empty_dir=True)


def pod(
    name: str = "p",
    *,
    owner: str | None = "ReplicaSet",
    controller: bool = True,
    phase: str = "Running",
    leaving: bool = False,
    mirror: bool = False,
    empty_dir: bool = False,
    labels: dict[str, str] | None = None,
    tolerations: list[dict[str, str]] | None = None,
) -> Tenant:
    """A pod as the API server writes it, so that decoding is part of what is tested."""
    metadata: dict[str, Any] = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "labels": labels or {}}
    if owner:
        metadata["ownerReferences"] = [{"kind": owner, "name": "o", "uid": "o", "controller": controller}]
    if leaving:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    if mirror:
        metadata["annotations"] = {"kubernetes.io/config.mirror": "abc"}
    volumes: list[dict[str, Any]] = [{"name": "v", "emptyDir": {}}] if empty_dir else [{"name": "v", "configMap": {}}]
    spec = {"nodeName": "n", "volumes": volumes, "tolerations": tolerations or []}
    return msgspec.convert({"metadata": metadata, "spec": spec, "status": {"phase": phase}}, Tenant)


def budget(name: str, selector: Any, allowed: int = 0, namespace: str = "shop") -> PodDisruptionBudget:
    spec = {} if selector is None else {"selector": selector}
    body = {"metadata": {"name": name, "namespace": namespace}, "spec": spec, "status": {"disruptionsAllowed": allowed}}
    return msgspec.convert(body, PodDisruptionBudget)


pods = st.builds(
    pod,
    st.text("abc", min_size=1, max_size=6),
    owner=st.sampled_from([None, "ReplicaSet", "DaemonSet", "StatefulSet", "Node"]),
    controller=st.booleans(),
    phase=st.sampled_from(["", "Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    leaving=st.booleans(),
    mirror=st.booleans(),
    empty_dir=st.booleans(),
    tolerations=st.lists(st.fixed_dictionaries({"operator": st.just("Exists")}), max_size=1),
)
policies = st.builds(Drain, evict_unmanaged=st.booleans(), evict_empty_dir=st.booleans())


@pytest.mark.parametrize(
    ("given_pod", "policy", "verdict", "name"),
    [
        (pod(), CAREFUL, Evict, None),
        (pod(mirror=True, owner="Node"), BOLD, Skip, "MirrorPodStays"),
        (pod(mirror=True, owner=None), CAREFUL, Skip, "MirrorPodStays"),
        (pod(mirror=True, leaving=True, phase="Failed"), BOLD, Skip, "MirrorPodStays"),
        (pod(owner="DaemonSet"), BOLD, Skip, "DaemonSetPodStays"),
        (pod(owner="DaemonSet", leaving=True), CAREFUL, Skip, "DaemonSetPodStays"),
        (pod(owner="DaemonSet", empty_dir=True), CAREFUL, Skip, "DaemonSetPodStays"),
        (pod(owner="DaemonSet", controller=False), CAREFUL, Refuse, "UnmanagedPod"),
        (pod(leaving=True), CAREFUL, Wait, None),
        (pod(leaving=True, owner=None, empty_dir=True), CAREFUL, Wait, None),
        (pod(phase="Succeeded", owner=None, empty_dir=True), CAREFUL, Evict, None),
        (pod(phase="Failed", owner=None), CAREFUL, Evict, None),
        (pod(owner=None), CAREFUL, Refuse, "UnmanagedPod"),
        (pod(owner=None), BOLD, Evict, None),
        (pod(owner="ReplicaSet", controller=False), CAREFUL, Refuse, "UnmanagedPod"),
        (pod(empty_dir=True), CAREFUL, Refuse, "EmptyDirPod"),
        (pod(empty_dir=True), BOLD, Evict, None),
        (pod(empty_dir=True, owner=None), Drain(evict_unmanaged=True, evict_empty_dir=False), Refuse, "EmptyDirPod"),
    ],
)
def test_each_class_of_pod_gets_its_verdict(given_pod: Tenant, policy: Drain, verdict: type, name: str | None) -> None:
    got = classify(given_pod, policy)

    assert type(got) is verdict
    if isinstance(got, Skip | Refuse):
        assert got.reason.name == name
        assert "shop/p" in got.reason.text
        assert got.reason.code.startswith("HP-25")


@given(pods, policies)
def test_what_belongs_to_the_node_is_never_evicted_waited_for_or_refused(one: Tenant, policy: Drain) -> None:
    belongs = "kubernetes.io/config.mirror" in one.metadata.annotations or (
        one.controller is not None and one.controller.kind == "DaemonSet"
    )

    assert isinstance(classify(one, policy), Skip) == belongs


@given(pods, policies)
def test_a_leaving_pod_is_never_asked_again(one: Tenant, policy: Drain) -> None:
    verdict = classify(one, policy)

    assert one.metadata.deletion_timestamp is None or isinstance(verdict, Wait | Skip)


@given(pods)
def test_a_bolder_policy_never_refuses(one: Tenant) -> None:
    assert not isinstance(classify(one, BOLD), Refuse)


@given(st.lists(pods, max_size=8), policies)
def test_a_plan_holds_every_pod_once_and_evicts_nothing_beside_a_refusal(some: list[Tenant], policy: Drain) -> None:
    plan = plan_drain(some, policy)

    sorted_pods = [*plan.evict, *plan.wait, *(p for p, _ in plan.skip), *(p for p, _ in plan.refused)]
    assert not (plan.refused and plan.evict)
    if not plan.refused:
        assert sorted(map(id, sorted_pods)) == sorted(map(id, some))
    assert plan.is_done == all(isinstance(classify(p, policy), Skip) for p in some)


@given(st.lists(pods, max_size=8), policies)
def test_the_first_listing_leaves_nobody_out(some: list[Tenant], policy: Drain) -> None:
    assert plan_drain(some, policy, {p.metadata.uid for p in some}) == plan_drain(some, policy)


def test_a_pod_that_tolerates_the_cordon_is_evicted_at_first_and_left_alone_when_it_comes_back() -> None:
    stubborn = pod("stubborn", tolerations=[{"operator": "Exists"}])
    leaving = pod("leaving", leaving=True, tolerations=[{"operator": "Exists"}])
    ordinary = pod("ordinary")

    assert plan_drain([stubborn], CAREFUL, {"uid-stubborn"}).evict == (stubborn,)
    late = plan_drain([stubborn, leaving, ordinary], CAREFUL, set())
    assert late.evict == (ordinary,)
    assert late.wait == ()
    assert [why.name for _, why in late.skip] == ["CordonToleratingPodStays"] * 2


def test_a_refused_pod_that_comes_late_still_stops_the_drain() -> None:
    late = plan_drain([pod(owner=None, tolerations=[{"operator": "Exists"}])], CAREFUL, set())

    assert [why.name for _, why in late.refused] == ["UnmanagedPod"]


@pytest.mark.parametrize(
    ("toleration", "tolerates"),
    [
        ({"operator": "Exists"}, True),
        ({"operator": "Exists", "effect": "NoSchedule"}, True),
        ({"operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}, True),
        ({"key": "node.kubernetes.io/unschedulable"}, True),
        ({"key": "node.kubernetes.io/unschedulable", "value": "x"}, False),
        ({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "", "value": ""}, False),
    ],
)
def test_knows_who_tolerates_a_cordon(toleration: dict[str, str], tolerates: bool) -> None:
    assert tolerates_cordon(pod(tolerations=[toleration])) is tolerates


@pytest.mark.parametrize(
    ("selector", "selects"),
    [
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "db"}}, False),
        ({}, True),
        (None, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "x"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["x"]}]}, False),
        ({"matchExpressions": [{"key": "nope", "operator": "In", "values": ["x"]}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "nope", "operator": "NotIn", "values": ["web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "nope", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "nope", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Gt", "values": ["1"]}]}, False),
        ({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "nope", "operator": "Exists"}]}, False),
    ],
)
def test_a_budget_selects_as_kubernetes_does(selector: Any, selects: bool) -> None:
    one = pod(labels={"app": "web"})

    assert blocking_budgets(one, [budget("b", selector)]) == (("shop/b",) if selects else ())


def test_only_a_budget_that_allows_nothing_blocks() -> None:
    one, everything = pod(labels={"app": "web"}), {}

    assert blocking_budgets(one, [budget("b", everything, allowed=1)]) == ()
    assert selecting_budgets(one, [budget("b", everything, allowed=1)]) == ("shop/b",)
    assert blocking_budgets(one, [budget("b", everything, namespace="other")]) == ()


def test_several_budgets_over_one_pod_all_block_because_kubernetes_then_never_evicts() -> None:
    both = [budget("b", {}, allowed=5), budget("a", {}, allowed=5)]

    assert blocking_budgets(pod(), both) == ("shop/a", "shop/b")
