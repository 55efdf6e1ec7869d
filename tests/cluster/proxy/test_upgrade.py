"""A wish through proxy and agent to a committed system, and what must not happen on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_host_stages_switches_commits_and_is_released_only_as_granted(
    stand_up: Any, scene: Callable[..., None]
) -> None:
    async def body() -> None:
        async with stand_up() as stand:
            await stand.create()
            first = await stand.phase("Idle")
            assert first.status.protocol == 1
            assert {c.type: c.status for c in first.status.conditions} == {
                "AgentReachable": "True",
                "WishAccepted": "True",
            }
            v2 = stand.images["v2"]
            await stand.wish(image=v2)
            staged = await stand.phase("Staged")
            assert staged.status.passive.digest == v2["digest"]
            assert staged.status.active_slot == "A"

            await stand.grant(3, "Reserved", "v2")
            await stand.grant(3, "Switch", "v2")
            trial = await stand.phase("Trial")
            assert (trial.status.active_slot, trial.status.seq) == ("B", 3)
            assert trial.status.boot_id != staged.status.boot_id
            await stand.grant(3, "Confirm", "v2")
            idle = await stand.phase("Idle")
            assert idle.status.active.digest == v2["digest"]
            assert idle.status.active.state == "Confirmed"
            await stand.grant(4, "Release", "v2")
            await stand.until(lambda host: host.status.seq == 4)
            assert stand.machine.boots == 2

    scene(body)
