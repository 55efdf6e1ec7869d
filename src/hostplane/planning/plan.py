"""One pass over everything: who works, who may begin, who leaves, and why everybody else gets nothing.

The plan is made anew from the snapshot each time; nothing is carried over. Its order of effects is what keeps the
budget: the Ledger changes first (one conditional update); only if that was accepted may `begin` be written. `actions`
are about hosts that are in the Ledger already, or take nothing from the budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, tzinfo

from hostplane.api.core import Node
from hostplane.api.kubeos import CONFIGURING, SERIAL, UPGRADING
from hostplane.api.ledger import MAX_BYTES, MAX_HOLDERS
from hostplane.api.osimage import OSImage
from hostplane.api.validate import check_schema_version
from hostplane.errors import ApiError, Reason, reason

from . import kubeos, native
from .actions import Action, LedgerChange
from .budget import Away, Budget, Cap, parse_count
from .membership import membership
from .outcome import OwnerPlan, Plan, RolloutPlan
from .serial import serial
from .snapshot import Options, Snapshot
from .standing import Stand, Standing
from .steps import step_of
from .strays import GROUP, OS, drivers, gone, orphans, strays
from .target import target_of
from .windows import is_open, kubeos_is_open
from .wishes import GroupWish, wishes

__all__ = ["plan"]

_HOLDER_BYTES = 64
_SEQ_LEAP = 1 << 20  # grants that a restore of etcd may have forgotten


def plan(snapshot: Snapshot, now: datetime, zone: tzinfo, options: Options) -> Plan:
    """Decide everything for this instant. `now` is aware; `zone` is the operator's own, for KubeOS's windows."""
    return _Pass(snapshot, now, zone, options).run()


class _Pass:
    """The working state of one pass; thrown away with it."""

    def __init__(self, snapshot: Snapshot, now: datetime, zone: tzinfo, options: Options) -> None:
        self.snap, self.now, self.zone, self.options = snapshot, now, zone, options
        self.seconds = int(now.timestamp())
        self.members = membership(snapshot.nodes, snapshot.groups, snapshot.oses)
        refused = {key[8:]: why for key, why in snapshot.refused.items() if key.startswith("rollout/")}
        self.unsettled = {key[9:]: why for key, why in snapshot.refused.items() if key.startswith("settings/")}
        self.wishes = wishes(snapshot.groups, snapshot.rollouts, refused, self.unsettled)
        self.holders = snapshot.ledger.spec.holders
        self.ours, self.theirs = drivers(snapshot)
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
        elsewhere = self._strays(standings)
        self.staging_room -= sum(s.staging for found in standings.values() for s in found)
        self._sum_rollouts(standings)
        away = {owner: {s.node for s in found if self._is_away(s)} for owner, found in standings.items()}
        held = {owner: {s.node for s in found if self._is_held(s)} for owner, found in standings.items()}
        total, strayed = sum(len(found) for found in standings.values()), sum(elsewhere.values())
        cluster = self._cluster_cap(
            total, sum(map(len, away.values())) + strayed, sum(map(len, held.values())) + strayed
        )
        for owner, found in standings.items():
            self._decide(owner, found, Away(away[owner], held[owner], elsewhere[owner]), cluster)
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
        """Above every number that any host has ever been told, or reports, also after a restore of etcd.

        A report is only a node's word: one that leaps ahead of all grants is a lie, and believed it would take the
        numbers from every other host.
        """
        top = self.snap.ledger.spec.next_seq - 1
        if not top:  # a new Ledger: OSInstances may remember an old one's numbers
            top = max((kubeos.record_of(instance).seq for instance in self.snap.instances.values()), default=0)
        hosts = self.snap.hosts.values()
        top = max(top, max((host.spec.grant.seq for host in hosts if host.spec.grant), default=0))
        return max(top, max((h.status.seq for h in hosts if h.status.seq <= top + _SEQ_LEAP), default=0)) + 1

    def _take_seq(self) -> int:
        seq = self.next_seq
        self.next_seq += 2  # the number itself and its Release
        return seq

    # --- where everybody stands -------------------------------------------------------------------------------------

    def _observe(self, owner: str, names: Iterable[str]) -> list[Standing]:
        snap = self.snap
        nodes = snap.nodes
        if owner.startswith(OS):
            wish = kubeos.Wish(snap.oses[owner[3:]])
            observe, instances, seconds, options = kubeos.observe, snap.instances, self.seconds, self.options
            mine, foreign = self.theirs, self.ours
            found = [observe(wish, nodes[n], instances.get(n), mine.get(n), seconds, options) for n in names]
        else:
            group, foreign = self.wishes.groups[owner[6:]], self.theirs
            found = [self._observe_native(group, name) for name in names]
        if foreign:
            found = [self._elsewhere(s) if s.node in foreign else s for s in found]
        return found

    def _elsewhere(self, standing: Standing) -> Standing:
        """A node that the other driver still works on: it has to wait, and strays.py sees to it."""
        owner = self.snap.ledger.spec.groups[self.holders[standing.node].group]
        return Standing(standing.node, Stand.WAITING, reason("OwnedByOther", node=standing.node, other=owner))

    def _observe_native(self, wish: GroupWish | None, name: str) -> Standing:
        snap, host = self.snap, self.snap.hosts.get(name)
        unknown = check_schema_version(host) if host is not None else None
        if unknown is not None:
            return Standing(name, Stand.BLOCKED, unknown)
        return native.observe(
            wish,
            self._image(wish),
            snap.nodes[name],
            host,
            self.ours.get(name),
            native.Seen(drain=snap.drains.get(name), word=snap.words.get(name)),
            self.seconds,
            self.options,
        )

    def _image(self, wish: GroupWish | None) -> OSImage | None:
        if wish is None or wish.image is None:
            return None
        return self.snap.images.get(wish.image.spec.image_for(wish.name))

    def _strays(self, standings: Mapping[str, list[Standing]]) -> Counter[str]:
        """Carry on what no wish covers; how many of those count against which owner."""
        in_groups = {s.node for owner, found in standings.items() if owner.startswith(GROUP) for s in found}
        in_oses = {s.node: owner[3:] for owner, found in standings.items() if owner.startswith(OS) for s in found}
        for owner, standing in strays(self.snap, in_groups, in_oses, self.seconds, self.options):
            self._carry_on(owner, standing)
        self.actions += orphans(self.snap, in_oses, self.seconds)
        groups, found = self.snap.ledger.spec.groups, Counter[str]()
        for name, holder in self.holders.items():
            if name not in in_groups and name not in in_oses and name not in self.remove:
                found[groups[holder.group] if holder.group < len(groups) else ""] += 1
        found.update(owner for name, (_, owner) in self.add.items() if name not in in_groups and name not in in_oses)
        return found

    # --- who may begin ----------------------------------------------------------------------------------------------

    def _is_away(self, standing: Standing) -> bool:
        """Each node counts once, whatever the number of reasons."""
        if self._is_held(standing):
            return True
        node = self.snap.nodes[standing.node]
        if node.spec.unschedulable or not node.ready:
            return True
        labels = node.metadata.labels
        return UPGRADING in labels or CONFIGURING in labels

    def _is_held(self, standing: Standing) -> bool:
        """It has a place in the Ledger and keeps it, or gets one whatever the budget says."""
        if standing.node in self.holders:
            return not standing.leaves
        return standing.joins is not None

    def _cluster_cap(self, total: int, away: int, held: int) -> Cap:
        try:
            limit = parse_count(self.options.cluster_max_unavailable, total)
        except ApiError:
            limit = 1
        return Cap("cluster", limit, away, held)

    def _decide(self, owner: str, found: list[Standing], away: Away, cluster: Cap) -> None:
        mine = OwnerPlan(owner=owner, standings=found)
        self.owners[owner] = mine
        for standing in found:
            self._carry_on(owner, standing)
        mine.away = away.count
        mine.hold = self.snap.refused.get(owner)
        if owner.startswith(GROUP):
            mine.unsettled = self.unsettled.get(owner[6:])
            mine.drifted = tuple(s.node for s in found if self._has_drifted(s.node))
        try:
            if mine.hold is not None:
                pass
            elif owner.startswith(OS):
                self.actions += kubeos.nudge(self.snap.oses[owner[3:]], found, self.seconds)
                self._begin_os(mine, away, cluster)
            else:
                self._begin_group(mine, away, cluster)
        except ApiError as error:  # the object says something that can never act: nobody of it begins
            mine.hold = error.reason
        if mine.hold is not None:
            for standing in found:
                if standing.stand is Stand.READY:
                    self.reasons[standing.node] = mine.hold

    def _has_drifted(self, name: str) -> bool:
        host = self.snap.hosts.get(name)
        return host is not None and host.status.settings is not None and bool(host.status.settings.drift)

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

    def _begin_os(self, mine: OwnerPlan, away: Away, cluster: Cap) -> None:
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
            batch = [s.node for s in mine.standings if SERIAL in self.snap.nodes[s.node].metadata.labels]
            waiting = ready
            ready, labels = serial(mine.standings, batch, mine.limit, mine.hold is not None)
            self.actions += labels
            turn = reason("SerialTurn", owner=mine.owner)
            self.reasons.update((s.node, turn) for s in waiting)
        if mine.hold is not None or not ready:
            return
        budget = Budget(away.cap(mine.owner, mine.limit), cluster)
        wish = kubeos.Wish(os)
        is_only_os = len(self.snap.oses) == 1
        for node in self._within(budget, ready, away.nodes, mine.owner):
            name = node.metadata.name
            instance = self.snap.instances[name]
            seq = self._join(name, mine.owner)
            self.begin.append(kubeos.assign(wish, node, instance, seq, self.seconds, is_only_os=is_only_os))

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

    def _begin_group(self, mine: OwnerPlan, away: Away, cluster: Cap) -> None:
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
            holds = reason("StepHolds", rollout=whole.rollout.metadata.name, step=whole.step + 1)
            if whole.room <= 0:
                mine.hold = holds
                return
            self.reasons.update((s.node, holds) for s in ready[whole.room :])
            ready = ready[: whole.room]
        if wish.has_own_settings and ready:
            ready = self._settled(wish, mine, ready)
        if not ready:
            return
        nodes = self.snap.nodes
        members = [nodes[s.node] for s in mine.standings] if spec.topology else ()
        budget = Budget(away.cap(mine.owner, mine.limit), cluster, spec.topology, members, away.nodes, away.held)
        for node in self._within(budget, ready, away.nodes, mine.owner):
            name = node.metadata.name
            host = self.snap.hosts[name]
            target = target_of(wish, self._image(wish), node, host, self.seconds)
            self.begin.append(native.grant_for(target, wish, host, self._join(name, mine.owner), self.seconds))
            if whole is not None:
                whole.room -= 1

    def _settled(self, wish: GroupWish, mine: OwnerPlan, ready: list[Standing]) -> list[Standing]:
        """Those that may begin although a host could not take the group's own settings: the others would fail too."""
        settings, hosts = wish.settings, self.snap.hosts
        uid = settings.metadata.uid if settings is not None else ""
        grants = {s.node: hosts[s.node].spec.grant for s in mine.standings if s.stand is Stand.FAILED}
        failed = sum(grant is not None and grant.rollout.partition("/")[0] == uid for grant in grants.values())
        if not failed:
            return ready
        why = reason("TooManyFailed", owner=mine.owner, failed=failed, limit=1)
        image, nodes = self._image(wish), self.snap.nodes
        rest = []
        for standing in ready:
            target = target_of(wish, image, nodes[standing.node], hosts[standing.node], self.seconds)
            if target.rollout is settings:
                self.reasons[standing.node] = why
            else:
                rest.append(standing)
        return rest

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
            self.reasons.pop(standing.node, None)
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
        left, found = gone(self.snap, self.now.timestamp(), self.options)
        self.remove |= left
        self.actions += found
