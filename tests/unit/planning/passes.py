"""The operator's order of effects, one write at a time, so that a test can stop between any two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from hostplane.api.core import Node
from hostplane.api.host import Host, HostSpec, Settings
from hostplane.api.kubeos import KubeOS, NamespacedName, OSInstance
from hostplane.api.ledger import Holder
from hostplane.api.meta import ObjectMeta
from hostplane.errors import reason
from hostplane.planning import actions, progress
from hostplane.planning.cordon import MARK, cordon_patch, restore_patch
from hostplane.planning.kubeos import NUDGE
from hostplane.planning.outcome import Plan
from hostplane.planning.plan import plan
from hostplane.planning.snapshot import DrainView, Snapshot, Word

from . import invariants
from .invariants import OPERATION_LABELS
from .world import Conflict, World

__all__ = ["Operator"]


class Operator:
    """What the operator's passes and effects do; it remembers its drains and words, and forgets them when it dies."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.drains: dict[str, tuple[int, int]] = {}
        self.words: dict[str, Word] = {}
        self.late: dict[str, Snapshot] = {}
        """Kinds that this pass sees as they were in an earlier snapshot."""
        self.patient: dict[tuple[str, str], int] = {}
        """What a pass wished that may come about by itself, and since when it has been wished."""

    def attach(self, world: World) -> Operator:
        """The same operator in a copy of its world."""
        twin = Operator(world)
        twin.drains, twin.words, twin.patient = dict(self.drains), dict(self.words), dict(self.patient)
        return twin

    def views(self) -> dict[str, DrainView]:
        views = {}
        for name, (seq, left) in self.drains.items():
            stuck = name in self.world.stuck_drains
            why = reason("DrainDeadline", node=name, count=1, seconds=1, pods="p", budgets="b", why="w")
            if left > 0:
                views[name] = DrainView(seq=seq, done=False)
            elif stuck:
                views[name] = DrainView(seq=seq, done=True, reason=why)
            else:
                self.world.drained |= {(name, seq)}
                views[name] = DrainView(seq=seq, done=True)
        return views

    def look(self) -> tuple[Snapshot, Plan]:
        """One pass' snapshot and plan."""
        world = self.world
        late = {kind: getattr(earlier, kind) for kind, earlier in self.late.items()}
        snapshot = msgspec.structs.replace(world.snapshot(), drains=self.views(), words=dict(self.words), **late)
        now = datetime.fromtimestamp(world.now, UTC)
        decided = plan(snapshot, now, UTC, world.options)
        if world.checked:
            invariants.check_plan(snapshot, decided)
        self.words = {n: w for n, w in self.words.items() if w.ok}
        self.drains = {n: (seq, left - 1) for n, (seq, left) in self.drains.items()}
        return snapshot, decided

    def writes(self, snapshot: Snapshot, decided: Plan) -> Iterator[Callable[[], None]]:
        """The single writes of a plan, in order. The consumer calls each one (or dies before)."""
        accepted = [True]
        if decided.ledger:

            def change_ledger() -> None:
                accepted[0] = self._change_ledger(snapshot, decided)

            yield change_ledger
        chains: dict[str, list[actions.Action]] = {}
        wished = {(a.node, type(a).__name__): self.world.now for a in decided.actions if a.patience}
        self.patient = {mark: self.patient.get(mark, since) for mark, since in wished.items()}
        for action in (*decided.actions, *(decided.begin if accepted[0] else ())):
            since = self.patient.get((action.node, type(action).__name__), 0)
            if action.patience and self.world.now - since < action.patience:
                continue
            chains.setdefault(action.node, []).append(action)
        for chain in chains.values():
            alive = [True]
            for action in chain:
                for step in self._steps(action):
                    if not alive[0]:
                        break

                    def one(step: Callable[[], None] = step, alive: list[bool] = alive) -> None:
                        try:
                            step()
                        except Conflict:
                            alive[0] = False
                        self.world.check()

                    yield one
        yield from self._statuses(snapshot, decided)

    def do_all(self) -> Plan:
        """One whole pass."""
        snapshot, decided = self.look()
        for write in self.writes(snapshot, decided):
            write()
        return decided

    def _statuses(self, snapshot: Snapshot, decided: Plan) -> Iterator[Callable[[], None]]:
        now = datetime.fromtimestamp(self.world.now, UTC)
        for name, mine in decided.rollouts.items():
            status = progress.rollout_status(mine, (), now)
            again = msgspec.structs.replace(mine, rollout=msgspec.structs.replace(mine.rollout, status=status))
            assert progress.rollout_status(again, (), now) == status, "a status that is written is not equal to itself"
            if status != mine.rollout.status:
                yield partial(self._say, "rollouts", name, status)
        for name, why in decided.wishes.queued.items():
            status = progress.queued_status(snapshot.rollouts[name], why, now)
            if status != snapshot.rollouts[name].status:
                yield partial(self._say, "rollouts", name, status)

    def _say(self, kind: str, name: str, status: Any) -> None:
        if name in getattr(self.world, kind):
            self.world.write(kind, name, None, lambda old: msgspec.structs.replace(old, status=status))

    # --- effects ------------------------------------------------------------------------------------------------------

    def _change_ledger(self, snapshot: Snapshot, decided: Plan) -> bool:
        world, change = self.world, decided.ledger
        if world.ledger.metadata.resource_version != snapshot.ledger.metadata.resource_version:
            return False
        spec = snapshot.ledger.spec
        groups = list(spec.groups) if spec.holders.keys() - change.remove else []
        holders = {n: h for n, h in spec.holders.items() if n not in change.remove}
        for name, (seq, owner) in change.add.items():
            if owner not in groups:
                groups.append(owner)
            holders[name] = Holder(seq=seq, group=groups.index(owner), since=world.now)
        fresh = msgspec.structs.replace(
            spec, holders=holders, groups=groups, next_seq=max(spec.next_seq, change.next_seq)
        )
        world.ledger = world.stamp(msgspec.structs.replace(world.ledger, spec=fresh))
        if world.checked:
            invariants.check_begun(world, snapshot, decided)
        world.check()
        return True

    def _steps(self, action: actions.Action) -> list[Callable[[], None]]:
        name = action.node
        match action:
            case actions.CreateHost():
                body = Host(metadata=ObjectMeta(name=name, generation=1), spec=HostSpec(node_uid=action.node_uid))
                return [lambda: self.world.create("hosts", name, body)]
            case actions.DeleteHost():
                return [lambda: self._delete("hosts", name, action.uid)]
            case actions.DeleteInstance():
                return [lambda: self._delete("instances", name, action.uid)]
            case actions.SetImage():
                return [lambda: self._set_host(name, action.base, image=action.image)]
            case actions.SetGrant():
                return [lambda: self._set_grant(action)]
            case actions.Cordon():
                return [lambda: self._cordon(name, action.seq, action.base)]
            case actions.Uncordon():
                return [lambda: self._uncordon(name, action.base)]
            case actions.StartDrain():
                return [lambda: self._start_drain(name, action.seq)]
            case actions.StopDrain():
                return [lambda: self._stop_drain(name)]
            case actions.AskWord():
                return [lambda: self._ask(name, action.seq)]
            case actions.Assign():
                return [
                    lambda: self._patch_instance(name, action.body),
                    lambda: self.world.label_node(name, {action.label: ""}, action.node_base),
                ]
            case actions.EndOperation():
                return [lambda: self._patch_instance(name, action.body)]
            case actions.Reclaim():
                return [
                    lambda: self._reclaim_node(name, action.uncordon, action.node_base),
                    lambda: self._patch_instance(name, action.body),
                ]
            case actions.LabelNode():
                return [lambda: self.world.label_node(name, action.labels, action.base or None)]
            case actions.NudgeOS():
                return [lambda: self._nudge(name, action.token)]
        raise AssertionError(action)

    def _delete(self, kind: str, name: str, uid: str) -> None:
        store = getattr(self.world, kind)
        if name not in store or store[name].metadata.uid != uid:
            raise Conflict(name)
        del store[name]

    def _nudge(self, key: str, token: str) -> None:
        def change(os: KubeOS) -> KubeOS:
            meta = msgspec.structs.replace(os.metadata, annotations={NUDGE: token})
            return msgspec.structs.replace(os, metadata=meta)

        self.world.write("oses", key, None, change)

    def _set_host(self, name: str, base: str, marks: dict[str, str] | None = None, **spec: Any) -> None:
        def change(host: Host) -> Host:
            notes = {**host.metadata.annotations, **(marks or {})}
            return msgspec.structs.replace(
                host,
                metadata=msgspec.structs.replace(host.metadata, annotations=notes),
                spec=msgspec.structs.replace(host.spec, **spec),
            )

        self.world.write("hosts", name, base, change)

    def _set_grant(self, action: actions.SetGrant) -> None:
        before = self.world.hosts.get(action.node)
        fields: dict[str, Any] = {"grant": action.grant}
        if action.settings is not None:
            fields["settings"] = action.settings
        if action.drop_image:
            fields["image"] = None
        self._set_host(action.node, action.base, action.marks, **fields)
        assert before is not None
        invariants.check_grant(self.world, before, self.world.hosts[action.node])

    def _cordon(self, name: str, seq: int, base: str) -> None:
        self._patch_node(name, base, lambda node: cordon_patch(node, seq))

    def _uncordon(self, name: str, base: str) -> None:
        self._patch_node(name, base, restore_patch)

    def _patch_node(self, name: str, base: str, decide: Callable[[Node], dict[str, Any] | None]) -> None:
        def change(node: Node) -> Node:
            patch = decide(node)
            if patch is None:
                return node
            marks = {**node.metadata.annotations, MARK: patch["metadata"]["annotations"][MARK]}
            kept = {k: v for k, v in marks.items() if v is not None}
            cordoned = patch.get("spec", {}).get("unschedulable", node.spec.unschedulable)
            return msgspec.structs.replace(
                node,
                metadata=msgspec.structs.replace(node.metadata, annotations=kept),
                spec=msgspec.structs.replace(node.spec, unschedulable=cordoned),
            )

        self.world.write("nodes", name, base, change)

    def _start_drain(self, name: str, seq: int) -> None:
        note = {"hostplane.dev/ready-before": str(seq)}
        self.world.write(
            "hosts",
            name,
            None,
            lambda h: msgspec.structs.replace(h, metadata=msgspec.structs.replace(h.metadata, annotations=note)),
        )
        self.drains.setdefault(name, (seq, 1))
        if self.drains[name][0] != seq:
            self.drains[name] = (seq, 1)

    def _stop_drain(self, name: str) -> None:
        self.drains.pop(name, None)
        self.words.pop(name, None)

    def _ask(self, name: str, seq: int) -> None:
        machine = self.world.machines.get(name)
        there = getattr(machine, "pods", True) and name not in self.world.words_withheld
        why = None if there else reason("AwaitingPods", node=name, pods="kube-system/proxy")
        self.words[name] = Word(seq=seq, ok=there, reason=why)

    def _patch_instance(self, name: str, body: dict[str, Any]) -> None:
        spec = dict(body["spec"])
        meta = body["metadata"]

        def change(old: OSInstance) -> OSInstance:
            fields: dict[str, Any] = {}
            for key, value in spec.items():
                if key == "namespacedname":
                    fields[key] = None if value is None else msgspec.convert(value, NamespacedName)
                elif key in ("sysconfigs", "upgradeconfigs"):
                    plain = {k: v for k, v in value.items() if v is not None}  # null in a merge patch: not there
                    fields[key] = msgspec.convert(plain, Settings)
                else:
                    fields[key] = value
            notes = {**old.metadata.annotations, **meta["annotations"]}
            return msgspec.structs.replace(
                old,
                spec=msgspec.structs.replace(old.spec, **fields),
                metadata=msgspec.structs.replace(old.metadata, annotations=notes),
            )

        self.world.write("instances", name, meta["resourceVersion"], change)

    def _reclaim_node(self, name: str, uncordon: bool, base: str) -> None:
        def change(node: Node) -> Node:
            labels = {k: v for k, v in node.metadata.labels.items() if k not in OPERATION_LABELS}
            stays = node.spec.unschedulable and not uncordon
            return msgspec.structs.replace(
                node,
                metadata=msgspec.structs.replace(node.metadata, labels=labels),
                spec=msgspec.structs.replace(node.spec, unschedulable=stays),
            )

        if base:
            self.world.write("nodes", name, base, change)
