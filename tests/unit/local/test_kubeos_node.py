"""KubeOS's proxy as a table: what it does next, by owner, version, label and nodestatus."""

from __future__ import annotations

import pytest

from hostplane.api.core import Node, NodeInfo, NodeStatus
from hostplane.api.kubeos import (
    CONFIGURING,
    UPGRADING,
    KubeOS,
    KubeOSSpec,
    NamespacedName,
    OSInstance,
    OSInstanceSpec,
)
from hostplane.api.meta import ObjectMeta
from hostplane.local.kubeos_node import Step, next_step

OWNER = NamespacedName(name="os", namespace="default")


def node(version: str, *labels: str) -> Node:
    metadata = ObjectMeta(name="n1", labels=dict.fromkeys(labels, ""))
    return Node(metadata=metadata, status=NodeStatus(node_info=NodeInfo(os_image=version)))


def instance(nodestatus: str, owner: NamespacedName | None = OWNER) -> OSInstance:
    return OSInstance(metadata=ObjectMeta(name="n1"), spec=OSInstanceSpec(nodestatus=nodestatus, namespacedname=owner))


def os(opstype: str = "upgrade") -> KubeOS:
    spec = KubeOSSpec(opstype=opstype, osversion="v2", maxunavailable=1)
    return KubeOS(metadata=ObjectMeta(name="os", namespace="default"), spec=spec)


@pytest.mark.parametrize(
    ("given", "wish", "step"),
    [
        ((node("v1"), instance("idle", None)), os(), Step.NOTHING),
        ((node("v1"), instance("upgrade")), os(), Step.NOTHING),  # the label comes last
        ((node("v1", UPGRADING), instance("upgrade")), os(), Step.REBOOT),
        ((node("v1", UPGRADING), instance("upgrade")), os("rollback"), Step.REBOOT),
        ((node("v2", UPGRADING), instance("upgrade")), os(), Step.FINISH),
        ((node("v2", CONFIGURING), instance("config")), os("config"), Step.FINISH),
        ((node("v2"), instance("upgrade")), os(), Step.NOTHING),
        ((node("v1", CONFIGURING), instance("config")), os("config"), Step.NOTHING),  # "upgrade first"
        ((node("v1", UPGRADING), instance("idle")), os(), Step.REFRESH),
        ((node("v2", UPGRADING), instance("idle")), os(), Step.REFRESH),
        ((node("v1", UPGRADING), instance("idle", None)), os(), Step.NOTHING),
        ((node("v1", UPGRADING), instance("upgrade")), None, Step.NOTHING),  # the owner is deleted
    ],
)
def test_what_it_does_next(given: tuple[Node, OSInstance], wish: KubeOS | None, step: Step) -> None:
    assert next_step(*given, wish) is step


def test_a_node_without_an_instance_does_nothing() -> None:
    assert next_step(node("v1", UPGRADING), None, os()) is Step.NOTHING
