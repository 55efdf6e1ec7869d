"""What holds at every instant, told from the objects alone and without any of the planner's own code.

Away because of us: a Host whose grant is not released, a node with our cordon mark, a host that reboots or is on
trial, a KubeOS node with an operation or its label. All of them are in the Ledger (1, 2), and the Ledger never holds
more of an owner than that owner allows when somebody is let in (1). Together: never too many away because of us.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hostplane.api.core import Node
from hostplane.api.host import CONFIGURE, CONFIRM, RELEASE, RESERVED, SWITCH, Host
from hostplane.planning.actions import Action, NudgeOS
from hostplane.planning.cordon import MARK, mark_of
from hostplane.planning.outcome import Plan
from hostplane.planning.snapshot import Snapshot
from hostplane.planning.standing import Stand

if TYPE_CHECKING:
    from .world import World

__all__ = ["check", "check_begun", "check_grant", "check_plan"]

NEVER = "hostplane.dev/never"
OPERATION_LABELS = {"upgrade.openeuler.org/upgrading", "upgrade.openeuler.org/configuring"}


def why_away(world: World, name: str) -> str:
    """What of ours keeps this node away; empty where nothing does."""
    node, host, instance = world.nodes.get(name), world.hosts.get(name), world.instances.get(name)
    if node is None:
        return ""
    grant = host.spec.grant if host is not None and host.spec.node_uid == node.metadata.uid else None
    if grant is not None and grant.stage != RELEASE:
        return f"grant {grant.stage} {grant.seq}"
    mark = mark_of(node)
    if mark is not None and (host is None or host.spec.grant is None or mark.seq >= host.spec.grant.seq):
        return "cordon mark"  # one of a grant that is released came too late from a sleeper; the next pass lifts it
    if instance is not None and instance.spec.nodestatus not in ("idle", ""):
        return f"nodestatus {instance.spec.nodestatus}"
    return ""  # a label alone, left by an operation that has ended, is counted as it is


def _boot(node: Node) -> str:
    return node.status.node_info.boot_id


def check(world: World) -> None:
    """Who is away because of us is in the Ledger, under the number of the grant."""
    holders = world.ledger.spec.holders
    for name, node in world.nodes.items():
        if name in holders:
            host = world.hosts.get(name)
            if host is not None and host.spec.grant is not None and host.spec.grant.stage != RELEASE:
                assert host.spec.node_uid != node.metadata.uid or host.spec.grant.seq >= holders[name].seq, (
                    f"{name}: an old grant {host.spec.grant} beside {holders[name]}"
                )
            continue
        if NEVER in node.metadata.labels or name in world.exempt:
            continue
        away = why_away(world, name)
        assert not away, f"{name} is away because of us ({away}) and not in the Ledger"


def check_grant(world: World, before: Host, after: Host) -> None:
    """The order of a grant's stages, and that its numbers grow."""
    old, new = before.spec.grant, after.spec.grant
    assert new is not None
    name, uid = after.metadata.name, after.metadata.uid
    highest = world.seqs.get(uid, 0)
    same = old is not None and old.seq == new.seq
    match new.stage:
        case stage if stage == RESERVED or (stage == SWITCH and new.operation == CONFIGURE):
            assert new.seq > highest, f"{name}: grant {new.seq} after {highest}"
            assert new.seq > before.status.seq, f"{name}: grant {new.seq}, host has seen {before.status.seq}"
            assert old is None or old.stage == RELEASE, f"{name}: a new grant over {old}"
        case stage if stage == SWITCH:
            assert same, f"{name}: Switch without Reserved"
            assert old is not None
            assert old.stage == RESERVED, f"{name}: Switch after {old.stage}"
            assert (name, new.seq) in world.drained, f"{name}: Switch before its drain ended"
            is_marked = MARK in world.nodes[name].metadata.annotations
            assert is_marked or world.lagging, f"{name}: Switch without a cordon"
        case stage if stage == CONFIRM:
            assert same, f"{name}: Confirm without Switch"
            assert old is not None
            assert old.stage == SWITCH
            status = before.status
            assert status.phase == "Trial"
            assert status.operation is not None
            assert status.operation.seq == new.seq
            assert status.boot_id == _boot(world.nodes[name]) or world.lagging, f"{name}: Confirm for another boot"
        case stage if stage == RELEASE:
            assert new.seq > highest, f"{name}: Release {new.seq} after {highest}"
    world.seqs[uid] = max(highest, new.seq)


def check_begun(world: World, snapshot: Snapshot, decided: Plan) -> None:
    """The Ledger was just changed: nobody was let in above a limit."""
    begun = {a.node for a in decided.begin if not isinstance(a, NudgeOS)}
    assert begun <= decided.ledger.add.keys()
    spec = world.ledger.spec
    owners = {decided.ledger.add[name][1] for name in begun}
    for owner in owners:
        members = set(decided.membership.members[owner])
        lost = spec.holders.keys() - {n for names in decided.membership.members.values() for n in names}
        held = {n for n in spec.holders if n in members}
        held |= {n for n in lost if spec.groups[spec.holders[n].group] == owner}
        limit = limit_of(snapshot, owner, len(members))
        assert len(held) <= limit, f"{owner}: {sorted(held)} held, {limit} allowed"
        fresh = {n for n in begun if decided.ledger.add[n][1] == owner and not is_down(snapshot.nodes[n])}
        away = held | {n for n in members if is_down(snapshot.nodes[n])}
        assert not fresh or len(away) <= limit, f"{owner}: {sorted(away)} away, {limit} allowed, {sorted(fresh)} begun"
        if owner.startswith("group/"):
            _check_topology(snapshot, owner, members, held, fresh)
    everybody = sum(map(len, decided.membership.members.values()))
    allowed = count(world.options.cluster_max_unavailable, everybody)
    assert not begun or len(spec.holders) <= allowed, f"{sorted(spec.holders)} held in the cluster, {allowed} allowed"


def _check_topology(snapshot: Snapshot, owner: str, members: set[str], held: set[str], fresh: set[str]) -> None:
    for cap in snapshot.groups[owner[6:]].spec.topology:
        domains: dict[str, set[str]] = {}
        for name in members:
            domains.setdefault(snapshot.nodes[name].metadata.labels.get(cap.key, ""), set()).add(name)
        for value, inside in domains.items():
            limit = count(cap.max_unavailable, len(inside))
            away = {n for n in inside if n in held or is_down(snapshot.nodes[n])}
            if fresh & inside:
                assert len(away) <= limit, f"{cap.key}={value}: {sorted(away)} away, {limit} allowed"


def is_down(node: Node) -> bool:
    return not node.ready or node.spec.unschedulable


def limit_of(snapshot: Snapshot, owner: str, members: int) -> int:
    if owner.startswith("group/"):
        return count(snapshot.groups[owner[6:]].spec.max_unavailable, members)
    return min(members, snapshot.oses[owner[3:]].spec.maxunavailable)


def count(value: int | str, total: int) -> int:
    return value if isinstance(value, int) else max(1, total * int(value[:-1]) // 100)


def check_plan(snapshot: Snapshot, decided: Plan) -> None:
    """Everybody who gets nothing knows why; nobody who said never, or is unknown to us, gets anything."""
    acted: Mapping[str, Any] = {a.node: a for a in (*decided.actions, *decided.begin)}
    for owner, mine in decided.owners.items():
        for standing in mine.standings:
            if standing.stand is not Stand.DONE and standing.node not in acted:
                assert standing.node in decided.reasons, f"{standing} of {owner} has no reason"
            host, node = snapshot.hosts.get(standing.node), snapshot.nodes[standing.node]
            if owner.startswith("group/") and host is not None and _is_late(node, host):
                counted = standing.node in snapshot.ledger.spec.holders or standing.node in decided.ledger.add
                assert counted, f"{standing.node} will go back by itself and is not counted"
                assert standing.node not in decided.ledger.remove
    for name, why in decided.reasons.items():
        assert "?" not in why.text, f"{name}: {why}"
        assert "?" not in why.remedy, f"{name}: {why.remedy}"
        assert why.code != "HP-0000", why.name
    for action in (*decided.actions, *decided.begin):
        _check_allowed(snapshot, decided, action)


def _is_late(node: Node, host: Host) -> bool:
    """On trial, or about to reboot, whatever its grant says: it will be away once more."""
    same = host.spec.node_uid == node.metadata.uid and host.status.boot_id == _boot(node)
    return node.ready and same and host.status.phase in ("Rebooting", "Trial")


def _check_allowed(snapshot: Snapshot, decided: Plan, action: Action) -> None:
    node = snapshot.nodes.get(action.node)
    if node is None:
        return
    assert NEVER not in node.metadata.labels, f"{action} on a node that said never"
    owned = {n for names in decided.membership.members.values() for n in names}
    if action.node in owned:
        return
    instance, host = snapshot.instances.get(action.node), snapshot.hosts.get(action.node)
    taken = (
        action.node in snapshot.ledger.spec.holders
        or MARK in node.metadata.annotations
        or (instance is not None and instance.spec.namespacedname is not None)
        or (host is not None and host.spec.grant is not None and host.spec.grant.stage != RELEASE)
    )
    assert taken, f"{action} on a node that nobody manages"
