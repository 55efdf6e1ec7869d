"""What a KubeOS node needs next, from its Node, its OSInstance and the OS object that owns it.

The protocol is KubeOS's own (its proxies stay on the nodes): we write the OSInstance, then the label; the proxy works,
removes the label, uncordons and writes idle. What KubeOS forgets we keep in one annotation on the OSInstance, written
with the assignment: which OS and generation, which boot it started from, which grant, and whether the node was
schedulable. From it follow the states KubeOS does not have: failed, not tried again until the OS changes, given back.

    idle, no label, other version           READY     -> Assign (OSInstance, label)
    in the Ledger, never told               WORKING   -> its number on the OSInstance, then out of the Ledger
    assigned, label missing                 WORKING   -> the label again (we died between the two writes)
    assigned, labelled                      WORKING   until the proxy has un-labelled
    rebooted, Ready, still other version    FAILED    -> EndOperation (idle; the proxy un-labels)
    deadline passed                         FAILED    likewise; a node that is down is tried again instead
    idle, labelled, for too long            WORKING   -> Reclaim (we un-label ourselves)

A node leaves the Ledger only when its OSInstance carries the holder's number: whoever still means to assign it from
an older view is refused then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from hostplane.api.core import Node
from hostplane.api.host import Settings
from hostplane.api.kubeos import CONFIGURING, UPGRADING, KubeOS, OSInstance
from hostplane.api.ledger import Holder
from hostplane.errors import Reason, reason

from .actions import Action, Assign, EndOperation, LabelNode, NudgeOS, Reclaim
from .membership import os_key
from .snapshot import Options
from .standing import Stand, Standing
from .verdict import past

__all__ = [
    "NUDGE",
    "OPERATION",
    "Record",
    "Wish",
    "assign",
    "nudge",
    "observe",
    "orphan",
    "record_of",
    "refused",
    "untold",
]

OPERATION = "hostplane.dev/operation"
NUDGE = "hostplane.dev/nudge"
"""On an OS object, SEQ/SECONDS: the highest grant its change has made known, and when it was made."""
_SWAP = {"grub.cmdline.current": "grub.cmdline.next", "grub.cmdline.next": "grub.cmdline.current"}
_TRIED_AGAIN = ("NodeDown", "UpgradeFirst")
"""What is not the fault of the operation: once it has passed, the node is tried again by itself."""
_NUDGE_SECONDS = 5
_LABEL_GRACE = 60
_EVENT_GRACE = 5


class Record(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The annotation: what we asked of this node last."""

    os: str = ""
    """Uid of the OS object."""
    generation: int = 0
    seq: int = 0
    """The grant in the Ledger."""
    boot: str = ""
    """Boot id at the assignment; empty for a node that was down, whose next boot says nothing about the operation."""
    at: int = 0
    """When, seconds since 1970."""
    schedulable: bool = False
    """The node was schedulable at the assignment."""
    switched: bool = False
    """Another OS object may have had the node before, so that its proxy has stopped to look at this one."""
    ended: int = 0
    """When we ended it, seconds since 1970; 0 while we have not."""
    why: str = ""
    """Catalogue name of why we ended it."""


_decoder = msgspec.json.Decoder(Record)


def record_of(instance: OSInstance) -> Record:
    """The record on an OSInstance; an empty one where there is none, or where somebody spoilt it."""
    text = instance.metadata.annotations.get(OPERATION)
    if not text:
        return Record()
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError:
        return Record()


class Wish:
    """An OS object, with what is the same for all its nodes worked out once."""

    __slots__ = ("configures", "key", "label", "name", "namespace", "os", "settings_version", "uid", "version")

    def __init__(self, os: KubeOS) -> None:
        self.os = os
        self.key = os_key(os)
        self.name, self.namespace, self.uid = os.metadata.name, os.metadata.namespace, os.metadata.uid
        self.configures = os.spec.opstype == "config"
        self.label = CONFIGURING if self.configures else UPGRADING
        self.version = os.spec.osversion
        self.settings_version = _version(os.spec.sysconfigs)

    def needs_work(self, node: Node, instance: OSInstance) -> bool:
        """KubeOS's rule: versions are compared for equality, settings by their version string."""
        if self.configures:
            return self.settings_version != _version(instance.spec.sysconfigs)
        return node.status.node_info.os_image != self.version

    def tried(self, record: Record) -> bool:
        """True where the record is of this OS object as it is now."""
        return record.os == self.uid and record.generation == self.os.metadata.generation


def _version(settings: Settings | None) -> str:
    return settings.version if settings else ""


def observe(
    wish: Wish, node: Node, instance: OSInstance | None, holder: Holder | None, now: int, options: Options
) -> Standing:
    """Where this node stands towards `wish`. `now` in seconds since 1970."""
    name = node.metadata.name
    labels = node.metadata.labels
    labelled = UPGRADING in labels or CONFIGURING in labels
    if instance is None:
        # One in the Ledger had an OSInstance when it was let in; that it is missing may be what a late copy shows.
        leaves = holder is not None and not labelled and now - holder.since > options.gone_grace
        return Standing(name, Stand.BLOCKED, reason("NoOSInstance", node=name), leaves=leaves)
    busy = instance.spec.nodestatus not in ("idle", "")
    if not busy and not labelled:
        return _at_rest(wish, node, instance, holder, now, options)
    record = record_of(instance)
    joins = None if holder else record.seq
    owner = instance.spec.namespacedname
    if busy and owner is not None and (owner.namespace, owner.name) != (wish.namespace, wish.name):
        why = reason("OwnedByOther", node=name, other=f"{owner.namespace}/{owner.name}")
        return Standing(name, Stand.WAITING, why, joins=joins)
    if not busy:
        return _ending(wish, node, instance, record, holder, now, options)
    return _working(wish, node, instance, record, holder, now, options)


def _at_rest(
    wish: Wish, node: Node, instance: OSInstance, holder: Holder | None, now: int, options: Options
) -> Standing:
    name, have = node.metadata.name, node.status.node_info.os_image
    applied = _version(instance.spec.sysconfigs) == _version(instance.status.sysconfigs)
    if holder is None and applied and not wish.configures and have == wish.version:
        return Standing(name, Stand.DONE)  # the common case by far, before anything is parsed
    record = record_of(instance)
    if holder is not None and record.seq != holder.seq:
        return untold(instance, holder)
    leaves = holder is not None
    tried = wish.tried(record)
    if wish.configures and have != wish.version and (wish.needs_work(node, instance) or (tried and not applied)):
        why = reason("UpgradeFirst", node=name, have=have, want=wish.version)
        return Standing(name, Stand.BLOCKED, why, leaves=leaves)
    if not wish.needs_work(node, instance):
        ours = record.os == wish.uid and bool(wish.configures or (tried and record.why))
        if applied or not ours:
            return Standing(name, Stand.DONE, leaves=leaves)
        if wish.configures and (not tried or record.why in _TRIED_AGAIN):
            return Standing(name, Stand.READY, leaves=leaves)
        why = _why(record.why or "SettingsNotApplied", node, wish, options)
        return Standing(name, Stand.FAILED, why, leaves=leaves)
    # An assignment that led to no boot was not tried: a proxy still ending the one before wrote idle over it.
    booted = record.boot != node.status.node_info.boot_id
    if tried and record.why not in _TRIED_AGAIN and (record.why or booted):
        why = _why(record.why or "WrongVersion", node, wish, options)
        return Standing(name, Stand.FAILED, why, leaves=leaves)
    if node.spec.unschedulable and record.schedulable and now - record.ended <= options.ending_grace:
        # KubeOS's proxy un-labels, then uncordons: taken in between, its cordon would pass for an administrator's.
        return Standing(name, Stand.WAITING, reason("EndingOperation", node=name), leaves=leaves)
    return Standing(name, Stand.READY, leaves=leaves)


def untold(instance: OSInstance, holder: Holder) -> Standing:
    """In the Ledger and never told, because the write that should have followed was lost: give the leave back first.

    Nothing but the number is written, so that what is known of the last operation stays known.
    """
    name = instance.metadata.name
    why = reason("LeaveUntold", node=name)
    record = msgspec.structs.replace(record_of(instance), seq=holder.seq)
    body = _body(instance, {"nodestatus": "idle"}, record)
    action = EndOperation(node=name, namespace=instance.metadata.namespace, body=body, reason=why)
    return Standing(name, Stand.WORKING, why, (action,))


def _why(name: str, node: Node, wish: Wish, options: Options) -> Reason:
    """The reason that a record names, with what its text needs."""
    return past(
        name,
        node.metadata.name,
        have=node.status.node_info.os_image,
        want=wish.version,
        seconds=options.config_deadline if wish.configures else options.kubeos_deadline,
    )


def _ending(
    wish: Wish, node: Node, instance: OSInstance, record: Record, holder: Holder | None, now: int, options: Options
) -> Standing:
    """Idle but labelled: KubeOS's proxy is about to un-label. If it never does, we do it ourselves."""
    name = node.metadata.name
    since = record.ended or record.at
    is_older = holder is not None and holder.seq != record.seq  # of an earlier operation, or a late copy
    if is_older and holder is not None:
        since = max(since, holder.since)
    why = _why(record.why or "EndingOperation", node, wish, options)
    if not node.ready:
        if is_older and holder is not None:
            return untold(instance, holder)
        return Standing(name, Stand.FAILED, why, leaves=holder is not None)  # it counts as down from here on
    actions: tuple[Action, ...] = ()
    if instance.spec.namespacedname is None and not is_older:
        # The proxy does nothing for a node without an owner: this label came late.
        actions = (_reclaim(node, instance, record, now, reason("EndingOperation", node=name)),)
    elif since and now - since > options.ending_grace:
        actions = (_reclaim(node, instance, record, now, reason("ProxySilent", node=name)),)
    return Standing(name, Stand.WORKING, why, actions=actions, joins=None if holder else record.seq)


def _working(
    wish: Wish, node: Node, instance: OSInstance, record: Record, holder: Holder | None, now: int, options: Options
) -> Standing:
    name = node.metadata.name
    have = node.status.node_info.os_image
    joins = None if holder else record.seq
    doing = reason("Operating", node=name)
    at_version = have == wish.version
    # What was begun counts, not what is wished now: opstype may have changed since.
    configures = instance.spec.nodestatus == "config"
    if configures and not at_version:
        # KubeOS's proxy says "upgrade first" for ever, or looks at nothing but the other label: it never ends this.
        why = reason("UpgradeFirst", node=name, have=have, want=wish.version)
        return Standing(name, Stand.WORKING, why, (_reclaim(node, instance, record, now, why),), joins=joins)
    if wish.configures and not at_version:
        doing = reason("UpgradeFirst", node=name, have=have, want=wish.version)
    ours = record.os == wish.uid
    rebooted = bool(record.boot) and record.boot != node.status.node_info.boot_id
    if ours and rebooted and node.ready and not at_version:
        why = reason("WrongVersion", node=name, have=have, want=wish.version)
        return Standing(name, Stand.WORKING, why, (_end(node, instance, record, now, why),), joins=joins)
    begun = record.at if ours and record.at else (holder.since if holder else now)
    deadline = options.config_deadline if configures else options.kubeos_deadline
    if now - begun > deadline:
        why = _why("OperationDeadline" if node.ready else "NodeDown", node, wish, options)
        return Standing(name, Stand.WORKING, why, (_end(node, instance, record, now, why),), joins=joins)
    labels = node.metadata.labels
    label = CONFIGURING if configures else UPGRADING
    if UPGRADING not in labels and CONFIGURING not in labels:
        applied = _version(instance.spec.sysconfigs) == _version(instance.status.sysconfigs)
        finished = applied if configures else at_version
        if not finished:
            # We died between the two writes, or the label's event is late: only the former lasts.
            again: tuple[Action, ...] = (LabelNode(node=name, labels={label: ""}, base=node.metadata.resource_version),)
            return Standing(name, Stand.WORKING, doing, again if now - begun >= _EVENT_GRACE else (), joins=joins)
        why = reason("EndingOperation", node=name)
        if not record.ended:  # done; the proxy is about to uncordon and to write idle, or has died before
            note = _end(node, instance, record, now, why, nodestatus=instance.spec.nodestatus, patience=_EVENT_GRACE)
            return Standing(name, Stand.WORKING, why, (note,), joins=joins)
        late: tuple[Action, ...] = (_reclaim(node, instance, record, now, why),)
        return Standing(name, Stand.WORKING, why, late if now - record.ended > _LABEL_GRACE else (), joins=joins)
    told = record.seq if record.switched and label in labels else 0
    return Standing(name, Stand.WORKING, doing, joins=joins, nudge=told)


def refused(assignment: Assign) -> dict[str, Any]:
    """What to write in place of an assignment that the server refuses for its content: that the node has failed."""
    metadata = assignment.body["metadata"]
    record = _decoder.decode(metadata["annotations"][OPERATION])
    failed = msgspec.structs.replace(record, ended=record.at, why="WriteRefused")
    return {"metadata": {**metadata, "annotations": {OPERATION: msgspec.json.encode(failed).decode()}}}


def nudge(os: KubeOS, standings: Iterable[Standing], now: int) -> list[NudgeOS]:
    """Change an OS object where a proxy may have stopped to look at it; every proxy looks then, so not too often."""
    wanted = max((s.nudge for s in standings), default=0)
    seq, at = _nudged(os)
    if wanted <= seq or now - at < _NUDGE_SECONDS:
        return []
    return [NudgeOS(node=os_key(os), token=f"{wanted}/{now}")]


def _nudged(os: KubeOS) -> tuple[int, int]:
    seq, _, at = os.metadata.annotations.get(NUDGE, "").partition("/")
    return (int(seq), int(at)) if seq.isdecimal() and at.isdecimal() else (0, 0)


def assign(wish: Wish, node: Node, instance: OSInstance, seq: int, now: int, *, is_only_os: bool = True) -> Assign:
    """The operation for one node, as KubeOS writes it, and our record with it.

    `is_only_os`: no other OS object can have had the node before we came.
    """
    spec: dict[str, Any] = {
        "nodestatus": "config" if wish.configures else "upgrade",
        "namespacedname": {"name": wish.name, "namespace": wish.namespace},
    }
    os = wish.os.spec
    if wish.configures:
        spec["sysconfigs"] = _settings(os.sysconfigs)
    else:
        if _version(instance.spec.upgradeconfigs) != _version(os.upgradeconfigs):
            spec["upgradeconfigs"] = _settings(os.upgradeconfigs)
        if _version(instance.spec.sysconfigs) != wish.settings_version:
            spec["sysconfigs"] = _settings(os.sysconfigs, swap=True)
    before = record_of(instance)
    unknown = not is_only_os and _nudged(wish.os) == (0, 0)
    record = Record(
        os=wish.uid,
        generation=wish.os.metadata.generation,
        seq=seq,
        boot=node.status.node_info.boot_id if node.ready else "",
        at=now,
        schedulable=not node.spec.unschedulable,
        switched=before.os != wish.uid and bool(before.os or before.ended or unknown),
    )
    return Assign(
        node=node.metadata.name,
        namespace=instance.metadata.namespace,
        body=_body(instance, spec, record),
        label=wish.label,
        node_base=node.metadata.resource_version,
    )


def _settings(settings: Settings | None, swap: bool = False) -> dict[str, Any]:
    """As stored: an unset one is {version: ""}; after the reboot `current` and `next` have traded places."""
    if settings is None:
        return {"version": "", "configs": None}
    configs = msgspec.to_builtins(settings.configs)
    if swap:
        for config in configs:
            config["model"] = _SWAP.get(config.get("model", ""), config.get("model", ""))
    return {"version": settings.version, "configs": configs}


def orphan(node: Node | None, instance: OSInstance, now: int) -> Reclaim | None:
    """Give back a node whose OS object is gone: its proxy no longer acts. None where there is nothing to give back."""
    name = instance.metadata.name
    labelled = node is not None and (UPGRADING in node.metadata.labels or CONFIGURING in node.metadata.labels)
    if instance.spec.nodestatus in ("idle", "") and not labelled:
        return None
    return _reclaim(node, instance, record_of(instance), now, reason("OwnerDeleted", node=name))


def _reclaim(node: Node | None, instance: OSInstance, record: Record, now: int, why: Reason) -> Reclaim:
    ended = msgspec.structs.replace(record, ended=now, why=record.why or _verdict(why))
    spec = {"nodestatus": "idle", "namespacedname": None}
    return Reclaim(
        node=instance.metadata.name,
        namespace=instance.metadata.namespace,
        body=_body(instance, spec, ended),
        uncordon=record.schedulable and node is not None and node.spec.unschedulable,
        reason=why,
        node_base=node.metadata.resource_version if node is not None else "",
    )


def _end(
    node: Node,
    instance: OSInstance,
    record: Record,
    now: int,
    why: Reason,
    nodestatus: str = "idle",
    patience: float = 0,
) -> EndOperation:
    ended = msgspec.structs.replace(record, ended=now, why=_verdict(why))
    return EndOperation(
        node=node.metadata.name,
        namespace=instance.metadata.namespace,
        body=_body(instance, {"nodestatus": nodestatus}, ended),
        reason=why,
        patience=patience,
    )


def _verdict(why: Reason) -> str:
    """What is remembered of an end; that the operation succeeded needs no words."""
    return "" if why.name == "EndingOperation" else why.name


def _body(instance: OSInstance, spec: dict[str, Any], record: Record) -> dict[str, Any]:
    return {
        "metadata": {
            "resourceVersion": instance.metadata.resource_version,
            "annotations": {OPERATION: msgspec.json.encode(record).decode()},
        },
        "spec": spec,
    }
