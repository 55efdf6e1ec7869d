"""One pass over everything: who works, who may begin, who leaves, and why everybody else gets nothing.

The plan is made anew from the snapshot each time; nothing is carried over. Its order of effects is what keeps the
budget: the Ledger changes first (one conditional update); only if that was accepted may `begin` be written. `actions`
are about hosts that are in the Ledger already, or take nothing from the budget.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, tzinfo

import msgspec

from hostplane.api.core import Node
from hostplane.api.kubeos import CONFIGURING, SERIAL, UPGRADING
from hostplane.api.ledger import MAX_BYTES, MAX_HOLDERS
from hostplane.api.osimage import OSImage
from hostplane.api.rollout import Rollout
from hostplane.errors import ApiError, Reason, reason

from . import kubeos, native
from .actions import Action, DeleteHost, DeleteInstance, LabelNode, LedgerChange, NudgeOS
from .budget import Budget, Cap, parse_count
from .membership import Membership, membership
from .snapshot import NEVER, Options, Snapshot
from .standing import Stand, Standing
from .steps import step_of
from .target import target_of
from .windows import is_open, kubeos_is_open
from .wishes import GroupWish, Wishes, wishes

__all__ = ["OwnerPlan", "Plan", "RolloutPlan", "plan"]

_HOLDER_BYTES = 64
_INSTANCE_GRACE = 10


class OwnerPlan(msgspec.Struct, kw_only=True):
    """What a pass found for one NodeGroup or OS object."""

    owner: str
    standings: list[Standing] = []
    away: int = 0
    limit: int = 0
    hold: Reason | None = None
    """Why nobody of it may begin now, or None."""
    conflicts: tuple[Reason, ...] = ()
    rollout: Rollout | None = None


class RolloutPlan(msgspec.Struct, kw_only=True):
    """What a pass found for one Rollout in force, over all its groups."""

    rollout: Rollout
    standings: list[Standing] = []
    step: int = 0
    step_done: bool = False
    """Its hosts are through, and it soaks."""
    room: int = 0
    """How many more hosts the step lets begin."""
    hold: Reason | None = None


class Plan(msgspec.Struct, kw_only=True):
    """All that is to be done and said after one pass."""

    ledger: LedgerChange
    begin: list[Action]
    """Only after `ledger` was accepted."""
    actions: list[Action]
    owners: dict[str, OwnerPlan]
    rollouts: dict[str, RolloutPlan]
    """The Rollouts in force, by name."""
    membership: Membership
    wishes: Wishes
    reasons: dict[str, Reason]
    """Every node that waits, is blocked or failed -> why."""
    restless: bool
    """Time alone may change the plan: make another soon."""


def plan(snapshot: Snapshot, now: datetime, zone: tzinfo, options: Options) -> Plan:
    """Decide everything for this instant. `now` is aware; `zone` is the operator's own, for KubeOS's windows."""
    return _Pass(snapshot, now, zone, options).run()


class _Pass:
    """The working state of one pass; thrown away with it."""

    def __init__(self, snapshot: Snapshot, now: datetime, zone: tzinfo, options: Options) -> None:
        self.snap, self.now, self.zone, self.options = snapshot, now, zone, options
        self.seconds = int(now.timestamp())
        self.members = membership(snapshot.nodes, snapshot.groups, snapshot.oses)
        self.wishes = wishes(snapshot.groups, snapshot.rollouts)
        self.holders = snapshot.ledger.spec.holders
        self.actions: list[Action] = []
        self.begin: list[Action] = []
        self.add: dict[str, tuple[int, str]] = {}
        self.remove: set[str] = set()
        self.owners: dict[str, OwnerPlan] = {}
        self.rollouts: dict[str, RolloutPlan] = {}
        self.reasons: dict[str, Reason] = {}
        self.next_seq = self._next_seq()
        self.restless = bool(self.holders) or bool(snapshot.gone)
        self.staging_room = options.max_staging

    def run(self) -> Plan:
        standings = {owner: self._observe(owner, nodes) for owner, nodes in self.members.members.items()}
        self._strays()
        self.staging_room -= sum(s.staging for found in standings.values() for s in found)
        self._sum_rollouts(standings)
        away = {owner: {s.node for s in found if self._is_away(s)} for owner, found in standings.items()}
        total = sum(len(found) for found in standings.values())
        cluster = self._cluster_cap(total, sum(len(names) for names in away.values()))
        for owner, found in standings.items():
            self._decide(owner, found, away[owner], cluster)
        self._say_conflicts()
        self._forget_gone()
        return Plan(
            ledger=LedgerChange(add=self.add, remove=frozenset(self.remove), next_seq=self.next_seq),
            begin=self.begin,
            actions=self.actions,
            owners=self.owners,
            rollouts=self.rollouts,
            membership=self.members,
            wishes=self.wishes,
            reasons=self.reasons,
            restless=self.restless,
        )

    def _next_seq(self) -> int:
        """Above every number that any host has ever reported or been told, also after a restore of etcd."""
        top = self.snap.ledger.spec.next_seq - 1
        for host in self.snap.hosts.values():
            grant = host.spec.grant
            top = max(top, host.status.seq, grant.seq if grant else 0)
        return top + 1

    def _take_seq(self) -> int:
        seq = self.next_seq
        self.next_seq += 2  # the number itself and its Release
        return seq

    # --- where everybody stands -------------------------------------------------------------------------------------

    def _observe(self, owner: str, names: Iterable[str]) -> list[Standing]:
        snap = self.snap
        nodes, holders = snap.nodes, self.holders
        if owner.startswith("os/"):
            wish = kubeos.Wish(snap.oses[owner[3:]])
            observe, instances, seconds, options = kubeos.observe, snap.instances, self.seconds, self.options
            return [observe(wish, nodes[n], instances.get(n), holders.get(n), seconds, options) for n in names]
        group = self.wishes.groups[owner[6:]]
        return [self._observe_native(group, name) for name in names]

    def _observe_native(self, wish: GroupWish | None, name: str) -> Standing:
        snap = self.snap
        return native.observe(
            wish,
            self._image(wish),
            snap.nodes[name],
            snap.hosts.get(name),
            self.holders.get(name),
            native.Seen(drain=snap.drains.get(name), word=snap.words.get(name)),
            self.seconds,
            self.options,
        )

    def _image(self, wish: GroupWish | None) -> OSImage | None:
        if wish is None or wish.image is None:
            return None
        return self.snap.images.get(wish.image.spec.image_for(wish.name))

    def _strays(self) -> None:
        """Nodes and hosts that no wish covers any more, but that we once took: see them to their end."""
        snap = self.snap
        covered = {name for names in self.members.members.values() for name in names}
        for name in self.holders:
            node = snap.nodes.get(name)
            if node is None or name in covered:
                continue
            if name in snap.hosts:
                standing = self._observe_native(None, name) if NEVER not in node.metadata.labels else None
                if standing is not None:
                    self.actions += standing.actions
                    if standing.leaves:
                        self.remove.add(name)
            elif not self._kubeos_busy(name) or NEVER in node.metadata.labels:
                self.remove.add(name)
        for name, instance in snap.instances.items():
            owner = instance.spec.namespacedname
            if owner is None or f"{owner.namespace}/{owner.name}" in snap.oses:
                continue
            node = snap.nodes.get(name)
            if node is not None and NEVER in node.metadata.labels:
                continue
            back = kubeos.orphan(node, instance, self.seconds)
            if back is not None:
                self.actions.append(back)

    def _kubeos_busy(self, name: str) -> bool:
        instance, node = self.snap.instances.get(name), self.snap.nodes[name]
        labelled = UPGRADING in node.metadata.labels or CONFIGURING in node.metadata.labels
        return labelled or (instance is not None and instance.spec.nodestatus not in ("idle", ""))

    # --- who may begin ----------------------------------------------------------------------------------------------

    def _is_away(self, standing: Standing) -> bool:
        """Each node counts once, whatever the number of reasons."""
        name = standing.node
        if name in self.holders:
            return not standing.leaves
        if standing.joins is not None:
            return True
        node = self.snap.nodes[name]
        if node.spec.unschedulable or not node.ready:
            return True
        labels = node.metadata.labels
        return UPGRADING in labels or CONFIGURING in labels

    def _cluster_cap(self, total: int, away: int) -> Cap:
        try:
            limit = parse_count(self.options.cluster_max_unavailable, total)
        except ApiError:
            limit = 1
        return Cap("cluster", limit, away)

    def _decide(self, owner: str, found: list[Standing], away: set[str], cluster: Cap) -> None:
        mine = OwnerPlan(owner=owner, standings=found)
        self.owners[owner] = mine
        for standing in found:
            self._carry_on(owner, standing)
        mine.away = len(away)
        try:
            if owner.startswith("os/"):
                self._begin_os(mine, away, cluster)
            else:
                self._begin_group(mine, away, cluster)
        except ApiError as error:  # the object says something that can never act: nobody of it begins
            mine.hold = error.reason
        if mine.hold is not None:
            for standing in found:
                if standing.stand is Stand.READY:
                    self.reasons.setdefault(standing.node, mine.hold)

    def _carry_on(self, owner: str, standing: Standing) -> None:
        name = standing.node
        if standing.leaves and name in self.holders:
            self.remove.add(name)
        if standing.joins is not None and name not in self.holders:
            self.add[name] = (standing.joins or self._take_seq(), owner)
        self.actions += standing.actions
        if standing.reason is not None:
            self.reasons[name] = standing.reason
        if standing.stand in (Stand.WAITING, Stand.WORKING):
            self.restless = True

    def _begin_os(self, mine: OwnerPlan, away: set[str], cluster: Cap) -> None:
        os = self.snap.oses[mine.owner[3:]]
        if os.spec.maxunavailable < 1:
            raise ApiError("CountTooSmall", value=os.spec.maxunavailable)
        mine.limit = min(os.spec.maxunavailable, len(mine.standings))
        failed = sum(s.stand is Stand.FAILED for s in mine.standings)
        ready = [s for s in mine.standings if s.stand is Stand.READY]
        if not kubeos_is_open(os.spec.timewindow, self.now, self.zone):
            mine.hold, self.restless = reason("WindowClosed", owner=mine.owner), True
        elif failed >= os.spec.maxunavailable:
            mine.hold = reason("TooManyFailed", owner=mine.owner, failed=failed, limit=os.spec.maxunavailable)
        if os.spec.executionmode == "serial":
            ready = self._serial(mine, ready)
        if mine.hold is not None or not ready:
            return
        budget = Budget(Cap(mine.owner, mine.limit, mine.away), cluster)
        wish = kubeos.Wish(os)
        switched = False
        for node in self._within(budget, ready, away, mine.owner):
            name = node.metadata.name
            instance = self.snap.instances[name]
            seq = self._join(name, mine.owner)
            self.begin.append(kubeos.assign(wish, node, instance, seq, self.seconds))
            before = kubeos.record_of(instance).os
            switched = switched or bool(before and before != wish.uid)
        if switched:
            # KubeOS's proxies stop looking at an OS that did not own their node, until that OS changes.
            self.begin.append(NudgeOS(node=wish.key, token=str(self.next_seq)))

    def _serial(self, mine: OwnerPlan, ready: list[Standing]) -> list[Standing]:
        """KubeOS's serial mode: a labelled batch of at most maxunavailable nodes, worked on one after the other."""
        nodes = self.snap.nodes
        batch = [s.node for s in mine.standings if SERIAL in nodes[s.node].metadata.labels]
        if any(s.stand is Stand.WORKING for s in mine.standings):
            return []
        if not ready or mine.hold is not None:
            if not ready:
                self.actions += [LabelNode(node=n, labels={SERIAL: None}) for n in batch]
            return []
        wanting = [s for s in ready if s.node in batch]
        if not wanting:
            self.actions += [LabelNode(node=n, labels={SERIAL: None}) for n in batch]
            batch = []
        room = mine.limit - len(batch)
        fresh = [s for s in ready if s.node not in batch][: max(0, room)]
        self.actions += [LabelNode(node=s.node, labels={SERIAL: ""}) for s in fresh]
        return (wanting or fresh)[:1]

    def _sum_rollouts(self, standings: dict[str, list[Standing]]) -> None:
        """Failures and steps are counted over a whole Rollout, not group by group."""
        for name, wish in self.wishes.groups.items():
            if wish.active is not None:
                mine = self.rollouts.setdefault(wish.active.metadata.name, RolloutPlan(rollout=wish.active))
                mine.standings = mine.standings + standings[f"group/{name}"]
        for name, mine in self.rollouts.items():
            spec = mine.rollout.spec
            try:
                failed = sum(s.stand is Stand.FAILED for s in mine.standings)
                threshold = parse_count(spec.failure_threshold, len(mine.standings))
                mine.step, mine.room, mine.step_done = step_of(mine.rollout, mine.standings, self.seconds)
            except ApiError as error:
                mine.hold = error.reason
                continue
            if spec.paused:
                mine.hold = reason("RolloutPaused", rollout=name)
            elif failed >= threshold:
                mine.hold = reason("TooManyFailed", owner=name, failed=failed, limit=threshold)
            self.restless = self.restless or bool(spec.steps)

    def _begin_group(self, mine: OwnerPlan, away: set[str], cluster: Cap) -> None:
        wish = self.wishes.groups[mine.owner[6:]]
        spec = wish.group.spec
        mine.limit = parse_count(spec.max_unavailable, len(mine.standings))
        mine.rollout = wish.active
        whole = self.rollouts.get(wish.active.metadata.name) if wish.active else None
        mine.hold = whole.hold if whole else None
        if mine.hold is not None:
            return
        self._stage_ahead(mine)
        if not is_open(spec.windows, self.now):
            mine.hold, self.restless = reason("WindowClosed", owner=mine.owner), True
            return
        ready = sorted((s for s in mine.standings if s.stand is Stand.READY), key=lambda s: s.node)
        if whole is not None and ready:
            if whole.room <= 0:
                mine.hold = reason("StepHolds", rollout=whole.rollout.metadata.name, step=whole.step + 1)
                return
            ready = ready[: whole.room]
        if not ready:
            return
        nodes = self.snap.nodes
        members = [nodes[s.node] for s in mine.standings] if spec.topology else ()
        budget = Budget(Cap(mine.owner, mine.limit, mine.away), cluster, spec.topology, members, away)
        for node in self._within(budget, ready, away, mine.owner):
            name = node.metadata.name
            host = self.snap.hosts[name]
            target = target_of(wish, self._image(wish), node, host, self.seconds)
            self.begin.append(native.grant_for(target, wish, host, self._join(name, mine.owner), self.seconds))
            if whole is not None:
                whole.room -= 1

    def _stage_ahead(self, mine: OwnerPlan) -> None:
        """Staging takes no budget and waits for no window; only so many hosts fetch at a time."""
        for standing in mine.standings:
            if standing.stage is not None and self.staging_room > 0:
                self.staging_room -= 1
                self.actions.append(standing.stage)

    def _within(self, budget: Budget, ready: list[Standing], away: set[str], owner: str) -> Iterable[Node]:
        """Those that may begin, nodes that are away already first, then by name; the others get their reason."""
        nodes = self.snap.nodes
        room = min(MAX_HOLDERS - len(self.holders) - len(self.add), self._ledger_room())
        for standing in sorted(ready, key=lambda s: (s.node not in away, s.node)):
            node, is_away = nodes[standing.node], standing.node in away
            refused = budget.refuse(node, is_away) if room > 0 else reason("LedgerFull", owner=owner)
            if refused is not None:
                self.reasons[standing.node] = refused
                continue
            budget.take(node, is_away)
            room -= 1
            yield node

    def _ledger_room(self) -> int:
        used = sum(len(name) + _HOLDER_BYTES for name in (*self.holders, *self.add))
        return (MAX_BYTES - used) // (253 + _HOLDER_BYTES)

    def _join(self, name: str, owner: str) -> int:
        seq = self._take_seq()
        self.add[name] = (seq, owner)
        self.remove.discard(name)
        return seq

    # --- the rest ---------------------------------------------------------------------------------------------------

    def _say_conflicts(self) -> None:
        for name, owners in self.members.conflicts.items():
            self.reasons[name] = reason("Overlap", node=name, owners=", ".join(owners))
        for name in self.members.never:
            self.reasons[name] = reason("Never", node=name)
        for owner, mine in self.owners.items():
            others = self.members.overlaps(owner) if self.members.conflicts else {}
            mine.conflicts = tuple(reason("OverlapWith", other=o, node=n) for o, n in sorted(others.items()))

    def _forget_gone(self) -> None:
        """Objects of nodes that were deleted: their place in the Ledger, their Host, their OSInstance."""
        for name, since in self.snap.gone.items():
            if name in self.snap.nodes:
                continue
            age = self.now.timestamp() - since
            if name in self.holders and age >= self.options.gone_grace:
                self.remove.add(name)
            if age < _INSTANCE_GRACE:
                continue
            instance, host = self.snap.instances.get(name), self.snap.hosts.get(name)
            if instance is not None:
                meta = instance.metadata
                self.actions.append(DeleteInstance(node=name, namespace=meta.namespace, name=meta.name, uid=meta.uid))
            if host is not None:
                self.actions.append(DeleteHost(node=name, uid=host.metadata.uid))
