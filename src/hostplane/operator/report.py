"""What the operator says of what it decided: statuses, conditions, Events and metrics.

Statuses are written when they differ from what is stored, at most once a second per object unless the phase changed,
and one at a time per object; a write that is lost is made again by the next pass. Events are gathered by owner and
reason, so a wave of 300 grants is one Event and not 300; a failed host gets one of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import structlog

from hostplane.api.host import HOST
from hostplane.api.kubeos import OS
from hostplane.api.meta import ObjectMeta, Resource
from hostplane.api.nodegroup import NODEGROUP
from hostplane.api.rollout import ROLLOUT
from hostplane.errors import ClusterError, Reason, reason
from hostplane.kube.events import EventRecorder, EventType
from hostplane.kube.informer import Informer
from hostplane.kube.lease import Leader
from hostplane.kube.session import Session
from hostplane.planning import progress
from hostplane.planning.actions import Action, Assign, EndOperation, Reclaim, SetGrant
from hostplane.planning.outcome import Plan
from hostplane.planning.snapshot import Snapshot
from hostplane.planning.standing import Stand
from hostplane.planning.verdict import past

from .metrics import Metrics
from .world import World

__all__ = ["Reporter"]

_log = structlog.get_logger(__name__)
_PACE = 1.0
_NAMED = 20
_HARMLESS = ("EndingOperation", "LeaveUntold")
"""Ends of an operation that nobody has to look at."""


class Reporter:
    """Writes statuses from a queue of its own, so that no pass waits for one."""

    def __init__(
        self, session: Session, world: World, leader: Leader, recorder: EventRecorder, metrics: Metrics
    ) -> None:
        self._session, self._world, self._leader = session, world, leader
        self._recorder, self._metrics = recorder, metrics
        self._wanted: dict[tuple[str, str], tuple[Resource[Any], Informer[Any], Any, Any, float]] = {}
        self._written: dict[tuple[str, str], tuple[Any, str, float]] = {}
        self._said: dict[str, str] = {}
        self._unread: dict[tuple[Resource[Any], str], str] = {}
        self._wake = asyncio.Event()

    @property
    def is_behind(self) -> bool:
        """True while statuses wait to be written."""
        return bool(self._wanted)

    def report(
        self, plan: Plan, snapshot: Snapshot, now: datetime, acts: Sequence[Action], begun: Sequence[Action]
    ) -> None:
        """Take up what a pass decided, and of its `actions` and `begin` what is being done; returns at once."""
        self._statuses(plan, snapshot, now)
        self._events(plan, snapshot, acts, begun)
        self._unreadable()
        self._measure(plan, snapshot)

    def warn(self, resource: Resource[Any], about: Any, why: Reason) -> None:
        """Say something of an object that has no status of ours."""
        self._recorder.emit(resource, about, why, "Warning")

    def _statuses(self, plan: Plan, snapshot: Snapshot, now: datetime) -> None:
        for name, mine in plan.rollouts.items():
            status = progress.rollout_status(mine, snapshot.warnings.get(f"rollout/{name}", ()), now)
            self._want(ROLLOUT, self._world.rollouts, name, mine.rollout, status)
        for name, why in plan.wishes.queued.items():
            rollout = snapshot.rollouts[name]
            self._want(ROLLOUT, self._world.rollouts, name, rollout, progress.queued_status(rollout, why, now))
        for name, why in plan.wishes.refused.items():
            rollout = snapshot.rollouts[name]
            self._want(ROLLOUT, self._world.rollouts, name, rollout, progress.refused_status(rollout, why, now))
        for owner, found in plan.owners.items():
            warnings = snapshot.warnings.get(owner, ())
            if owner.startswith("os/"):
                os = snapshot.oses[owner[3:]]
                self._want(OS, self._world.oses, owner[3:], os, progress.os_status(os, found, warnings, now))
            else:
                group = snapshot.groups[owner[6:]]
                wish = plan.wishes.groups.get(owner[6:])
                standing = progress.group_status(group, found, wish, warnings, now)
                self._want(NODEGROUP, self._world.groups, owner[6:], group, standing)

    def _want(self, resource: Resource[Any], cache: Informer[Any], key: str, stored: Any, status: Any) -> None:
        """Queue a status that differs. A new phase goes out at once, mere progress once a second."""
        mark = (resource.kind, key)
        if status == stored.status:
            self._wanted.pop(mark, None)
            return
        last, version, at = self._written.get(mark, (None, "", 0.0))
        if status == last and stored.metadata.resource_version == version:
            return  # it was written and did not stick: KubeOS's own CRD has no status fields
        due = at + _PACE
        if getattr(status, "phase", "") != getattr(stored.status, "phase", ""):
            due = 0.0
        self._wanted[mark] = (resource, cache, stored, status, due)
        self._wake.set()

    async def run(self) -> None:
        """Write what is wanted, until cancelled."""
        while True:
            now = time.monotonic()
            ready = [mark for mark, wanted in self._wanted.items() if wanted[4] <= now]
            for mark in ready:
                await self._write(mark)
            if ready:
                continue
            self._wake.clear()
            next_due = min((wanted[4] for wanted in self._wanted.values()), default=None)
            try:
                async with asyncio.timeout(None if next_due is None else max(0.01, next_due - now)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _write(self, mark: tuple[str, str]) -> None:
        wanted = self._wanted.pop(mark, None)
        if wanted is None:
            return
        resource, cache, stored, status, _ = wanted
        meta = stored.metadata
        self._written[mark] = (None, "", time.monotonic())
        try:
            self._leader.fence()
            body = {"status": _explicit(status)}
            answer = await self._session.patch(resource, meta.name, body, meta.namespace or None, "status")
            self._written[mark] = (status, answer.metadata.resource_version, time.monotonic())
            cache.put(answer)
        except ClusterError as error:
            self._metrics.write_errors.labels(error.name).inc()
            _log.info("status_not_written", kind=resource.kind, name=mark[1], error=str(error))

    def _unreadable(self) -> None:
        """Objects that do not decode have no status of ours to say so in."""
        found = {(resource, key): why for resource, key, why in self._world.undecodable()}
        for (resource, key), why in found.items():
            if self._unread.get((resource, key)) != why:
                namespace, _, name = key.rpartition("/")
                about = SimpleNamespace(metadata=ObjectMeta(name=name, namespace=namespace))
                told = reason("AnswerUndecodable", what=f"{resource.kind} {key}", why=why)
                _log.warning("object_unreadable", kind=resource.kind, name=key, why=why)
                self._recorder.emit(resource, about, told, "Warning")
        self._unread = found

    def _events(self, plan: Plan, snapshot: Snapshot, acts: Sequence[Action], begun: Sequence[Action]) -> None:
        by_owner: dict[str, list[str]] = {}
        for action in begun:
            if isinstance(action, Assign | SetGrant):
                by_owner.setdefault(plan.ledger.add[action.node][1], []).append(action.node)
                operation = action.grant.operation if isinstance(action, SetGrant) else "kubeos"
                self._metrics.grants.labels(operation).inc()
        for owner, nodes in by_owner.items():
            why = reason("Granted", count=len(nodes), nodes=_some(nodes))
            self._emit(owner, snapshot, why)
        for action in acts:
            if isinstance(action, EndOperation | Reclaim):
                kind: EventType = "Normal" if action.reason.name in _HARMLESS else "Warning"
                self._recorder.emit(OS, _owner_of(action, snapshot), action.reason, kind)
                self._metrics.results.labels(action.reason.name).inc()
            elif isinstance(action, SetGrant) and action.grant.stage == "Release":
                result = action.grant.why or "Committed"
                self._metrics.results.labels(result).inc()
                if action.grant.why:
                    self._recorder.emit(HOST, action.node, past(action.grant.why, action.node), "Warning")
        for owner, found in plan.owners.items():
            said = "; ".join(str(r) for r in (*found.conflicts, *((found.hold,) if found.hold else ())))
            if said and said != self._said.get(owner):
                for why in (*found.conflicts, *((found.hold,) if found.hold else ())):
                    self._emit(owner, snapshot, why, "Warning" if why in found.conflicts else "Normal")
            self._said[owner] = said

    def _emit(self, owner: str, snapshot: Snapshot, why: Reason, kind: Any = "Normal") -> None:
        if owner.startswith("os/"):
            self._recorder.emit(OS, snapshot.oses[owner[3:]], why, kind)
        else:
            self._recorder.emit(NODEGROUP, owner[6:], why, kind)

    def _measure(self, plan: Plan, snapshot: Snapshot) -> None:
        counts: dict[tuple[str, str], int] = {}
        for owner, found in plan.owners.items():
            by: dict[Stand, int] = dict.fromkeys(Stand, 0)
            for standing in found.standings:
                by[standing.stand] += 1
            counts.update({(owner, stand.value): count for stand, count in by.items() if count})
        self._metrics.set_hosts(counts)
        self._metrics.ledger_holders.set(len(snapshot.ledger.spec.holders))


def _owner_of(action: EndOperation | Reclaim, snapshot: Snapshot) -> Any:
    instance = snapshot.instances.get(action.node)
    owner = instance.spec.namespacedname if instance else None
    found = snapshot.oses.get(f"{owner.namespace}/{owner.name}") if owner else None
    return found or (instance if instance is not None else action.node)


def _explicit(value: Any) -> Any:
    """Every field at every depth, also those at their default: a merge patch leaves what it does not name."""
    if not isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    return {f.encode_name: _explicit(getattr(value, f.name)) for f in msgspec.structs.fields(value)}


def _some(nodes: Sequence[str]) -> str:
    rest = len(nodes) - _NAMED
    return ", ".join(sorted(nodes)[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
