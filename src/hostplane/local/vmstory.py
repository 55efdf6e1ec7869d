"""What `hostplane demo --vm` tells at its end, as pure functions of the Hosts in the API server."""

from __future__ import annotations

import msgspec

from hostplane.api.host import Host, Phase
from hostplane.errors import Reason, reason
from hostplane.local.demo_story import Release, Returned

__all__ = ["VmOutcome", "VmSummary", "deviations", "returned_from", "runs"]


class VmSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The end, as `--json` prints it. Seconds are wall time."""

    hosts: int
    upgraded: int
    """On v2, committed, at the end."""
    returned: int
    """Back from v3."""
    returned_hosts: list[Returned]
    budget: int
    max_unavailable_seen: int
    """During the rollouts."""
    wall_s: float
    images_s: float = 0.0
    boot_s: float = 0.0
    """All machines, from the first power-on to the last Host's first report."""
    rollout_s: dict[str, float] = {}
    bundle_bytes: dict[str, int] = {}
    """All of each version's bundle."""
    sent_bytes: dict[str, int] = {}
    """What all machines together fetched during each rollout."""


class VmOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended. `deviations` is empty when all went as told."""

    summary: VmSummary
    deviations: list[Reason]


def runs(host: Host, release: Release) -> bool:
    """Whether the host is on this release for good; another one may be staged beside it."""
    active = host.status.active
    is_moving = host.status.phase in (Phase.REBOOTING, Phase.TRIAL)
    return not is_moving and active.digest == release.digest and active.state == "Confirmed"


def returned_from(host: Host, release: Release) -> Returned | None:
    """That the host came back from this release, and its agent's own reason; None where it did not."""
    if not any(failed.digest == release.digest for failed in host.status.failed_digests):
        return None
    error = host.status.last_error
    if error is None or error.digest != release.digest:
        return Returned(node=host.metadata.name, name="", code="", message="")
    text = error.message.removeprefix(f"{error.code}: ")
    return Returned(node=host.metadata.name, name=error.name, code=error.code, message=text)


def deviations(summary: VmSummary) -> list[Reason]:
    """What did not go as told: every host on v2, exactly one of them back from v3, never more away than allowed."""
    found = []
    if summary.upgraded != summary.hosts:
        found.append(reason("VmDemoNotUpgraded", upgraded=summary.upgraded, expected=summary.hosts))
    if summary.returned != 1:
        names = ", ".join(host.node for host in summary.returned_hosts) or "-"
        found.append(reason("VmDemoNotReturned", returned=names))
    if summary.max_unavailable_seen > summary.budget:
        seen, budget = summary.max_unavailable_seen, summary.budget
        found.append(reason("DemoBudgetExceeded", group="machines", seen=seen, budget=budget))
    return found
