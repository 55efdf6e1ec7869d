"""What a Host needs next: staging while it waits, and the stages of its grant while it is in the Ledger.

    waiting   SetImage (when there is room) -> the host stages -> READY
    Reserved  cordon, note the ready DaemonSet pods, drain          -> Switch; or Release when the drain cannot end
    Switch    the host reboots into its trial                       -> Confirm, on the cluster's word; or Release
    Confirm   the host commits                                      -> Release
    Release   uncordon, then it leaves the Ledger

Each step follows from what is written, so it can be asked for again by any leader at any time. A host leaves the
Ledger only when a Release with a higher number is on its Host: whoever still means to grant it something from an older
view is refused then. The cluster's word is a new boot id that kubelet and agent agree on, a Ready node, and the
DaemonSet pods of before: no clocks are compared. A Release that was not a success keeps its verdict on the Host:
HostFault is not tried again by itself, NoVerdict is, after a pause.
"""

from __future__ import annotations

import msgspec

from hostplane.api.core import Node
from hostplane.api.host import (
    CONFIGURE,
    CONFIRM,
    RELEASE,
    RESERVED,
    ROLLBACK,
    SWITCH,
    UPGRADE,
    Grant,
    Host,
    HostSettings,
    Phase,
)
from hostplane.api.ledger import Holder
from hostplane.api.osimage import OSImage
from hostplane.errors import Reason, reason

from .actions import AskWord, Cordon, CreateHost, DeleteHost, SetGrant, StartDrain, StopDrain, Uncordon
from .cordon import MARK, mark_of
from .snapshot import DrainView, Options, Word
from .standing import Stand, Standing
from .target import ROLLED_BACK, Target, target_of
from .verdict import past
from .wishes import GroupWish, tag

__all__ = ["AGENT", "grant_for", "observe", "refused"]

AGENT = "hostplane.dev/agent"
HOST_FAULT, NO_VERDICT = "HostFault", "NoVerdict"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator itself knows of one node, beside the objects."""

    drain: DrainView | None = None
    word: Word | None = None


def observe(
    wish: GroupWish | None,
    image: OSImage | None,
    node: Node,
    host: Host | None,
    holder: Holder | None,
    seen: Seen,
    now: int,
    options: Options,
) -> Standing:
    """Where this host stands. `wish` is None for a node that left its group while in the Ledger; `now` in seconds."""
    name = node.metadata.name
    if host is None or (host.spec.node_uid and host.spec.node_uid != node.metadata.uid):
        return _without_host(name, node, host, holder)
    if holder is not None:
        return _held(wish, image, node, host, holder, seen, now, options)
    grant = host.spec.grant
    if grant is not None and grant.stage != RELEASE:
        # The Ledger lost it (a restored etcd); it is away, so it counts.
        return Standing(name, Stand.WORKING, reason("GrantRecovered", node=name, seq=grant.seq), joins=grant.seq)
    if _is_on_trial(node, host):
        return Standing(name, Stand.WORKING, reason("LateTrial", node=name), joins=grant.seq if grant else 0)
    if MARK in node.metadata.annotations:
        return Standing(name, Stand.WAITING, reason("CordonLeft", node=name), (_uncordon(node),))
    return target_of(wish, image, node, host, now).standing if wish else Standing(name, Stand.DONE)


def _is_on_trial(node: Node, host: Host) -> bool:
    """Whether this very boot is one that will end by itself, in a return, unless somebody confirms it."""
    status = host.status
    is_this_boot = node.ready and status.boot_id == node.status.node_info.boot_id
    return status.phase in (Phase.TRIAL, Phase.REBOOTING) and is_this_boot


def _without_host(name: str, node: Node, host: Host | None, holder: Holder | None) -> Standing:
    if MARK in node.metadata.annotations:
        return Standing(name, Stand.WAITING, reason("CordonLeft", node=name), (_uncordon(node),))
    if host is not None:
        why = reason("NodeReplaced", node=name)
        # It keeps its place until the old Host, and the grant on it, is gone for everybody to see.
        return Standing(name, Stand.WAITING, why, (DeleteHost(node=name, uid=host.metadata.uid),))
    if node.metadata.labels.get(AGENT) != "native":
        return Standing(name, Stand.BLOCKED, reason("NoAgent", node=name), leaves=holder is not None)
    # One in the Ledger stays there: its Host was deleted under it, and the host may be about to reboot.
    create = CreateHost(node=name, node_uid=node.metadata.uid)
    return Standing(name, Stand.WAITING, reason("NotReported", node=name), (create,))


def grant_for(target: Target, wish: GroupWish, host: Host, seq: int, now: int) -> SetGrant:
    """The first stage of a grant for a host that was just put into the Ledger. Settings need no reboot and no drain."""
    rollout = target.rollout
    stage = SWITCH if target.operation == CONFIGURE else RESERVED
    settings: HostSettings | None = rollout.spec.settings if target.operation == CONFIGURE else None
    return SetGrant(
        node=host.metadata.name,
        base=host.metadata.resource_version,
        settings=settings,
        drop_image=target.operation == ROLLBACK,
        grant=Grant(
            seq=seq,
            operation=target.operation,
            digest=target.digest,
            stage=stage,
            trial_seconds=rollout.spec.trial_seconds,
            rollout=tag(rollout),
            at=now,
        ),
    )


def refused(grant: Grant) -> Grant:
    """What to write in place of a grant that the server refuses for its content (its settings): that it has failed."""
    return msgspec.structs.replace(grant, seq=grant.seq + 1, stage=RELEASE, verdict=HOST_FAULT, why="WriteRefused")


def _held(
    wish: GroupWish | None,
    image: OSImage | None,
    node: Node,
    host: Host,
    holder: Holder,
    seen: Seen,
    now: int,
    options: Options,
) -> Standing:
    grant = host.spec.grant
    if grant is None or grant.seq < holder.seq:
        return _untold(host, holder, now)
    match grant.stage:
        case "Release":
            return _released(wish, image, node, host, grant, now, options)
        case "Reserved":
            return _reserved(wish, image, node, host, grant, seen, now)
        case "Switch" | "Confirm":
            return _switched(node, host, grant, seen, now, options)
        case _:
            return _release(node, host, grant, now, "UnknownStage", NO_VERDICT)


def _untold(host: Host, holder: Holder, now: int) -> Standing:
    """In the Ledger and never told, because the write that should have followed was lost: give the leave back first."""
    name, grant = host.metadata.name, host.spec.grant
    if grant is None or grant.stage != RELEASE:
        grant = Grant(seq=1, operation=UPGRADE, stage=RELEASE, at=now, why="LeaveUntold", verdict=NO_VERDICT)
    released = msgspec.structs.replace(grant, seq=holder.seq + 1)
    action = SetGrant(node=name, base=host.metadata.resource_version, grant=released)
    return Standing(name, Stand.WORKING, reason("LeaveUntold", node=name), (action,))


def _released(
    wish: GroupWish | None, image: OSImage | None, node: Node, host: Host, grant: Grant, now: int, options: Options
) -> Standing:
    name = node.metadata.name
    if _is_on_trial(node, host):
        return Standing(name, Stand.WORKING, reason("LateTrial", node=name))
    if not host.status.phase and now - grant.at < options.return_grace:
        return Standing(name, Stand.WORKING, reason("NotReported", node=name))  # a Host made anew under its host
    if MARK in node.metadata.annotations:
        return Standing(name, Stand.WORKING, actions=(StopDrain(node=name), _uncordon(node)))
    # Where it stands now, not how that grant ended: the wish may be another one already.
    next_ = target_of(wish, image, node, host, now).standing if wish else Standing(name, Stand.DONE)
    return msgspec.structs.replace(next_, leaves=True)


def _is_cordoned(node: Node, seq: int) -> bool:
    """Whether the node is cordoned, and by us for this very grant."""
    mark = mark_of(node)
    return mark is not None and mark.seq == seq and node.spec.unschedulable


def _cordon(node: Node, grant: Grant) -> Cordon:
    return Cordon(node=node.metadata.name, seq=grant.seq, base=node.metadata.resource_version)


def _uncordon(node: Node) -> Uncordon:
    return Uncordon(node=node.metadata.name, base=node.metadata.resource_version)


def _reserved(
    wish: GroupWish | None, image: OSImage | None, node: Node, host: Host, grant: Grant, seen: Seen, now: int
) -> Standing:
    name = node.metadata.name
    status = host.status
    rollout = wish.image if wish else None
    if wish is None or rollout is None or rollout.metadata.uid != grant.rollout.partition("/")[0]:
        return _release(node, host, grant, now, "WishChanged", NO_VERDICT)
    variant = image.variant(node.status.node_info.architecture) if image else None
    if grant.operation == UPGRADE and (variant is None or variant.digest != grant.digest):
        return _release(node, host, grant, now, "WishChanged", NO_VERDICT)
    if name in rollout.spec.skip:
        detail = reason("Skipped", node=name, rollout=rollout.metadata.name)
        return _release(node, host, grant, now, detail.name, NO_VERDICT, detail)
    if rollout.spec.paused:
        detail = reason("RolloutPaused", rollout=rollout.metadata.name)
        return _release(node, host, grant, now, detail.name, NO_VERDICT, detail)
    if grant.operation == UPGRADE and (status.phase != Phase.STAGED or status.passive.digest != grant.digest):
        return _release(node, host, grant, now, "StagedImageLost", NO_VERDICT)
    if not _is_cordoned(node, grant.seq):
        # Also where somebody uncordoned it meanwhile: new pods may have come, so the drain begins anew.
        again = (StopDrain(node=name), _cordon(node, grant))
        return Standing(name, Stand.WORKING, reason("Cordoning", node=name), again)
    policy = wish.group.spec.drain
    drain = seen.drain if seen.drain is not None and seen.drain.seq == grant.seq else None
    if policy.skip:
        return Standing(name, Stand.WORKING, actions=(_stage(host, grant, SWITCH, now),))
    if drain is None:
        start = StartDrain(node=name, seq=grant.seq, policy=policy, spent_seconds=max(0, now - grant.at))
        return Standing(name, Stand.WORKING, reason("Draining", node=name), (start,))
    if not drain.done:
        return Standing(name, Stand.WORKING, drain.reason or reason("Draining", node=name))
    if drain.reason is not None:
        return _release(node, host, grant, now, drain.reason.name, NO_VERDICT, drain.reason)
    return Standing(name, Stand.WORKING, actions=(_stage(host, grant, SWITCH, now),))


def _switched(node: Node, host: Host, grant: Grant, seen: Seen, now: int, options: Options) -> Standing:
    name = node.metadata.name
    status = host.status
    deadline = grant.trial_seconds + options.return_grace
    again = () if grant.operation == CONFIGURE or _is_cordoned(node, grant.seq) else (_cordon(node, grant),)
    heard = status.seq >= grant.seq  # the agent has taken this grant
    mine = status.operation is not None and status.operation.seq == grant.seq
    # What became of it counts, not the phase: a host that has ended may be staging the next image already.
    outcome = status.operation.outcome if status.operation is not None and mine else ""
    error = status.last_error
    if grant.operation == CONFIGURE:
        return _configured(node, host, grant, heard, now, deadline)
    if heard and (outcome == "Committed" or (status.phase == Phase.IDLE and status.active.digest == grant.digest)):
        return _release(node, host, grant, now)
    if heard and (outcome == "Returned" or status.phase in (Phase.RETURNED, Phase.FAILED)):
        verdict = NO_VERDICT if error is not None and error.reason_class == NO_VERDICT else HOST_FAULT
        name_of_why = error.name if error and error.name else "HostReturned"
        detail = past(name_of_why, name, error.message if error else "")
        return _release(node, host, grant, now, name_of_why, verdict, detail)
    if heard and outcome == "Interrupted" and error is not None and error.reason_class:
        return _release(node, host, grant, now, error.name, NO_VERDICT, past(error.name, name, error.message))
    if now - grant.at > deadline:
        return _release(node, host, grant, now, "HostLost", HOST_FAULT)
    if grant.stage == CONFIRM:
        return Standing(name, Stand.WORKING, reason("Committing", node=name), again)
    if not (mine and status.phase == Phase.TRIAL):
        return Standing(name, Stand.WORKING, reason("Rebooting", node=name), again)
    if not node.ready or node.status.node_info.boot_id != status.boot_id:
        return Standing(name, Stand.WORKING, reason("NotReadySinceBoot", node=name), again)
    word = seen.word if seen.word is not None and seen.word.seq == grant.seq else None
    if word is None:
        return Standing(
            name, Stand.WORKING, reason("AwaitingPods", node=name, pods=""), (*again, AskWord(node=name, seq=grant.seq))
        )
    if not word.ok:
        ask = AskWord(node=name, seq=grant.seq)
        return Standing(name, Stand.WORKING, word.reason or reason("AwaitingPods", node=name, pods=""), (*again, ask))
    return Standing(name, Stand.WORKING, actions=(_stage(host, grant, CONFIRM, now),))


def _configured(node: Node, host: Host, grant: Grant, heard: bool, now: int, deadline: int) -> Standing:
    wanted = host.spec.settings.version if host.spec.settings else ""
    settings, name = host.status.settings, node.metadata.name
    if heard and settings is not None and settings.error:
        return _release(node, host, grant, now, "SettingsNotApplied", HOST_FAULT)
    if heard and settings is not None and settings.version == wanted:
        return _release(node, host, grant, now)
    if now - grant.at > deadline:
        detail = reason("OperationDeadline", node=name, seconds=deadline)
        return _release(node, host, grant, now, detail.name, HOST_FAULT, detail)
    return Standing(name, Stand.WORKING, reason("Configuring", node=name))


def _stage(host: Host, grant: Grant, stage: str, now: int) -> SetGrant:
    return SetGrant(
        node=host.metadata.name,
        base=host.metadata.resource_version,
        grant=msgspec.structs.replace(grant, stage=stage, at=now),
    )


def _release(
    node: Node, host: Host, grant: Grant, now: int, why: str = "", verdict: str = "", detail: Reason | None = None
) -> Standing:
    """The reverse of a grant: one number higher, so that nothing of the old one can still be obeyed."""
    released = msgspec.structs.replace(grant, seq=grant.seq + 1, stage=RELEASE, at=now, why=why, verdict=verdict)
    # The next grant, perhaps one for settings, takes this one's place: that the host went back must outlive it.
    went_back = {ROLLED_BACK: grant.rollout.partition("/")[0]} if grant.operation == ROLLBACK and not why else {}
    base = host.metadata.resource_version
    action = SetGrant(node=host.metadata.name, base=base, grant=released, marks=went_back)
    told = detail or (past(why, node.metadata.name) if why else None)
    return Standing(node.metadata.name, Stand.WORKING, told, (action,))
