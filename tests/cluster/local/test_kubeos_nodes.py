"""Simulated KubeOS nodes against the real API server; the test makes the operator's two writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from hostplane.api.core import NODE, Node
from hostplane.api.kubeos import CONFIGURING, OS, OSINSTANCE, UPGRADING, OSInstance
from hostplane.kube.session import Session
from hostplane.local.controlplane import ControlPlane
from hostplane.local.kubeos_node import NEVER_RETURNS, WRONG_VERSION, KubeOSNodes

OWNER = {"name": "os", "namespace": "default"}


class Hand:
    """Writes what KubeOS's operator writes, and reads what the node answers."""

    def __init__(self, session: Session, nodes: KubeOSNodes) -> None:
        self.session, self.nodes = session, nodes

    async def wish(self, opstype: str = "upgrade", version: str = "v2") -> None:
        image = {"imagetype": "disk", "imageurl": "http://127.0.0.1/v2.tar", "checksum": "0" * 64, "flagSafe": True}
        spec = {"opstype": opstype, "osversion": version, "maxunavailable": 1, **image}
        await self.session.create(OS, {**OS.manifest("os", "default"), "spec": spec}, namespace="default")

    async def assign(self, name: str, status: str = "upgrade", label: str = UPGRADING, **spec: Any) -> None:
        body = {"spec": {"nodestatus": status, "namespacedname": OWNER, **spec}}
        await self.session.patch(OSINSTANCE, name, body, namespace="default")
        await self.session.patch(NODE, name, {"metadata": {"labels": {label: ""}}})

    async def until(self, name: str, holds: Callable[[Node, OSInstance], bool]) -> tuple[Node, OSInstance]:
        async with asyncio.timeout(20):
            while True:
                node = await self.session.get(NODE, name)
                instance = await self.session.get(OSINSTANCE, name, namespace="default")
                if holds(node, instance):
                    return node, instance
                await asyncio.sleep(0.02)


def told(plane: ControlPlane, story: Callable[[Hand], Any], **options: Any) -> None:
    async def run() -> None:
        async with await Session.open(str(plane.kubeconfig)) as session:
            nodes = KubeOSNodes(session, ["n1", "n2"], reboot_seconds=0.05, **options)
            await nodes.create("v1")
            task = asyncio.create_task(nodes.run())
            try:
                await story(Hand(session, nodes))
            finally:
                task.cancel()

    asyncio.run(run())


def at_rest(node: Node, instance: OSInstance) -> bool:
    is_labelled = UPGRADING in node.metadata.labels or CONFIGURING in node.metadata.labels
    return not is_labelled and instance.spec.nodestatus == "idle" and instance.spec.namespacedname is None


@pytest.mark.parametrize("visible", [False, True])
def test_an_assigned_node_upgrades_and_is_idle_again(clean_cluster: ControlPlane, visible: bool) -> None:
    async def story(hand: Hand) -> None:
        await hand.wish()
        settings = {"version": "s1", "configs": []}
        await hand.assign("n1", sysconfigs=settings, upgradeconfigs=settings)
        node, instance = await hand.until("n1", lambda n, i: n.status.node_info.os_image == "v2" and at_rest(n, i))
        assert node.ready
        assert not node.spec.unschedulable
        assert instance.status.sysconfigs is not None
        assert instance.status.sysconfigs.version == "s1"
        assert instance.status.upgradeconfigs is not None
        assert hand.nodes.reboots == {"n1": 1}
        assert (await hand.session.get(NODE, "n2")).status.node_info.os_image == "v1"

    told(clean_cluster, story, visible=visible)


def test_configure_needs_no_reboot(clean_cluster: ControlPlane) -> None:
    async def story(hand: Hand) -> None:
        await hand.wish("config", "v1")
        await hand.assign("n1", "config", CONFIGURING, sysconfigs={"version": "s2", "configs": []})
        _, instance = await hand.until("n1", lambda n, i: i.status.sysconfigs is not None and at_rest(n, i))
        assert instance.status.sysconfigs is not None
        assert instance.status.sysconfigs.version == "s2"
        assert hand.nodes.reboots == {}

    told(clean_cluster, story)


def test_a_wrong_version_reboots_until_somebody_makes_it_idle(clean_cluster: ControlPlane) -> None:
    async def story(hand: Hand) -> None:
        await hand.wish()
        await hand.assign("n1")
        await hand.until("n1", lambda n, i: hand.nodes.reboots.get("n1", 0) >= 3)
        await hand.session.patch(OSINSTANCE, "n1", {"spec": {"nodestatus": "idle"}}, namespace="default")
        node, _ = await hand.until("n1", lambda n, i: UPGRADING not in n.metadata.labels)
        assert node.status.node_info.os_image == "v2 broken"

    told(clean_cluster, story, faults={"n1": WRONG_VERSION})


def test_a_node_that_never_returns_stays_notready_and_labelled(clean_cluster: ControlPlane) -> None:
    async def story(hand: Hand) -> None:
        await hand.wish()
        await hand.assign("n1")
        node, _ = await hand.until("n1", lambda n, i: not n.ready)
        assert UPGRADING in node.metadata.labels
        await hand.assign("n2")
        await hand.until("n2", lambda n, i: n.status.node_info.os_image == "v2" and at_rest(n, i))
        assert hand.nodes.reboots == {"n2": 1}

    told(clean_cluster, story, faults={"n1": NEVER_RETURNS}, visible=True)
