"""What a Host outside the Ledger wants: which image or settings, whether it could begin, and if not, why.

A host that failed is recognised by what it and its last grant say, never by memory: a digest it went back from
(`failedDigests`, counted by attempt) or a Release with the verdict HostFault for the same Rollout. Naming the node in
`retry` and any change of the Rollout's spec after the failure allow one more try.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from hostplane.api.core import Node
from hostplane.api.host import CONFIGURE, RELEASE, ROLLBACK, UPGRADE, Host, ImageRef, Phase
from hostplane.api.meta import ObjectMeta
from hostplane.api.osimage import OSImage
from hostplane.api.rollout import Rollout, RolloutSpec
from hostplane.api.validate import check_schema_version
from hostplane.errors import Reason, reason

from .actions import SetImage
from .standing import Stand, Standing
from .verdict import past
from .wishes import GroupWish

__all__ = ["BACK_OFF", "ROLLED_BACK", "Target", "target_of"]

BACK_OFF = 300
"""Seconds before a host whose operation ended without a verdict is tried again."""
PROTOCOL = 1
ROLLED_BACK = "hostplane.dev/rolled-back"
"""On a Host: uid of the last Rollout that it went back for, so that it does so once."""
_NO_ROLLOUT = Rollout(metadata=ObjectMeta(), spec=RolloutSpec(operation=CONFIGURE, groups=[]))


class Target(msgspec.Struct, frozen=True):
    """The next operation of a host and where it stands towards it."""

    standing: Standing
    rollout: Rollout
    operation: str
    digest: str = ""


def target_of(wish: GroupWish, image: OSImage | None, node: Node, host: Host, now: int) -> Target:
    """The image first, then the settings."""
    for rollout, find in ((wish.image, _image_target), (wish.settings, _settings_target)):
        if rollout is not None:
            target = find(rollout, image, node, host, now)
            if target.standing.stand is not Stand.DONE:
                return target
    rollout = wish.image or wish.settings or _NO_ROLLOUT
    return Target(Standing(node.metadata.name, Stand.DONE), rollout, "")


def _image_target(rollout: Rollout, image: OSImage | None, node: Node, host: Host, now: int) -> Target:
    name = node.metadata.name
    unfit = _unfit(rollout, host, name)
    if unfit is not None:
        return Target(unfit, rollout, rollout.spec.operation)
    if rollout.spec.operation == ROLLBACK:
        return _rollback_target(rollout, node, host, now)
    missing = reason("ImageMissing", node=name, rollout=rollout.metadata.name) if image is None else None
    missing = missing or (check_schema_version(image) if image is not None else None)
    if image is None or missing is not None:
        # Not blocked: a Rollout that counted as complete now would forget its steps and its threshold.
        return Target(Standing(name, Stand.WAITING, missing), rollout, UPGRADE)
    architecture = node.status.node_info.architecture
    variant = image.variant(architecture)
    if variant is None:
        why = reason("NoVariant", node=name, architecture=architecture, image=image.metadata.name)
        return Target(Standing(name, Stand.BLOCKED, why), rollout, UPGRADE)
    status = host.status
    if status.active.digest == variant.digest and status.active.state == "Confirmed":
        return Target(Standing(name, Stand.DONE), rollout, UPGRADE, variant.digest)
    attempt = _attempt(rollout, host, name, variant.digest)
    wanted = ImageRef(
        format=variant.format,
        ref=variant.ref,
        digest=variant.digest,
        size=variant.size,
        version=image.spec.version,
        attempt=attempt,
    )
    return Target(_upgrade_standing(rollout, image, wanted, name, host, now), rollout, UPGRADE, variant.digest)


def _upgrade_standing(rollout: Rollout, image: OSImage, wanted: ImageRef, name: str, host: Host, now: int) -> Standing:
    status = host.status
    failed = next((f for f in status.failed_digests if f.digest == wanted.digest and f.attempt >= wanted.attempt), None)
    if failed is not None:
        return Standing(name, Stand.FAILED, _told(failed.name or "HostReturned", host, wanted.digest))
    came_to_nothing = _ended_badly(rollout, host, name, wanted.digest, now)
    if came_to_nothing is not None:
        return came_to_nothing
    reachable, have = image.spec.reachable_from, status.active.version
    if reachable and have not in reachable:
        return Standing(name, Stand.BLOCKED, reason("NotReachable", node=name, have=have, want=image.spec.version))
    if host.spec.image != wanted:
        why = reason("AwaitingStaging", node=name)
        stage = SetImage(node=name, image=wanted, base=host.metadata.resource_version)
        return Standing(name, Stand.WAITING, why, stage=stage)
    if status.phase == Phase.STAGED and status.passive.digest == wanted.digest:
        return Standing(name, Stand.READY, staged=True)
    error = status.last_error
    if status.phase == Phase.FAILED and error is not None and error.digest == wanted.digest:
        return Standing(name, Stand.FAILED, _told(error.name or "HostReturned", host, wanted.digest))
    return Standing(name, Stand.WAITING, reason("Staging", node=name), staging=True)


def _rollback_target(rollout: Rollout, node: Node, host: Host, now: int) -> Target:
    name, back = node.metadata.name, host.status.passive
    grant = host.spec.grant
    is_its_end = grant is not None and _is_of(grant.rollout, rollout) and grant.stage == RELEASE and not grant.why
    if is_its_end or host.metadata.annotations.get(ROLLED_BACK) == rollout.metadata.uid:
        return Target(Standing(name, Stand.DONE), rollout, ROLLBACK)
    came_to_nothing = _ended_badly(rollout, host, name, back.digest, now)
    if came_to_nothing is not None:
        return Target(came_to_nothing, rollout, ROLLBACK, back.digest)
    if not back.digest or back.state != "Confirmed":
        return Target(Standing(name, Stand.BLOCKED, reason("NothingToReturnTo", node=name)), rollout, ROLLBACK)
    return Target(Standing(name, Stand.READY, staged=True), rollout, ROLLBACK, back.digest)


def _settings_target(rollout: Rollout, image: OSImage | None, node: Node, host: Host, now: int) -> Target:
    del image
    name, wanted = node.metadata.name, rollout.spec.settings
    unfit = _unfit(rollout, host, name)
    if unfit is not None:
        return Target(unfit, rollout, CONFIGURE)
    if wanted is None or (host.status.settings is not None and host.status.settings.version == wanted.version):
        return Target(Standing(name, Stand.DONE), rollout, CONFIGURE)
    came_to_nothing = _ended_badly(rollout, host, name, "", now)
    return Target(came_to_nothing or Standing(name, Stand.READY), rollout, CONFIGURE)


def _unfit(rollout: Rollout, host: Host, name: str) -> Standing | None:
    """Why this host can take nothing at all, or None."""
    if name in rollout.spec.skip:
        return Standing(name, Stand.BLOCKED, reason("Skipped", node=name, rollout=rollout.metadata.name))
    status = host.status
    if not status.phase:
        return Standing(name, Stand.WAITING, reason("NotReported", node=name))
    if status.never:
        return Standing(name, Stand.BLOCKED, reason("NeverOnHost", node=name))
    if not status.schema.startswith("1.") or status.protocol != PROTOCOL:
        return Standing(
            name, Stand.BLOCKED, reason("AgentUnknown", node=name, schema=status.schema, protocol=status.protocol)
        )
    return None


def _is_of(grant_tag: str, rollout: Rollout) -> bool:
    return grant_tag.partition("/")[0] == rollout.metadata.uid


def _retried_since(rollout: Rollout, name: str, grant_tag: str) -> bool:
    generation = grant_tag.rpartition("/")[2]
    return name in rollout.spec.retry and generation.isdecimal() and rollout.metadata.generation > int(generation)


def _ended_badly(rollout: Rollout, host: Host, name: str, digest: str, now: int) -> Standing | None:
    """What the last Release of this Rollout says, where it was no success."""
    grant = host.spec.grant
    if grant is None or grant.stage != RELEASE or not grant.why or not _is_of(grant.rollout, rollout):
        return None
    if digest and grant.digest != digest:
        return None
    why = _told(grant.why, host, grant.digest)
    if grant.verdict == "HostFault":
        return None if _retried_since(rollout, name, grant.rollout) else Standing(name, Stand.FAILED, why)
    return Standing(name, Stand.WAITING, why) if now - grant.at < BACK_OFF else None


def _told(name: str, host: Host, digest: str) -> Reason:
    """The reason `name` of a former operation, in the agent's own words where it still has them."""
    error = host.status.last_error
    is_it = error is not None and error.name == name and error.digest == digest
    return past(name, host.metadata.name, error.message if error is not None and is_it else "")


def _attempt(rollout: Rollout, host: Host, name: str, digest: str) -> int:
    """The attempt to ask for: the one already asked for, or a higher one where a retry was wished since."""
    asked = host.spec.image.attempt if host.spec.image and host.spec.image.digest == digest else 0
    if name not in rollout.spec.retry:
        return asked
    try:
        born = int(datetime.fromisoformat(rollout.metadata.creation_timestamp).timestamp())
    except ValueError:
        born = 0
    return max(asked, born + rollout.metadata.generation)
