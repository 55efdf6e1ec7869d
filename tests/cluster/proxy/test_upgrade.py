"""A wish through proxy and agent to a committed system, and what must not happen on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostplane.local.bootloader import set_fault

Scene = Callable[..., None]


def write_check(root: Path, script: str) -> None:
    check = root / "etc/hostplane/checks.d/10-check"
    check.write_text(f"#!/bin/sh\n{script}\n")
    check.chmod(0o755)


def test_host_stages_switches_commits_and_is_released_as_granted(stand_up: Any, scene: Scene) -> None:
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


def test_reserved_and_released_host_stays_where_it_is(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up() as stand:
            await stand.create(image=stand.images["v2"])
            staged = await stand.phase("Staged")
            await stand.grant(3, "Reserved", "v2")
            await stand.grant(4, "Release", "v2")
            released = await stand.until(lambda host: host.status.seq == 4)
            assert released.status.boot_id == staged.status.boot_id
            assert released.status.phase == "Staged"
            await stand.grant(5, "Switch", "v2")
            await stand.phase("Trial")

    scene(body)


def test_trial_without_its_confirm_goes_back_with_the_next_boot(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up() as stand:
            await stand.create(image=stand.images["v2"])
            await stand.phase("Staged")
            await stand.grant(3, "Switch", "v2")
            await stand.phase("Trial")
            stand.machine.power_cut()
            back = await stand.phase("Returned")
            assert back.status.active_slot == "A"
            assert back.status.active.digest == stand.images["v1"]["digest"]
            assert stand.machine.boots == 3

    scene(body)


def test_host_that_went_back_waits_for_another_attempt(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up() as stand:
            set_fault(stand.machine.root, "B", "no-boot")
            v2 = stand.images["v2"]
            await stand.create(image=v2)
            await stand.phase("Staged")
            await stand.grant(3, "Switch", "v2")
            back = await stand.phase("Returned")
            assert [failed.digest for failed in back.status.failed_digests] == [v2["digest"]]
            assert back.status.last_error is not None
            assert back.status.last_error.reason_class == "HostFault"
            await stand.grant(4, "Release", "v2")
            rest = await stand.until(lambda host: host.status.seq == 4)
            assert rest.status.phase == "Idle"
            boots = stand.machine.boots
            set_fault(stand.machine.root, "B", None)
            await stand.wish(image={**v2, "attempt": 1})
            await stand.phase("Staged")
            assert stand.machine.boots == boots
            await stand.grant(5, "Switch", "v2")
            await stand.phase("Trial")
            await stand.grant(5, "Confirm", "v2")
            await stand.phase("Idle")

    scene(body)


def test_confirm_waits_for_the_hosts_own_checks(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up() as stand:
            write_check(stand.machine.root, "until test -e healthy; do sleep 0.1; done")
            await stand.create(image=stand.images["v2"])
            await stand.phase("Staged")
            await stand.grant(3, "Switch", "v2")
            await stand.phase("Trial")
            await stand.grant(3, "Confirm", "v2")
            before = await stand.phase("Trial")
            (stand.machine.root / "healthy").touch()
            idle = await stand.phase("Idle")
            assert idle.status.active_slot == "B"
            assert idle.status.boot_id == before.status.boot_id

    scene(body)


def test_failed_check_is_told_as_the_reason_of_the_return(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up() as stand:
            write_check(stand.machine.root, "test $HOSTPLANE_SLOT = A || { echo the disk is on fire; exit 1; }")
            await stand.create(image=stand.images["v2"])
            await stand.phase("Staged")
            await stand.grant(3, "Switch", "v2")
            back = await stand.phase("Returned")
            assert back.status.last_error is not None
            assert "the disk is on fire" in back.status.last_error.message

    scene(body)


def test_rollback_returns_to_the_slot_before(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up() as stand:
            await stand.create(image=stand.images["v2"])
            await stand.phase("Staged")
            await stand.grant(3, "Switch", "v2")
            await stand.phase("Trial")
            await stand.grant(3, "Confirm", "v2")
            await stand.phase("Idle")
            await stand.grant(5, "Switch", "v1", operation="rollback")
            await stand.until(lambda host: host.status.phase == "Trial" and host.status.seq == 5)
            await stand.grant(5, "Confirm", "v1", operation="rollback")
            back = await stand.until(lambda host: host.status.phase == "Idle" and host.status.seq == 5)
            assert back.status.active.digest == stand.images["v1"]["digest"]

    scene(body)


def test_image_that_cannot_be_had_is_an_error_and_another_one_replaces_it(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up() as stand:
            v2 = stand.images["v2"]
            await stand.create(image={**v2, "digest": f"sha256:{'0' * 64}"})
            failed = await stand.phase("Failed")
            assert failed.status.last_error is not None
            assert failed.status.last_error.code.startswith("HP-6")
            await stand.wish(image=v2)
            await stand.phase("Staged")

    scene(body)


def test_settings_are_applied_under_their_grant_and_errors_come_back(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up() as stand:
            content = [{"key": "net.ipv4.ip_forward", "value": "1"}]
            good = {"version": "s1", "configs": [{"model": "kernel.sysctl.persist", "contents": content}]}
            await stand.create(settings=good)
            await stand.phase("Idle")
            await stand.grant(2, "Switch", "", operation="configure")
            done = await stand.until(lambda host: host.status.settings is not None)
            assert done.status.settings is not None
            assert (done.status.settings.version, done.status.settings.error) == ("s1", "")
            assert "net.ipv4.ip_forward" in (stand.machine.root / "etc/sysctl.conf").read_text()
            bad = {"version": "s2", "configs": [{"model": "no.such.model", "contents": content}]}
            await stand.wish(settings=bad)
            await stand.grant(4, "Switch", "", operation="configure")
            refused = await stand.until(lambda host: host.status.seq == 4 and bool(host.status.settings.error))
            assert refused.status.settings is not None
            assert refused.status.settings.version == "s1"
            assert stand.machine.boots == 1

    scene(body)


def test_host_whose_administrator_said_never_is_left_alone(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up() as stand:
            (stand.machine.root / "etc/hostplane/never").touch()
            await stand.create()
            host = await stand.phase("Idle")
            assert host.status.never
            await stand.wish(image=stand.images["v2"])
            (stand.machine.root / "etc/hostplane/never").unlink()
            await stand.grant(2, "Reserved", "v2")  # any change of the wish makes the proxy look again
            await stand.phase("Staged")

    scene(body)
