"""Native hosts against the real API server: what a Rollout asks for is what every host of its groups does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hostplane.api.core import NODE, Node
from hostplane.api.host import HOST
from hostplane.api.rollout import ROLLOUT
from hostplane.local.controlplane import ControlPlane
from hostplane.planning.cordon import MARK
from hostplane.planning.snapshot import Options
from tests.cluster.operator.harness import DIGESTS, Cluster, node_status, operator
from tests.cluster.operator.kubeos_play import condition, play
from tests.cluster.operator.native_play import (
    add_hosts,
    all_run,
    change_rollout,
    grant_of,
    group_says,
    is_at_rest,
    rollout_says,
)


def complete(rollout: Any) -> bool:
    return bool(rollout.status.phase == "Complete")


def test_an_upgrade_goes_through_every_stage_and_leaves_nothing_behind(clean_cluster: ControlPlane) -> None:
    stages: dict[str, list[str]] = {}
    cordons: dict[str, list[bool]] = {}

    def note(old: Any, new: Any) -> None:
        if isinstance(new, Node):
            seen = cordons.setdefault(new.metadata.name, [])
            if not seen or seen[-1] != (MARK in new.metadata.annotations):
                seen.append(MARK in new.metadata.annotations)
        elif new is not None and getattr(getattr(new, "spec", None), "grant", None):
            seen_stages = stages.setdefault(new.metadata.name, [])
            if not seen_stages or seen_stages[-1] != new.spec.grant.stage:
                seen_stages.append(new.spec.grant.stage)

    async def script(world: Cluster) -> None:
        names = [f"n{i}" for i in range(5)]
        world.listeners.append(note)
        hosts = await add_hosts(world, *names)
        await world.add_group(maxUnavailable="40%")
        await world.add_rollout()
        async with operator(world.kubeconfig):
            await world.until(lambda: all_run(world, "v2", *names))
            rollout = await rollout_says(world, complete)
            assert (rollout.status.summary, rollout.status.counts.done) == ("5/5", 5)
            assert rollout.status.started_at <= rollout.status.completed_at
            said = condition(rollout, "Succeeded")
            assert said is not None
            assert said.status == "True"
            group = await group_says(world, lambda g: g.status.up_to_date == 5)
            assert (group.status.nodes, group.status.budget, group.status.unavailable) == (5, 2, 0)
            assert group.status.current.image == "v2"
        assert all(seen == ["Reserved", "Switch", "Confirm", "Release"] for seen in stages.values())
        assert all(seen == [False, True, False] for seen in cordons.values())
        assert sorted(hosts.reboots) == names
        assert world.seen["granted"] == 2

    play(clean_cluster, script, budget=2)


def test_a_rollback_goes_to_the_other_slot_without_staging_and_only_once(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        hosts = await add_hosts(world, "n1", "n2")
        await world.add_group()
        await world.add_rollout()
        async with operator(world.kubeconfig):
            await world.until(lambda: all_run(world, "v2", "n1", "n2"))
            await rollout_says(world, complete)
            staged = list(hosts.staged)
            undo = {"operation": "rollback", "groups": ["g"]}
            await world.session.create(ROLLOUT, ROLLOUT.manifest("undo", spec=undo))
            await rollout_says(world, complete, "undo")
            await world.until(lambda: all_run(world, "v1", "n1", "n2"))
            settings = {"version": "s1", "configs": []}
            wish = {"operation": "configure", "groups": ["g"], "settings": settings}
            await world.session.create(ROLLOUT, ROLLOUT.manifest("settings", spec=wish))
            await rollout_says(world, complete, "settings")
            await change_rollout(world, "undo", trialSeconds=100)  # any change looks at everybody once more
            await rollout_says(world, lambda r: complete(r) and r.status.observed_generation == 2, "undo")
            await world.until(lambda: all_run(world, "v1", "n1", "n2"))
            assert hosts.staged == staged
        assert sorted(hosts.reboots) == ["n1", "n1", "n2", "n2"]

    play(clean_cluster, script, budget=1)


def test_settings_need_no_reboot_and_a_failure_stops_the_rest(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        hosts = await add_hosts(world, "n1", "n2", "n3")
        hosts.unsettled.add("n2")
        await world.add_group()
        contents = [{"model": "kernel.sysctl", "contents": [{"key": "vm.swappiness", "value": 1}]}]
        wish = {"operation": "configure", "groups": ["g"], "settings": {"version": "s1", "configs": contents}}
        async with operator(world.kubeconfig):
            # All have reported before the wish: only then do they go by name.
            found = world.hosts.items()
            await world.until(lambda: len(found) == 3 and all(h.status.phase for h in found.values()))
            await world.session.create(ROLLOUT, ROLLOUT.manifest("to-s1", spec=wish))
            rollout = await rollout_says(world, lambda r: r.status.counts.failed == 1, "to-s1")
            rollout = await rollout_says(world, lambda r: r.status.phase == "Paused", "to-s1")
            assert rollout.status.counts.done == 1
            found = world.hosts.items()
            assert found["n1"].status.settings is not None
            assert found["n1"].status.settings.version == "s1"
            assert found["n1"].spec.settings is not None
            assert found["n1"].spec.settings.configs[0].contents[0].value == 1
            assert found["n3"].spec.settings is None
            hosts.unsettled.clear()
            await change_rollout(world, "to-s1", retry=["n2"])
            await rollout_says(world, lambda r: complete(r) and r.status.counts.done == 3, "to-s1")
            await world.until(lambda: is_at_rest(world))
        assert hosts.reboots == []
        assert world.seen["cordoned"] == 0

    play(clean_cluster, script, budget=1)


def test_a_host_that_returns_stops_the_rollout_until_a_retry_is_wished(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        hosts = await add_hosts(world, "n1", "n2")
        hosts.returns.update(("n1", "n2"))  # whichever goes first: that depends on who has staged first
        await world.add_group()
        await world.add_rollout()
        async with operator(world.kubeconfig):
            rollout = await rollout_says(world, lambda r: r.status.phase == "Paused")
            why = condition(rollout, "Progressing")
            assert why is not None
            assert (why.status, why.reason) == ("False", "TooManyFailed")
            assert (rollout.status.counts.failed, rollout.status.counts.done) == (1, 0)
            await world.until(lambda: is_at_rest(world))
            assert world.versions() == {"n1": "v1", "n2": "v1"}
            (first,) = (n for n in ("n1", "n2") if (grant := grant_of(world, n)) is not None and grant.why)
            other = "n2" if first == "n1" else "n1"
            hosts.returns.discard(other)
            grant = grant_of(world, first)
            assert grant is not None
            assert (grant.verdict, grant.why) == ("HostFault", "TrialFailed")
            await change_rollout(world, failureThreshold=2)  # a wider threshold lets the others go on, not this one
            await world.until(lambda: all_run(world, "v2", other))
            assert hosts.reboots == [first, other]
            hosts.returns.clear()
            await change_rollout(world, retry=[first])
            rollout = await rollout_says(world, lambda r: complete(r) and r.status.counts.done == 2)
            await world.until(lambda: all_run(world, "v2", "n1", "n2"))
        attempts = [attempt for name, _, attempt in hosts.staged if name == first]
        assert attempts == sorted(set(attempts))
        assert len(attempts) == 2

    play(clean_cluster, script, budget=1)


def test_skipped_nodes_are_left_out_and_taken_when_they_are_not_any_more(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await add_hosts(world, "n1", "n2")
        await world.add_group()
        await world.add_rollout(skip=["n1"])
        async with operator(world.kubeconfig):
            rollout = await rollout_says(world, complete)
            assert (rollout.status.counts.skipped, rollout.status.counts.done) == (1, 1)
            assert world.versions() == {"n1": "v1", "n2": "v2"}
            await change_rollout(world, skip=[])
            await world.until(lambda: all_run(world, "v2", "n1", "n2"))

    play(clean_cluster, script, budget=1)


def test_a_pause_begins_nothing_more_and_never_stops_a_host_on_its_way(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        hosts = await add_hosts(world, "n1", "n2", "n3")
        names = ("n1", "n2", "n3")  # which of them goes first depends on who has staged first
        hosts.silent.update(names)
        await world.add_group()
        await world.add_rollout()
        async with operator(world.kubeconfig):

            def switched() -> list[str]:
                return [n for n in names if (grant := grant_of(world, n)) is not None and grant.stage == "Switch"]

            await world.until(lambda: bool(switched()))
            (first,) = switched()
            await change_rollout(world, paused=True)
            await rollout_says(world, lambda r: r.status.phase == "Paused")
            hosts.silent.clear()
            hosts.look_at(first)
            await world.until(lambda: all_run(world, "v2", first))
            await rollout_says(world, lambda r: r.status.counts.done == 1)
            assert hosts.reboots == [first]
            await change_rollout(world, paused=False)
            await world.until(lambda: all_run(world, "v2", "n1", "n2", "n3"))

    play(clean_cluster, script, budget=1)


def test_a_host_that_never_comes_back_is_lost_at_its_deadline(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        hosts = await add_hosts(world, "n1", "n2")
        hosts.silent.update(("n1", "n2"))  # whichever goes first
        await world.add_group()
        await world.add_rollout(trialSeconds=10)
        async with operator(world.kubeconfig, Options(return_grace=0)):
            rollout = await rollout_says(world, lambda r: r.status.counts.failed == 1)
            (grant,) = (g for n in ("n1", "n2") if (g := grant_of(world, n)) is not None and g.why)
            assert (grant.stage, grant.verdict, grant.why) == ("Release", "HostFault", "HostLost")
            rollout = await rollout_says(world, lambda r: r.status.phase == "Paused")
            assert rollout.status.counts.staged == 1
            assert len(hosts.reboots) <= 1
            assert set(world.versions().values()) == {"v1"}

    play(clean_cluster, script, budget=1)


def test_never_on_a_node_or_on_its_host_is_obeyed(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await add_hosts(world, "n1", "n2", "n3")
        await world.session.patch(NODE, "n1", {"metadata": {"labels": {"hostplane.dev/never": ""}}})
        await world.add_group(maxUnavailable=3)
        async with operator(world.kubeconfig):
            await world.until(
                lambda: all(h.status.phase for h in world.hosts.items().values()) and "n2" in world.hosts.items()
            )
            await world.session.patch(HOST, "n2", {"status": {"never": True}}, subresource="status")
            await world.add_rollout()
            rollout = await rollout_says(world, complete)
            assert world.versions() == {"n1": "v1", "n2": "v1", "n3": "v2"}
            assert (rollout.status.counts.total, rollout.status.counts.skipped) == (2, 1)
            assert MARK not in world.nodes.items()["n1"].metadata.annotations
            await world.session.patch(NODE, "n1", {"metadata": {"labels": {"hostplane.dev/never": None}}})
            await world.until(lambda: all_run(world, "v2", "n1", "n3"))

    play(clean_cluster, script, budget=1)


def test_a_new_node_under_an_old_name_gets_a_new_host_and_none_of_its_grants(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        hosts = await add_hosts(world, "n1", "n2")
        hosts.silent.add("n1")
        await world.add_group()
        await world.add_rollout()
        async with operator(world.kubeconfig):
            await world.until(lambda: (grant := grant_of(world, "n1")) is not None and grant.stage == "Switch")
            old = world.hosts.items()["n1"]
            await world.session.delete(NODE, "n1")
            await world.add_native_node("n1")
            await world.until(lambda: "n1" in world.hosts.items() and world.hosts.items()["n1"].spec != old.spec)
            hosts.silent.clear()
            await world.until(lambda: all_run(world, "v2", "n1", "n2"))
            new = world.hosts.items()["n1"]
            assert new.metadata.uid != old.metadata.uid
            assert new.spec.node_uid == world.nodes.items()["n1"].metadata.uid
            assert new.spec.grant is not None
            assert old.spec.grant is not None
            assert new.spec.grant.seq > old.spec.grant.seq

    play(clean_cluster, script, budget=1)


def test_a_groups_window_stops_only_new_hosts(clean_cluster: ControlPlane) -> None:
    def open_since(hours: int) -> dict[str, Any]:
        start = datetime.now(UTC) - timedelta(hours=hours)
        return {"windows": [{"start": f"{start:%H:%M}", "duration": "2h", "timeZone": "UTC"}]}

    async def script(world: Cluster) -> None:
        await add_hosts(world, "n1")
        await world.add_group(**open_since(5))
        await world.add_rollout()
        async with operator(world.kubeconfig):
            group = await group_says(world, lambda g: condition(g, "Held") is not None)
            held = condition(group, "Held")
            assert held is not None
            assert (held.status, held.reason) == ("True", "WindowClosed")
            await rollout_says(world, lambda r: r.status.counts.staged == 1)  # staging waits for no window
            assert world.seen["granted"] == 0
            await world.change_group(**open_since(1))
            await world.until(lambda: all_run(world, "v2", "n1"))

    play(clean_cluster, script, budget=1)


def test_steps_soak_before_the_next_begins(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        names = [f"n{i}" for i in range(4)]
        await add_hosts(world, *names)
        await world.add_group(maxUnavailable=4)
        await world.add_rollout(steps=[{"nodes": 1, "soakSeconds": 2}, {"nodes": "50%", "soakSeconds": 3600}])
        async with operator(world.kubeconfig):
            rollout = await rollout_says(world, lambda r: r.status.step_done_at != "")
            assert (rollout.status.step, rollout.status.counts.done) == (0, 1)
            rollout = await rollout_says(world, lambda r: r.status.step == 1 and r.status.step_done_at != "")
            assert rollout.status.counts.done == 2
            assert sorted(world.versions().values()) == ["v1", "v1", "v2", "v2"]
            assert world.seen["granted"] == 1
            await change_rollout(world, steps=[])
            await world.until(lambda: all_run(world, "v2", *names))

    play(clean_cluster, script, budget=4)


def test_a_topology_cap_holds_within_each_zone(clean_cluster: ControlPlane) -> None:
    together: set[frozenset[str]] = set()

    async def script(world: Cluster) -> None:
        def note(old: Any, new: Any) -> None:
            held = {name for ledger in world.ledgers.items().values() for name in ledger.spec.holders}
            together.add(frozenset(held))

        world.listeners.append(note)
        hosts = await add_hosts(world, "a1", "a2", zone="a")
        for name in ("b1", "b2"):
            await world.add_native_node(name, zone="b")
        hosts.silent |= {"a1", "b1"}
        await world.add_group(maxUnavailable=4, topology=[{"key": "zone", "maxUnavailable": 1}])
        await world.add_rollout()
        async with operator(world.kubeconfig):
            await world.until(lambda: frozenset({"a1", "b1"}) in together)
            hosts.silent.clear()
            hosts.look_at("a1")
            hosts.look_at("b1")
            await world.until(lambda: all_run(world, "v2", "a1", "a2", "b1", "b2"))
        assert not any({"a1", "a2"} <= held or {"b1", "b2"} <= held for held in together)

    play(clean_cluster, script, budget=2)


def test_a_rollout_may_map_groups_to_images(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await world.add_image("v3")
        await add_hosts(world, "n1", group="g")
        await world.add_native_node("n2", "h")
        await world.add_group("g")
        await world.add_group("h")
        await world.add_rollout(groups=("g", "h"), image="v2", images={"g": "v2", "h": "v3"})
        async with operator(world.kubeconfig):
            await world.until(lambda: all_run(world, "v2", "n1") and all_run(world, "v3", "n2"))
            rollout = await rollout_says(world, complete)
            assert rollout.status.counts.total == 2

    play(clean_cluster, script, budget=2)


def test_a_node_that_joins_late_catches_up_with_the_standing_wish(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        hosts = await add_hosts(world, "n1")
        await world.add_group()
        await world.add_rollout()
        async with operator(world.kubeconfig):
            await rollout_says(world, complete)
            await world.add_native_node("n2")
            await world.until(lambda: all_run(world, "v2", "n1", "n2"))
            assert hosts.reboots == ["n1", "n2"]
            assert complete(await world.session.get(ROLLOUT, "to-v2"))

    play(clean_cluster, script, budget=1)


def test_the_second_of_two_rollouts_waits_for_the_first(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        hosts = await add_hosts(world, "n1", "n2")
        hosts.silent.add("n1")
        await world.add_group()
        await world.add_rollout()
        async with operator(world.kubeconfig):
            await world.until(lambda: (grant := grant_of(world, "n1")) is not None and grant.stage == "Switch")
            await world.add_rollout("to-v3", "v3")
            rollout = await rollout_says(world, lambda r: r.status.phase == "Queued", "to-v3")
            why = condition(rollout, "Progressing")
            assert why is not None
            assert why.reason == "RolloutQueued"
            assert not any(version == "v3" for _, version, _ in hosts.staged)
            hosts.silent.clear()
            hosts.look_at("n1")
            await rollout_says(world, complete, "to-v3")
            await world.until(lambda: all_run(world, "v3", "n1", "n2"))
            assert complete(await world.session.get(ROLLOUT, "to-v2"))
        assert sorted(hosts.reboots) == ["n1", "n1", "n2", "n2"]

    play(clean_cluster, script, budget=1)


def test_a_cordon_of_the_administrators_is_found_and_left(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await add_hosts(world, "n1", "n2")
        await world.session.patch(NODE, "n1", {"spec": {"unschedulable": True}})
        await world.add_group(maxUnavailable=2)  # its cordon uses budget, also when its work is done
        await world.add_rollout()
        async with operator(world.kubeconfig):
            await world.until(lambda: all_run(world, "v2", "n1", "n2"))
        nodes = world.nodes.items()
        assert [nodes[n].spec.unschedulable for n in ("n1", "n2")] == [True, False]

    play(clean_cluster, script, budget=2)


def test_a_fix_reaches_a_host_that_is_down_though_the_budget_is_used_up(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await add_hosts(world, "n1", "n2")
        await world.add_group()
        async with operator(world.kubeconfig):
            await world.until(lambda: len(world.hosts.items()) == 2)
            down = node_status("v1", "n2-boot-0", ready=False)
            await world.session.patch(NODE, "n2", {"status": down}, subresource="status")
            await world.add_rollout()
            await world.until(lambda: world.versions()["n2"] == "v2")  # it is away already and costs nothing more
            await world.until(lambda: all_run(world, "v2", "n1", "n2"))

    play(clean_cluster, script, budget=1)


def test_a_rollout_waits_for_an_image_that_is_applied_after_it(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await add_hosts(world, "n1")
        await world.add_group()
        wish = {"operation": "upgrade", "image": "v2", "groups": ["g"]}
        await world.session.create(ROLLOUT, ROLLOUT.manifest("to-v2", spec=wish))
        async with operator(world.kubeconfig):
            rollout = await rollout_says(world, lambda r: r.status.counts.waiting == 1)
            assert not complete(rollout)  # else what comes with the image would know no steps and no threshold
            await world.add_image("v2")
            await world.until(lambda: all_run(world, "v2", "n1"))
            assert world.hosts.items()["n1"].status.active.digest == DIGESTS["v2"]

    play(clean_cluster, script, budget=1)
