"""What a pass does with a plan: not what was decided while a node's writes were under way, and not too soon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from hostplane.api.core import Node, NodeCondition, NodeInfo, NodeStatus
from hostplane.api.kubeos import KubeOS, KubeOSSpec, NamespacedName, OSInstance, OSInstanceSpec
from hostplane.api.ledger import Holder, Ledger, LedgerSpec
from hostplane.api.meta import ObjectMeta
from hostplane.operator.metrics import Metrics
from hostplane.operator.passes import Passes
from hostplane.planning.actions import Action, EndOperation, LabelNode
from hostplane.planning.kubeos import OPERATION, Record
from hostplane.planning.snapshot import Options, Snapshot

START = datetime(2026, 1, 1, tzinfo=UTC)
OS = KubeOS(
    metadata=ObjectMeta(name="pool", namespace="default", uid="os", generation=1),
    spec=KubeOSSpec(osversion="v2", opstype="upgrade", maxunavailable=2),
)


class Stage:
    """Everything around the passes, with writes that last until they are let go."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.now = START
        self.done: list[Action] = []
        self.reported: list[Action] = []
        self.held = asyncio.Event()
        self.on_ledger: Callable[[], Awaitable[None]] | None = None
        self.is_leader = True
        self._snapshot = snapshot
        everything: Any = self
        self.ledger = everything
        self.passes = Passes(
            everything, everything, everything, everything, everything, Metrics(), Options(), 0.0, lambda: self.now, UTC
        )

    # The world, the leadership and the reporter.

    def snapshot(self, *_: object) -> Snapshot:
        return self._snapshot

    def drain_views(self) -> dict[str, Any]:
        return {}

    words = drain_views
    is_behind = False

    def fence(self) -> None:
        pass

    def put(self, _: object) -> None:
        pass

    def report(self, *told: Any) -> None:
        self.reported += told[3]

    # The session and the effects.

    async def patch(self, *_: object, **__: object) -> Ledger:
        if self.on_ledger is not None:
            await self.on_ledger()
        return self._snapshot.ledger

    async def do(self, action: Action) -> bool:
        self.done.append(action)
        await self.held.wait()
        return True

    async def until(self, passes: int) -> None:
        """Until so many passes were made."""
        async with asyncio.timeout(10):
            while self.passes.made < passes:
                self.passes.wake()
                await asyncio.sleep(0)


def _node(name: str, image: str) -> Node:
    info = NodeInfo(os_image=image, boot_id="new" if image == "v2" else "old")
    ready = NodeCondition(type="Ready", status="True")
    return Node(
        metadata=ObjectMeta(name=name, uid=name, resource_version="7"),
        status=NodeStatus(conditions=[ready], node_info=info),
    )


def _instance(name: str, seq: int, status: str) -> OSInstance:
    record = Record(os="os", generation=1, seq=seq, boot="old", at=int(START.timestamp()) - 30, schedulable=True)
    kept = {OPERATION: msgspec.json.encode(record).decode()}
    owner = NamespacedName(name="pool", namespace="default") if status == "upgrade" else None
    return OSInstance(
        metadata=ObjectMeta(name=name, namespace="default", resource_version="7", annotations=kept),
        spec=OSInstanceSpec(nodestatus=status, namespacedname=owner),
    )


def _snapshot(nodes: dict[str, tuple[str, str]]) -> Snapshot:
    """name -> (version, nodestatus); all hold a place in the Ledger."""
    holders = {name: Holder(seq=i, group=0, since=int(START.timestamp()) - 30) for i, name in enumerate(nodes, 1)}
    spec = LedgerSpec(next_seq=9, groups=["os/default/pool"], holders=holders)
    return Snapshot(
        nodes={name: _node(name, image) for name, (image, _) in nodes.items()},
        instances={name: _instance(name, holders[name].seq, status) for name, (_, status) in nodes.items()},
        oses={"default/pool": OS},
        ledger=Ledger(metadata=ObjectMeta(name="cluster", resource_version="7"), spec=spec),
    )


def _play(snapshot: Snapshot, story: Callable[[Stage], Awaitable[None]]) -> None:
    async def run() -> None:
        stage = Stage(snapshot)
        task = asyncio.create_task(stage.passes.run())
        try:
            await story(stage)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_writes_that_end_while_the_ledger_is_written_are_not_made_again() -> None:
    # "told" misses its label; "through" leaves the Ledger, so that every pass has the Ledger to change.
    async def story(stage: Stage) -> None:
        await stage.until(2)
        assert [type(action) for action in stage.done] == [LabelNode]

        async def end_the_first_write() -> None:
            stage.held.set()
            while stage.passes.under_way:  # noqa: ASYNC110  # the loop has nothing else to wait on
                await asyncio.sleep(0)

        stage.on_ledger = end_the_first_write
        await stage.until(3)
        assert [action.node for action in stage.done] == ["told"]
        assert [action.node for action in stage.reported] == ["told"]

    _play(_snapshot({"told": ("v1", "upgrade"), "through": ("v2", "idle")}), story)


def test_what_the_proxy_is_about_to_do_is_left_to_it_for_a_while() -> None:
    # Upgraded and un-labelled, not yet idle: between two writes of KubeOS's proxy, or it has died there.
    async def story(stage: Stage) -> None:
        await stage.until(3)
        assert stage.done == []
        assert stage.reported == []
        stage.now += timedelta(seconds=5)
        await stage.until(stage.passes.made + 2)
        assert [type(action) for action in stage.done] == [EndOperation]

    _play(_snapshot({"n1": ("v2", "upgrade")}), story)
