"""One pass after another while this process leads: look, plan, change the Ledger, write, report.

A pass never waits for its writes. Each node has at most one chain of writes under way; the wishes of a plan that was
made while it had one are dropped, because the next pass has them again, from a view with those writes in it. When a
chain ends, another pass follows, so a slot that became free is filled at once. Only the Ledger's update is waited for:
nothing may begin before it was accepted; so it goes ahead of all writes that queue.

While busy, passes begin `coalesce_seconds` apart, or further where planning would take more than a fifth of the time:
no answer to a write is read meanwhile, and the few connections would stand idle. The first change after a rest is
acted on at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import datetime, tzinfo

import structlog

from hostplane.api.ledger import LEDGER, LEDGER_NAME
from hostplane.api.validate import check_schema_version
from hostplane.errors import ClusterError, ConflictError, NotFoundError
from hostplane.kube.lease import Leader
from hostplane.kube.session import Session
from hostplane.planning.actions import Action, LedgerChange
from hostplane.planning.plan import plan
from hostplane.planning.snapshot import Options, Snapshot

from .effects import Effects
from .metrics import Metrics
from .report import Reporter
from .world import World

__all__ = ["Passes"]

_log = structlog.get_logger(__name__)
_RESTLESS_SECONDS = 5.0
_RETRY_SECONDS = 1.0
_SPACING = 5.0


class Passes:
    """The loop. `wake` may be called from anywhere in the event loop, as often as one likes."""

    def __init__(
        self,
        session: Session,
        world: World,
        leader: Leader,
        effects: Effects,
        reporter: Reporter,
        metrics: Metrics,
        options: Options,
        coalesce: float,
        clock: Callable[[], datetime],
        zone: tzinfo,
    ) -> None:
        self._session, self._world, self._leader = session, world, leader
        self._effects, self._reporter, self._metrics = effects, reporter, metrics
        self._options, self._coalesce, self._clock, self._zone = options, coalesce, clock, zone
        self._wake = asyncio.Event()
        self._chains: dict[str, asyncio.Task[None]] = {}
        self._patient: dict[str, float] = {}
        self._thought = 0.0  # seconds of planning in the last pass
        self.made = 0

    @property
    def under_way(self) -> int:
        """Nodes with writes under way."""
        return len(self._chains)

    def wake(self) -> None:
        """Something changed: make a pass soon."""
        self._wake.set()

    async def run(self) -> None:
        """Make passes until cancelled or no longer the leader; writes under way end with it."""
        try:
            async with asyncio.TaskGroup() as group:
                while self._leader.is_leader:
                    begun = time.monotonic()
                    restless = await self._one(group)
                    await self._rest(restless, begun)
        finally:
            self._chains.clear()

    async def _rest(self, restless: bool, begun: float) -> None:
        """Wait for a change, or for time to bring one; then, while busy, until the next pass is due."""
        try:
            async with asyncio.timeout(_RESTLESS_SECONDS if restless else None):
                await self._wake.wait()
        except TimeoutError:
            return
        due = begun + max(self._coalesce, _SPACING * self._thought)
        if restless and (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    async def _one(self, group: asyncio.TaskGroup) -> bool:
        self._wake.clear()
        begun = time.perf_counter()
        now = self._clock()
        unsettled = set(self._chains)  # also those that end while the Ledger is written: decided on what was before
        snapshot = self._world.snapshot(self._effects.drain_views(), self._effects.words(), now.timestamp())
        unknown = check_schema_version(snapshot.ledger)
        if unknown is not None:  # whoever is away by it, this program cannot tell
            _log.error("ledger_unknown", code=unknown.code, error=str(unknown))
            self._reporter.warn(LEDGER, snapshot.ledger, unknown)
            return False
        try:
            decided = plan(snapshot, now, self._zone, self._options)
            self._thought = time.perf_counter() - begun
            accepted = await self._change_ledger(snapshot, decided.ledger)
        except ClusterError as error:
            self._metrics.pass_errors.inc()
            self._metrics.write_errors.labels(error.name).inc()
            _log.warning("pass_failed", error=str(error))
            await asyncio.sleep(_RETRY_SECONDS)
            return True
        except Exception:  # a process that ended here would only begin anew and meet the same objects
            self._metrics.pass_errors.inc()
            _log.exception("pass_broke")
            await asyncio.sleep(_RETRY_SECONDS)
            return True
        acts = [action for action in self._due(decided.actions, now.timestamp()) if action.node not in unsettled]
        begin = [action for action in decided.begin if accepted and action.node not in unsettled]
        chains: dict[str, list[Action]] = {}
        for action in (*acts, *begin):
            chains.setdefault(action.node, []).append(action)
        for node, actions in chains.items():
            self._chains[node] = group.create_task(self._do(node, actions))
        self._reporter.report(decided, snapshot, now, acts, begin)
        self._metrics.pass_seconds.observe(time.perf_counter() - begun)
        self.made += 1
        return decided.restless or bool(decided.ledger) or bool(self._chains) or self._reporter.is_behind

    def _due(self, actions: list[Action], now: float) -> list[Action]:
        """Those that nothing speaks against doing now: a patient one has been wished for in every pass for so long."""
        self._patient = {a.node: self._patient.get(a.node, now) for a in actions if a.patience}
        return [a for a in actions if now - self._patient.get(a.node, now) >= a.patience]

    async def _do(self, node: str, actions: list[Action]) -> None:
        try:
            for action in actions:
                if not await self._effects.do(action):
                    break
        except ClusterError as error:
            self._metrics.write_errors.labels(error.name).inc()
            await asyncio.sleep(getattr(error, "retry_after", None) or _RETRY_SECONDS)
        except Exception as error:  # what one node's objects lead to must not end the work on the others
            self._metrics.write_errors.labels(type(error).__name__).inc()
            _log.exception("write_broke", node=node)
            await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._chains.pop(node, None)
            self.wake()

    async def _change_ledger(self, snapshot: Snapshot, change: LedgerChange) -> bool:
        """One conditional update. False: somebody else wrote; the Ledger was read again and nothing may begin."""
        if not change:
            return True
        self._leader.fence()
        ledger = snapshot.ledger
        try:
            if not ledger.metadata.resource_version:
                created = await self._session.create(LEDGER, LEDGER.manifest(LEDGER_NAME, spec={"nextSeq": 1}))
                self._world.ledger.put(created)
                ledger = created
            body = {
                "metadata": {"resourceVersion": ledger.metadata.resource_version},
                "spec": _ledger_spec(snapshot, change),
            }
            self._world.ledger.put(await self._session.patch(LEDGER, LEDGER_NAME, body, urgent=True))
        except (ConflictError, NotFoundError) as error:
            _log.info("ledger_outdated", code=error.code)
            with contextlib.suppress(NotFoundError):
                self._world.ledger.put(await self._session.get(LEDGER, LEDGER_NAME))
            self.wake()
            return False
        return True


def _ledger_spec(snapshot: Snapshot, change: LedgerChange) -> dict[str, object]:
    """The merge patch of the Ledger's spec; a holder that leaves is null.

    Group names are appended, because holders point at them, and begin anew whenever nobody holds anything.
    """
    ledger, now = snapshot.ledger.spec, int(time.time())
    groups = list(ledger.groups) if ledger.holders.keys() - change.remove else []
    index = {name: i for i, name in enumerate(groups)}
    holders: dict[str, object] = {name: None for name in change.remove if name in ledger.holders}
    for node, (seq, owner) in change.add.items():
        if owner not in index:
            index[owner] = len(groups)
            groups.append(owner)
        holders[node] = {"seq": seq, "group": index[owner], "since": now}
    spec: dict[str, object] = {"schemaVersion": "1.0", "nextSeq": max(ledger.next_seq, change.next_seq)}
    if holders:
        spec["holders"] = holders
    if groups != ledger.groups:
        spec["groups"] = groups
    return spec
