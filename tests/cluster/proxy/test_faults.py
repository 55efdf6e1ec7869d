"""Proxy, agent and API server die, hang and lie in every phase; the end is the same and the reason is on the Host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from hostplane.api.host import Host

Scene = Callable[..., None]
IMPATIENT = """
import sys
from hostplane.proxy.main import ProxyConfig, run
sys.exit(run(ProxyConfig(
    node="n1", socket=sys.argv[1], kubeconfig=sys.argv[2], answer_seconds=0.5, patience_seconds=0.5,
)))
"""
SLOWLY = {"bytesPerSecond": 20_000}  # an image takes about 1.5 s


def reachable(host: Host) -> str:
    return next((c.status for c in host.status.conditions if c.type == "AgentReachable"), "")


async def upgrade(stand: Any, at: Callable[[str], Any]) -> Host:
    """The operator's part of an upgrade; `at` is awaited with each phase as it is seen."""
    await stand.create(image=stand.images["v2"])
    await stand.until(lambda host: host.status.phase in ("Staging", "Staged"))
    await at("Staging")
    await stand.phase("Staged")
    await at("Staged")
    await stand.grant(3, "Switch", "v2", trial=600)
    await at("Switch")
    await stand.phase("Trial")
    await at("Trial")
    await stand.grant(3, "Confirm", "v2", trial=600)
    await at("Confirm")
    await stand.phase("Idle")
    await at("Idle")
    await stand.grant(4, "Release", "v2")
    host: Host = await stand.until(lambda host: host.status.seq == 4)
    return host


def assert_upgraded(stand: Any, host: Host) -> None:
    assert host.status.phase == "Idle"
    assert host.status.active.digest == stand.images["v2"]["digest"]
    assert host.status.active.state == "Confirmed"
    assert host.status.failed_digests == []
    assert stand.machine.boots == 2


@pytest.mark.parametrize("victims", [["proxy"], ["agent"], ["agent", "proxy"]], ids="+".join)
def test_processes_killed_in_every_phase_change_timing_and_not_the_outcome(
    stand_up: Any, scene: Scene, victims: list[str]
) -> None:
    async def body() -> None:
        seen = []
        async with stand_up(**SLOWLY) as stand:

            async def kill(phase: str) -> None:
                seen.append(phase)
                for victim in victims:
                    await stand.kill(victim)

            assert_upgraded(stand, await upgrade(stand, kill))
        assert seen == ["Staging", "Staged", "Switch", "Trial", "Confirm", "Idle"]

    scene(body)


def test_proxy_that_was_away_while_everything_was_decided_catches_up(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up() as stand:
            await stand.create(image=stand.images["v2"])
            await stand.phase("Staged")
            await stand.kill("proxy")
            await stand.grant(3, "Reserved", "v2")
            await stand.grant(3, "Switch", "v2")
            await stand.kill("proxy")
            await stand.phase("Trial")

    scene(body)


def test_api_server_killed_mid_way_changes_nothing(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up(**SLOWLY) as stand:

            async def restart(seen: str) -> None:
                if seen in ("Staging", "Trial"):
                    await asyncio.to_thread(stand.plane.restart, kill=True)

            assert_upgraded(stand, await upgrade(stand, restart))

    scene(body)


@pytest.mark.parametrize("how", ["hangs", "dies"])
def test_agent_that_does_not_answer_is_a_condition_until_it_does(stand_up: Any, scene: Scene, how: str) -> None:
    async def body() -> None:
        async with stand_up(proxy_code=IMPATIENT) as stand:
            stand.break_agent(how)
            await stand.create(image=stand.images["v2"])
            host = await stand.until(lambda host: reachable(host) == "False", seconds=10)
            assert {c.type: c.reason for c in host.status.conditions}["AgentReachable"] == "AgentSlow"
            assert host.status.phase == ""
            stand.mend_agent()
            healed = await stand.until(lambda host: reachable(host) == "True")
            assert healed.status.phase
            await stand.phase("Staged")

            stand.break_agent(how)
            await stand.kill("agent")
            await stand.wish(image=stand.images["v3"])
            lost = await stand.until(lambda host: reachable(host) == "False", seconds=10)
            assert lost.status.phase == "Staged"  # what it said last stays in sight
            stand.mend_agent()
            v3 = stand.images["v3"]["digest"]
            await stand.until(lambda host: host.status.phase == "Staged" and host.status.passive.digest == v3)
            await stand.until(lambda host: reachable(host) == "True")

    scene(body)


def test_recreated_host_is_served_under_its_new_uid(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up() as stand:
            first = await stand.create()
            await stand.phase("Idle")
            path = "/apis/hostplane.dev/v1alpha1/hosts/n1"
            await asyncio.to_thread(stand.plane.api.request, "DELETE", path)
            second = await stand.create(image=stand.images["v2"])
            assert second.metadata.uid != first.metadata.uid
            host = await stand.phase("Staged")
            assert host.metadata.uid == second.metadata.uid

    scene(body)


def test_status_that_somebody_overwrote_is_put_right(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up() as stand:
            await stand.create(image=stand.images["v2"])
            await stand.phase("Staged")
            path = "/apis/hostplane.dev/v1alpha1/hosts/n1/status"
            lie = {"status": {"phase": "Idle", "lastError": {"name": "Invented"}, "seq": 77}}
            await asyncio.to_thread(stand.plane.api.request, "PATCH", path, lie, kind="merge-patch+json")
            host = await stand.until(lambda host: host.status.phase == "Staged" and host.status.seq == 0)
            assert host.status.last_error is None

    scene(body)
