"""Which Rollout is in force for a group: one unfinished one at a time, oldest first; then the last complete one.

A complete Rollout stays its group's wish, so that a node that joins late or was reinstalled catches up under the same
budget and windows. Images and settings are wishes of their own: a configure Rollout does not end an image's wish. Once
a younger one of its kind is complete, an older one is never in force again: whoever edits it would send the group back
to what it says, and then forward again to what the younger one says.

A group's own settings are a standing wish too. They stand above a complete configure Rollout, and wait while any
unfinished one speaks for the group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping

import msgspec

from hostplane.api.host import CONFIGURE, HostSettings
from hostplane.api.meta import ObjectMeta
from hostplane.api.nodegroup import NodeGroup
from hostplane.api.rollout import Rollout, RolloutPhase, RolloutSpec
from hostplane.errors import Reason, reason

__all__ = ["GroupWish", "Wishes", "is_complete", "own_settings", "tag", "wishes"]


class GroupWish(msgspec.Struct, frozen=True, kw_only=True):
    """What one group is to be."""

    name: str
    group: NodeGroup
    active: Rollout | None = None
    """The unfinished Rollout, if any."""
    image: Rollout | None = None
    """The upgrade or rollback in force."""
    settings: Rollout | None = None
    """The configure Rollout in force; or the group's own settings in the form of one, while no Rollout is active."""
    has_own_settings: bool = False
    """Whether `settings` are the group's own."""


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """All groups' wishes, and the Rollouts that wait for their turn."""

    groups: dict[str, GroupWish]
    queued: dict[str, Reason]
    refused: dict[str, Reason]
    """Rollouts that are left out altogether."""


def is_complete(rollout: Rollout) -> bool:
    """True once every host was dealt with and nothing of its spec changed since."""
    status = rollout.status
    return status.phase == RolloutPhase.COMPLETE and status.observed_generation == rollout.metadata.generation


def tag(rollout: Rollout) -> str:
    """UID/GENERATION, as grants carry it."""
    return f"{rollout.metadata.uid}/{rollout.metadata.generation}"


def _is_settings(rollout: Rollout) -> bool:
    return rollout.spec.operation == CONFIGURE


def _age(rollout: Rollout) -> tuple[str, str]:
    return rollout.metadata.creation_timestamp, rollout.metadata.name


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def own_settings(group: NodeGroup) -> Rollout:
    """The group's settings as a configure Rollout of its own; every version of them is another one.

    Where they say no version it is made from them, so that every change counts.
    """
    settings = group.spec.settings or HostSettings()
    if not settings.version:
        said = msgspec.structs.replace(settings, signatures="")
        settings = msgspec.structs.replace(settings, version=_digest(msgspec.json.encode(said, order="sorted")))
    version = _digest(settings.version.encode())
    meta = ObjectMeta(
        name=group.metadata.name, uid=f"{group.metadata.uid}.{version}", generation=group.metadata.generation
    )
    return Rollout(
        metadata=meta, spec=RolloutSpec(operation=CONFIGURE, groups=[group.metadata.name], settings=settings)
    )


def wishes(
    groups: Mapping[str, NodeGroup],
    rollouts: Mapping[str, Rollout],
    refused: Mapping[str, Reason] | None = None,
    unsettled: Container[str] = (),
) -> Wishes:
    """Sort the Rollouts by age and give each group what is in force.

    `refused` Rollouts, by name, are not looked at, nor are the own settings of the groups in `unsettled`.
    """
    refused = refused or {}
    active: dict[str, Rollout] = {}
    image: dict[str, Rollout] = {}
    settings: dict[str, Rollout] = {}
    queued: dict[str, Reason] = {}
    claimed: dict[str, str] = {}
    in_order = sorted((r for n, r in rollouts.items() if n not in refused), key=_age)
    newest = {(_is_settings(r), group): r for r in in_order if is_complete(r) for group in r.spec.groups}
    for rollout in in_order:
        name, kind = rollout.metadata.name, _is_settings(rollout)
        standing = settings if kind else image
        if is_complete(rollout):
            # Also where an older one is active: it is of the other kind, or this one supersedes it.
            standing.update(dict.fromkeys(rollout.spec.groups, rollout))
            continue
        younger = {g: r for g in rollout.spec.groups if (r := newest.get((kind, g))) and _age(r) > _age(rollout)}
        mine = [g for g in rollout.spec.groups if g not in younger]
        before = next((claimed[g] for g in mine if g in claimed), None)
        for group in mine:
            claimed.setdefault(group, name)
        if not mine:
            by = next(iter(younger.values())).metadata.name
            queued[name] = reason("RolloutSuperseded", rollout=name, by=by)
        elif not any(g in groups for g in mine):
            queued[name] = reason("GroupMissing", rollout=name, groups=", ".join(mine))
        elif before is not None:
            queued[name] = reason("RolloutQueued", rollout=name, before=before)
        else:
            for group in mine:
                active[group] = standing[group] = rollout
    own = {
        name: own_settings(group)
        for name, group in groups.items()
        if group.spec.settings is not None and name not in active and name not in unsettled
    }
    return Wishes(
        groups={
            name: GroupWish(
                name=name,
                group=group,
                active=active.get(name),
                image=image.get(name),
                settings=own.get(name) or settings.get(name),
                has_own_settings=name in own,
            )
            for name, group in groups.items()
        },
        queued=queued,
        refused={name: why for name, why in refused.items() if name in rollouts},
    )
