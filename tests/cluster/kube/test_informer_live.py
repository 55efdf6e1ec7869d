"""The informer against a real API server that restarts, forgets, refuses and hangs up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from hostplane.api.meta import ObjectMeta
from hostplane.errors import ClusterError
from hostplane.kube.informer import Informer
from hostplane.kube.pace import Backoff
from hostplane.kube.session import Session
from hostplane.local.controlplane import ControlPlane
from tests.cluster.kube.fault_proxy import answer, faults
from tests.cluster.kube.kube_live import NODE, Node, running, until


def test_the_copy_follows_every_change(clean_cluster: ControlPlane) -> None:
    async def main() -> None:
        changes: list[tuple[Node | None, Node | None]] = []
        async with await Session.open(clean_cluster.kubeconfig) as session:
            for number in range(7):
                await session.create(NODE, NODE.manifest(f"n{number}"))
            informer = Informer(session, NODE, page=3, on_change=lambda old, new: changes.append((old, new)))
            async with running(informer):
                assert len(informer.items()) == 7
                await session.create(NODE, NODE.manifest("new"))
                await session.patch(NODE, "n1", {"spec": {"unschedulable": True}})
                await session.delete(NODE, "n2")
                await until(lambda: len(changes) == 10)
        assert sorted(informer.items()) == ["n0", "n1", "n3", "n4", "n5", "n6", "new"]
        assert informer.items()["n1"].spec.unschedulable
        old, new = changes[-1]
        assert (old is not None and old.metadata.name == "n2", new) == (True, None)

    asyncio.run(main())


def test_one_object_can_be_watched_alone_and_heartbeats_are_no_change(clean_cluster: ControlPlane) -> None:
    def trim(node: Node) -> Node:
        return msgspec.structs.replace(node, metadata=ObjectMeta(name=node.metadata.name))

    async def main() -> None:
        changes: list[Node | None] = []
        async with await Session.open(clean_cluster.kubeconfig) as session:
            await session.create(NODE, NODE.manifest("mine"))
            await session.create(NODE, NODE.manifest("other"))
            informer = Informer(
                session,
                NODE,
                field_selector="metadata.name=mine",
                transform=trim,
                on_change=lambda _, new: changes.append(new),
            )
            async with running(informer):
                await session.patch(NODE, "other", {"spec": {"unschedulable": True}})
                for beat in range(5):
                    await session.patch(NODE, "mine", {"metadata": {"annotations": {"beat": str(beat)}}})
                await session.patch(NODE, "mine", {"spec": {"unschedulable": True}})
                await until(lambda: len(changes) == 2)
        assert list(informer.items()) == ["mine"]

    asyncio.run(main())


@pytest.mark.parametrize("kill", [False, True])
def test_a_restart_of_the_api_server_is_survived(clean_cluster: ControlPlane, kill: bool) -> None:
    async def main() -> None:
        failures: list[ClusterError] = []
        async with await Session.open(clean_cluster.kubeconfig) as session:
            await session.create(NODE, NODE.manifest("before"))
            backoff = Backoff(0.05, 0.5)
            informer = Informer(session, NODE, on_failure=failures.append, backoff=backoff)
            async with running(informer):
                await asyncio.to_thread(clean_cluster.restart, kill=kill)
                await session.delete(NODE, "before")
                await session.create(NODE, NODE.manifest("after"))
                await until(lambda: list(informer.items()) == ["after"] and informer.stale_seconds == 0)

    asyncio.run(main())


def test_an_expired_version_is_listed_again_with_its_deletions(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        changes: list[tuple[str | None, str | None]] = []

        def note(old: Node | None, new: Node | None) -> None:
            changes.append((old and old.metadata.name, new and new.metadata.name))

        async with (
            faults(clean_cluster.kubeconfig, tmp_path) as proxy,
            await Session.open(clean_cluster.kubeconfig) as direct,
            await Session.open(proxy.kubeconfig) as session,
        ):
            for name in ("a", "b"):
                await direct.create(NODE, NODE.manifest(name))
            informer = Informer(session, NODE, on_change=note, backoff=Backoff(0.2, 0.2))
            async with running(informer):
                await until(lambda: informer.stale_seconds == 0)
                changes.clear()
                proxy.inject("GET", "watch=1", answer(503), times=3)
                proxy.inject("GET", "watch=1", answer(410, "too old resource version"))
                proxy.cut_all()
                await direct.delete(NODE, "a")
                await direct.create(NODE, NODE.manifest("c"))
                await until(lambda: sorted(informer.items()) == ["b", "c"])
                await until(lambda: informer.stale_seconds == 0)
                await direct.create(NODE, NODE.manifest("d"))
                await until(lambda: "d" in informer.items())
        assert sorted(changes, key=str) == [("a", None), (None, "c"), (None, "d")]
        lists = [line for line in proxy.seen if "watch=1" not in line]
        assert len(lists) == 2

    asyncio.run(main())


def test_cut_watches_lose_nothing_and_list_nothing(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            faults(clean_cluster.kubeconfig, tmp_path) as proxy,
            await Session.open(clean_cluster.kubeconfig) as direct,
            await Session.open(proxy.kubeconfig) as session,
        ):
            informer = Informer(session, NODE, backoff=Backoff(0.01, 0.05))
            async with running(informer):
                for number in range(40):
                    await direct.create(NODE, NODE.manifest(f"n{number}"))
                    if number % 4 == 3:
                        proxy.cut_all()
                await until(lambda: len(informer.items()) == 40)
        assert len([line for line in proxy.seen if "watch=1" not in line]) == 1

    asyncio.run(main())


def test_nothing_but_one_watch_at_rest(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            faults(clean_cluster.kubeconfig, tmp_path) as proxy,
            await Session.open(proxy.kubeconfig) as session,
        ):
            informer = Informer(session, NODE, watch_seconds=4)
            async with running(informer):
                await until(lambda: len(proxy.seen) == 3)  # the list, a watch, and the next after four seconds
        assert ["watch=1" in line for line in proxy.seen] == [False, True, True]

    asyncio.run(main())
