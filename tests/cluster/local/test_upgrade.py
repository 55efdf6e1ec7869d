"""A simulated host with the real agent and the real proxy, upgraded by hand: what the operator will do by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostplane.api.core import NODE
from hostplane.api.host import HOST, Host
from hostplane.kube.informer import Informer
from hostplane.kube.session import Session
from hostplane.local.bootloader import set_fault
from hostplane.local.controlplane import ControlPlane
from hostplane.local.machine import Timings
from hostplane.local.supervisor import Fleet, ImageEntry, fleet, node_name

NODE_NAME = node_name(0)
FAST = Timings(boot=0.1, watchdog=0.1, restart=0.1)


class Story:
    """One host and the hand that writes its Host."""

    def __init__(self, session: Session, running: Fleet) -> None:
        self.session, self.images = session, running.images
        self.machine = running.machines[NODE_NAME]
        self._changed = asyncio.Event()
        self.hosts = Informer(session, HOST, on_change=lambda old, new: self._changed.set())

    async def write(self, **spec: Any) -> None:
        await self.session.patch(HOST, NODE_NAME, {"spec": spec})

    async def until(self, holds: Callable[[Host], bool], seconds: float = 40.0) -> Host:
        try:
            async with asyncio.timeout(seconds):
                while True:
                    host = self.hosts.get(NODE_NAME)
                    if host is not None and holds(host):
                        return host
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"still {self.hosts.get(NODE_NAME)!r}") from None

    async def stage_and_switch(self, image: ImageEntry, seq: int) -> None:
        wish = {"format": "rootTar", "ref": image.ref, "digest": image.digest, "size": image.size}
        await self.write(image={**wish, "version": image.version})
        await self.until(lambda host: host.status.phase == "Staged")
        await self.grant(image, seq, "Switch")

    async def grant(self, image: ImageEntry, seq: int, stage: str) -> None:
        grant = {"seq": seq, "operation": "upgrade", "digest": image.digest, "stage": stage, "trialSeconds": 60}
        await self.write(grant=grant)


def told(plane: ControlPlane, tmp_path: Path, story: Callable[[Story], Any]) -> None:
    """Runs `story` on one fresh host."""

    async def run() -> None:
        async with (
            await Session.open(str(plane.kubeconfig), connections=2) as session,
            fleet(tmp_path, plane.kubeconfig, 1, timings=FAST) as running,
        ):
            hand = Story(session, running)
            watching = asyncio.create_task(hand.hosts.run())
            try:
                await hand.machine.until(lambda machine: machine.state == "running")
                await session.create(HOST, HOST.manifest(NODE_NAME, spec={"schemaVersion": "1.0"}))
                await hand.until(lambda host: host.status.phase == "Idle")
                await story(hand)
            finally:
                watching.cancel()

    asyncio.run(run())


def test_an_upgrade_ends_committed_in_the_other_slot(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    async def story(hand: Story) -> None:
        image = hand.images["v2"]
        await hand.stage_and_switch(image, 1)
        await hand.until(lambda host: host.status.phase == "Trial" and host.status.active_slot == "B")
        await hand.grant(image, 1, "Confirm")
        host = await hand.until(lambda host: host.status.phase == "Idle" and host.status.active_slot == "B")
        assert host.status.active.state == "Confirmed"
        assert host.status.active.digest == image.digest
        node = await hand.session.get(NODE, NODE_NAME)
        assert node.status.node_info.os_image == image.pretty_name
        assert node.status.node_info.boot_id == host.status.boot_id
        hand.machine.power_cut()
        await hand.machine.until(lambda machine: machine.boots == 3)
        assert hand.machine.boot is not None
        assert hand.machine.boot.slot == "B"

    told(clean_cluster, tmp_path, story)


def test_a_slot_that_does_not_come_up_returns_by_itself(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    async def story(hand: Story) -> None:
        await hand.stage_and_switch(hand.images["broken"], 1)
        host = await hand.until(lambda host: host.status.phase == "Returned")
        assert host.status.active_slot == "A"
        assert host.status.last_error is not None
        assert host.status.last_error.reason_class == "HostFault"
        assert hand.machine.boot is not None
        assert hand.machine.boot.release.version_id == "v1"

    told(clean_cluster, tmp_path, story)


def test_power_lost_during_the_trial_leads_back(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    async def story(hand: Story) -> None:
        set_fault(hand.machine.root, "B", "not-ready")
        await hand.stage_and_switch(hand.images["v2"], 1)
        await hand.until(lambda host: host.status.phase == "Trial")
        hand.machine.power_cut()
        host = await hand.until(lambda host: host.status.phase == "Returned")
        assert host.status.active_slot == "A"

    told(clean_cluster, tmp_path, story)
