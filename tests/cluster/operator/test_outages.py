"""What happens around an operator: outages, refusals, lost answers, a deleted Ledger, the death of a real process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hostplane.api.host import HOST
from hostplane.api.kubeos import NODE_SELECTOR, OS
from hostplane.api.ledger import LEDGER, LEDGER_NAME
from hostplane.errors import ClusterError
from hostplane.kube.lease import LEASE
from hostplane.local.controlplane import ControlPlane
from tests.cluster.operator.harness import Cluster, operator
from tests.cluster.operator.kubeos_play import all_on, finish, holders, play, still_nodes, taken
from tests.cluster.operator.native_play import NativeHosts, add_hosts, all_run, grant_of
from tests.cluster.operator.sessions import FaultySession, ForgetfulSession

NAMES = ("n1", "n2", "n3", "n4")
Prepare = Callable[..., Awaitable[Callable[[], bool]]]


async def _kubeos(world: Cluster, at_once: int = 1) -> Callable[[], bool]:
    nodes = await world.add_kubeos_nodes(*NAMES, reboot_seconds=0.05)
    await world.add_os(maxunavailable=at_once, sysconfigs={"version": "s1", "configs": []})
    return lambda: _is_free(world) and all_on(world, "v2", *NAMES) and nodes.reboots == dict.fromkeys(NAMES, 1)


async def _native(world: Cluster, at_once: int = 1) -> Callable[[], bool]:
    hosts = await add_hosts(world, *NAMES)
    await world.add_group(maxUnavailable=at_once)
    await world.add_rollout()
    return lambda: all_run(world, "v2", *NAMES) and sorted(hosts.reboots) == list(NAMES)


def _is_free(world: Cluster) -> bool:
    return not holders(world)


def _one_is_through(world: Cluster) -> bool:
    return "v2" in world.versions().values()


@pytest.mark.parametrize("prepare", [_kubeos, _native])
def test_every_write_refused_twice_and_its_answer_lost_once(clean_cluster: ControlPlane, prepare: Prepare) -> None:
    async def script(world: Cluster) -> None:
        is_done = await prepare(world, at_once=2)
        async with operator(world.kubeconfig, kind=FaultySession) as (_, session):
            await world.until(is_done, 100)
        assert set(session.refused) == {"WriteConflict", "ServerBusy", "ServerUnreachable"}
        assert min(session.refused.values()) > len(NAMES)

    play(clean_cluster, script, budget=2)


@pytest.mark.parametrize("prepare", [_kubeos, _native])
def test_every_watch_expires_again_and_again(clean_cluster: ControlPlane, prepare: Prepare) -> None:
    async def script(world: Cluster) -> None:
        is_done = await prepare(world)
        async with operator(world.kubeconfig, kind=ForgetfulSession) as (_, session):
            await world.until(is_done, 60)
        assert session.expired > len(NAMES)

    play(clean_cluster, script, budget=1)


@pytest.mark.parametrize("prepare", [_kubeos, _native])
def test_the_api_server_dies_in_the_middle(clean_cluster: ControlPlane, prepare: Prepare) -> None:
    async def script(world: Cluster) -> None:
        is_done = await prepare(world)
        async with operator(world.kubeconfig):
            await world.until(lambda: _one_is_through(world))
            await asyncio.to_thread(clean_cluster.restart, kill=True)
            await asyncio.to_thread(clean_cluster.await_crds)
            await world.until(is_done, 60)

    play(clean_cluster, script, budget=1)


def test_a_deleted_ledger_forgets_no_kubeos_node(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        await still_nodes(world, "n1", "n2")
        await world.add_os()
        async with operator(world.kubeconfig):
            await world.until(lambda: taken(world) == {"n1"})
            await world.session.delete(LEDGER, LEDGER_NAME)
            await world.until(lambda: holders(world) == {"n1"}, what="it is counted again")
            await finish(world, "n1", "v2")
            await world.until(lambda: taken(world) == {"n2"})
            await finish(world, "n2", "v2")
            await world.until(lambda: _is_free(world))

    play(clean_cluster, script, budget=1)


def test_a_deleted_ledger_forgets_no_host_and_gives_no_number_twice(clean_cluster: ControlPlane) -> None:
    seqs: dict[str, set[int]] = {}

    def note(old: Any, new: Any) -> None:
        grant = getattr(getattr(new, "spec", None), "grant", None)
        if grant is not None and grant.stage != "Release":
            seqs.setdefault(new.metadata.name, set()).add(grant.seq)

    async def script(world: Cluster) -> None:
        world.listeners.append(note)
        hosts = await add_hosts(world, "n1", "n2")
        hosts.silent.add("n1")
        await world.add_group()
        await world.add_rollout()
        async with operator(world.kubeconfig):
            await world.until(lambda: (grant := grant_of(world, "n1")) is not None and grant.stage == "Switch")
            await world.session.delete(LEDGER, LEDGER_NAME)
            await world.until(lambda: holders(world) == {"n1"}, what="it is counted again")
            hosts.silent.clear()
            hosts.look_at("n1")
            await world.until(lambda: all_run(world, "v2", "n1", "n2"))
        assert {name: len(found) for name, found in seqs.items()} == {"n1": 1, "n2": 1}
        assert not seqs["n1"] & seqs["n2"]

    play(clean_cluster, script, budget=1)


@pytest.mark.parametrize("prepare", [_kubeos, _native])
def test_a_storm_of_writes_to_the_ledger_only_delays(clean_cluster: ControlPlane, prepare: Prepare) -> None:
    async def storm(world: Cluster, written: list[int]) -> None:
        while True:
            with contextlib.suppress(ClusterError):
                note = {"metadata": {"annotations": {"storm": str(len(written))}}}
                await world.session.patch(LEDGER, LEDGER_NAME, note)
                written.append(1)
            await asyncio.sleep(0.005)

    async def script(world: Cluster) -> None:
        is_done = await prepare(world)
        written: list[int] = []
        blowing = world.group.create_task(storm(world, written))
        try:
            async with operator(world.kubeconfig):
                await world.until(is_done, 60)
        finally:
            blowing.cancel()
        assert len(written) > 10

    play(clean_cluster, script, budget=1)


@pytest.mark.parametrize("prepare", [_kubeos, _native])
def test_a_real_process_killed_again_and_again(clean_cluster: ControlPlane, tmp_path: Path, prepare: Prepare) -> None:
    async def start(world: Cluster) -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "hostplane.cli", "operator", "--kubeconfig", world.kubeconfig]
        command += ["--lease-seconds", "1", "--health-port", "-1"]
        nowhere = asyncio.subprocess.DEVNULL
        environment = {**os.environ, "HOME": str(tmp_path)}
        return await asyncio.create_subprocess_exec(*command, stderr=nowhere, stdout=nowhere, env=environment)

    async def script(world: Cluster) -> None:
        is_done = await prepare(world)
        for through in range(3):
            process = await start(world)
            try:
                await world.until(lambda n=through: sum(v == "v2" for v in world.versions().values()) > n, 60)  # type: ignore[misc]
            finally:
                process.kill()
                await process.wait()
        process = await start(world)
        try:
            await world.until(is_done, 60)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                assert await process.wait() == 0
            lease = await world.session.get(LEASE, "hostplane-operator", "hostplane-system")
            assert not lease.spec.holder_identity
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    play(clean_cluster, script, budget=1)


def test_whoever_ends_cleanly_lets_the_next_lead_at_once(clean_cluster: ControlPlane) -> None:
    async def script(world: Cluster) -> None:
        hosts = NativeHosts(world)
        await world.add_native_node("n1")
        await world.add_group()
        async with operator(world.kubeconfig, lease_seconds=3600):
            await world.until(lambda: "n1" in world.hosts.items())
        assert not hosts.reboots
        await world.add_rollout()
        async with operator(world.kubeconfig, lease_seconds=3600):
            await world.until(lambda: all_run(world, "v2", "n1"), 20, "an hour's lease was given back")

    play(clean_cluster, script, budget=1)


def test_an_operator_at_rest_asks_for_nothing(clean_cluster: ControlPlane) -> None:
    asked: list[str] = []

    async def note(method: str, path: str) -> None:
        if "/leases/" not in path:
            asked.append(f"{method} {path}")

    async def script(world: Cluster) -> None:
        await add_hosts(world, "n1")
        await world.add_kubeos_nodes("k1", labels={NODE_SELECTOR: "k"})
        await world.add_group()
        await world.add_rollout()
        await world.add_os(nodeselector="k")
        async with operator(world.kubeconfig, delay=note) as (running, _):
            await world.until(lambda: all_run(world, "v2", "n1") and all_on(world, "v2", "k1"))
            await world.until(lambda: not running.reporter.is_behind)
            await world.follows(OS, "pool", lambda os: os.status.phase == "Complete", namespace="default")
            await world.session.list(HOST)
            await asyncio.sleep(1.5)  # Events are written in a batch
            asked.clear()
            await asyncio.sleep(2)
            assert asked == []

    play(clean_cluster, script)
