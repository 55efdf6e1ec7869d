"""Nodes that we once took and that no wish covers any more, or only another driver's: see them to their end.

A node leaves its group, its group or its OS object is deleted, two owners begin to claim it, somebody hides it, or it
changes from one driver to the other in the middle of an operation. The operation began under a recorded owner; it is
carried on by that owner's driver, never begun anew, and counts against that owner until it has ended. A node that
says never gets no action at all, but what was begun counts until it is over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from hostplane.api.core import Node
from hostplane.api.host import RELEASE, Host
from hostplane.api.kubeos import CONFIGURING, UPGRADING, OSInstance
from hostplane.api.ledger import Holder
from hostplane.errors import reason

from . import kubeos, native
from .actions import Action, DeleteHost, DeleteInstance, Reclaim
from .cordon import MARK
from .snapshot import NEVER, Options, Snapshot
from .standing import Stand, Standing

__all__ = ["drivers", "gone", "orphans", "strays"]

GROUP, OS = "group/", "os/"
"""How the owners of the two drivers begin."""


def drivers(snap: Snapshot) -> tuple[dict[str, Holder], dict[str, Holder]]:
    """The holders by the driver that took them: (native, KubeOS)."""
    groups = snap.ledger.spec.groups
    ours: dict[str, Holder] = {}
    theirs: dict[str, Holder] = {}
    for name, holder in snap.ledger.spec.holders.items():
        owner = groups[holder.group] if holder.group < len(groups) else GROUP
        (theirs if owner.startswith(OS) else ours)[name] = holder
    return ours, theirs


def strays(
    snap: Snapshot, in_groups: Collection[str], in_oses: Mapping[str, str], now: int, options: Options
) -> Iterator[tuple[str, Standing]]:
    """(driver's prefix or owner, where it stands) of every stray. `in_oses`: node -> its OS object's key."""
    ours, theirs = drivers(snap)
    for name in {*ours, *snap.hosts} - set(in_groups):
        node, host, holder = snap.nodes.get(name), snap.hosts.get(name), ours.get(name)
        if node is not None and (holder is not None or _is_taken(node, host)):
            standing = native.observe(None, None, node, host, holder, native.Seen(), now, options)
            yield GROUP, _bystander(node, standing)
    for name, instance in snap.instances.items():
        owner = instance.spec.namespacedname
        key = f"{owner.namespace}/{owner.name}" if owner is not None else ""
        if key not in snap.oses or in_oses.get(name) == key:
            continue
        node = snap.nodes.get(name)
        if node is not None and _is_busy(node, instance):
            wish, holder = kubeos.Wish(snap.oses[key]), theirs.pop(name, None)
            standing = kubeos.observe(wish, node, instance, holder, now, options)
            yield OS + key, _bystander(node, standing)
    for name, holder in theirs.items():
        node, told = snap.nodes.get(name), snap.instances.get(name)
        if node is not None and name not in in_oses and (told is None or not _is_busy(node, told)):
            yield OS, _bystander(node, _at_rest(name, told, holder, now - options.gone_grace))


def _is_taken(node: Node, host: Host | None) -> bool:
    if MARK in node.metadata.annotations:
        return True
    return host is not None and host.spec.grant is not None and host.spec.grant.stage != RELEASE


def _is_busy(node: Node, instance: OSInstance) -> bool:
    labelled = UPGRADING in node.metadata.labels or CONFIGURING in node.metadata.labels
    return labelled or instance.spec.nodestatus not in ("idle", "")


def _at_rest(name: str, instance: OSInstance | None, holder: Holder, long_ago: int) -> Standing:
    if instance is None:
        return Standing(name, Stand.BLOCKED, reason("NoOSInstance", node=name), leaves=holder.since < long_ago)
    if kubeos.record_of(instance).seq == holder.seq:
        return Standing(name, Stand.DONE, leaves=True)
    return kubeos.untold(instance, holder)


def _bystander(node: Node, standing: Standing) -> Standing:
    """The same, without actions where the node says never."""
    if NEVER not in node.metadata.labels:
        return standing
    return Standing(standing.node, standing.stand, standing.reason, leaves=standing.leaves, joins=standing.joins)


def orphans(snap: Snapshot, in_oses: Collection[str], now: int) -> Iterator[Reclaim]:
    """Nodes whose OS object is gone: KubeOS's proxy no longer acts for them, so they are given back."""
    holders = snap.ledger.spec.holders
    for name, instance in snap.instances.items():
        owner = instance.spec.namespacedname
        if owner is None:
            if instance.spec.nodestatus in ("idle", "") and (name not in holders or name in in_oses):
                continue
        elif (key := f"{owner.namespace}/{owner.name}") in snap.oses or key in snap.unread:
            continue
        node = snap.nodes.get(name)
        if node is not None and NEVER in node.metadata.labels:
            continue
        back = kubeos.orphan(node, instance, now)
        if back is not None:
            yield back


def gone(snap: Snapshot, now: float, options: Options) -> tuple[set[str], list[Action]]:
    """Nodes that were deleted: (who of them leaves the Ledger, which Hosts and OSInstances are to be deleted).

    A place is kept for a while, because whoever deletes a Node that is only unreachable may see it come back.
    """
    left: set[str] = set()
    actions: list[Action] = []
    for name, since in snap.gone.items():
        if name in snap.nodes:
            continue
        if name in snap.ledger.spec.holders and now - since >= options.gone_grace:
            left.add(name)
        if now - since < options.object_grace:
            continue
        instance, host = snap.instances.get(name), snap.hosts.get(name)
        if instance is not None:
            meta = instance.metadata
            actions.append(DeleteInstance(node=name, namespace=meta.namespace, name=meta.name, uid=meta.uid))
        if host is not None:
            actions.append(DeleteHost(node=name, uid=host.metadata.uid))
    return left, actions
