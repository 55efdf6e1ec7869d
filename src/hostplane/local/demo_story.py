"""What the demo tells, as pure functions of the objects in the API server: where each host is, who was away, the end.

Nothing here remembers what the demo asked for and takes it for done: a host counts as upgraded or returned by its Host
and its Node as they are, and the budget as kept by every change of a Node that was seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from hostplane.api.core import Node
from hostplane.api.host import RESERVED, SWITCH, Host, Phase
from hostplane.api.ledger import Ledger
from hostplane.api.rollout import Rollout, RolloutPhase
from hostplane.errors import Reason, reason

__all__ = [
    "STEPS",
    "Away",
    "GroupLine",
    "HostLine",
    "Picture",
    "Release",
    "Returned",
    "Summary",
    "deviations",
    "host_line",
    "is_away",
    "is_over",
    "summarise",
]

STEPS = 6
"""Staging, staged, draining, rebooting, on trial, committed."""

_STEP_OF = {"Staging": 1, "Staged": 2, "Draining": 3, "Rebooting": 4, "Returned": 4, "Trial": 5, "Upgraded": STEPS}


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two images: how Hosts and Nodes name it."""

    version: str
    digest: str
    pretty_name: str


class HostLine(msgspec.Struct, frozen=True, kw_only=True):
    """One host. `phase` is its agent's, but for three: Draining is Staged with a grant, and what is over stays Upgraded
    (Idle on the new version) or Returned (the new version failed on it)."""

    node: str
    group: str
    phase: str
    step: int
    slot: str = ""
    version: str = ""
    target: str = ""
    availability: str = "Ready"
    """Of its Node: Ready, NotReady or cordoned."""
    error: str = ""
    """Code and name of what went wrong with the new version; empty: nothing."""


class GroupLine(msgspec.Struct, frozen=True, kw_only=True):
    """One NodeGroup: its budget, how many are away now, and the most there ever were."""

    name: str
    budget: int
    away: int
    most_away: int


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the view shows at one moment; hosts are sorted by group and name."""

    rollout: str
    phase: str
    seconds: float
    hosts: Sequence[HostLine]
    groups: Sequence[GroupLine]
    most_away: int

    @property
    def away(self) -> int:
        """Nodes away now."""
        return sum(group.away for group in self.groups)

    @property
    def budget(self) -> int:
        """Nodes that may be away at once."""
        return sum(group.budget for group in self.groups)

    def count(self, *phases: str) -> int:
        """Hosts in one of these phases."""
        return sum(host.phase in phases for host in self.hosts)


class Returned(msgspec.Struct, frozen=True, kw_only=True):
    """A host that went back by itself, and its agent's own reason."""

    node: str
    name: str
    code: str
    message: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The end, as `--json` prints it. Seconds are wall time from the start of the command."""

    hosts: int
    upgraded: int
    returned: int
    max_unavailable_seen: int
    budget: int
    wall_s: float
    rollout_s: float
    returned_hosts: list[Returned]
    groups: dict[str, dict[str, int]]
    """By NodeGroup: hosts, upgraded, returned, max_unavailable_seen, budget."""


class Away:
    """Who is away, and the most that ever were at once; fed with every change of a Node, in the API's order."""

    def __init__(self, budgets: Mapping[str, int]) -> None:
        self._budgets = dict(budgets)
        self._members: dict[str, set[str]] = {group: set() for group in budgets}
        self._most = dict.fromkeys(budgets, 0)
        self.most = 0

    def see(self, group: str, node: str, away: bool) -> None:
        """The Node is away or back now; both may be told again."""
        members = self._members[group]
        members.add(node) if away else members.discard(node)
        self._most[group] = max(self._most[group], len(members))
        self.most = max(self.most, sum(len(names) for names in self._members.values()))

    def groups(self) -> list[GroupLine]:
        """Each group, by name."""
        return [
            GroupLine(name=name, budget=budget, away=len(self._members[name]), most_away=self._most[name])
            for name, budget in sorted(self._budgets.items())
        ]


def is_away(node: Node | None) -> bool:
    """As a budget counts it: gone, not Ready, or unschedulable."""
    return node is None or not node.ready or node.spec.unschedulable


def host_line(node_name: str, group: str, host: Host | None, node: Node | None, new: Release) -> HostLine:
    """Where this host is."""
    status = host.status if host else None
    if host is None or status is None or not status.phase:
        return HostLine(node=node_name, group=group, phase="Starting", step=0, availability=_availability(node))
    wanted = host.spec.image
    phase = _phase(host, new)
    error = status.last_error
    is_bad = error is not None and error.digest == new.digest and phase in ("Returned", "Failed")
    return HostLine(
        node=node_name,
        group=group,
        phase=phase,
        step=_STEP_OF.get(phase, 0),
        slot=status.active_slot,
        version=status.active.version,
        target=wanted.version if wanted and phase not in ("Upgraded", "Returned", "Failed", "Trial") else "",
        availability=_availability(node),
        error=f"{error.code} {error.name}" if error is not None and is_bad else "",
    )


def _phase(host: Host, new: Release) -> str:
    status = host.status
    match status.phase:
        case Phase.IDLE if _runs(host, new):
            return "Upgraded"
        case Phase.IDLE if _failed(host, new):
            return Phase.RETURNED
        case Phase.STAGED if host.spec.grant is not None and host.spec.grant.stage == RESERVED:
            return "Draining"
        case Phase.STAGED if host.spec.grant is not None and host.spec.grant.stage == SWITCH:
            return Phase.REBOOTING
        case phase:
            return phase


def _failed(host: Host, release: Release) -> bool:
    return any(failed.digest == release.digest for failed in host.status.failed_digests)


def _runs(host: Host, release: Release) -> bool:
    return host.status.active.digest == release.digest and host.status.active.state == "Confirmed"


def _availability(node: Node | None) -> str:
    if node is None or not node.ready:
        return "NotReady"
    return "cordoned" if node.spec.unschedulable else "Ready"


def is_over(rollout: Rollout | None, ledger: Ledger | None, nodes: Iterable[Node]) -> bool:
    """Whether nothing more will happen: the Rollout is Complete, or stopped by failures; nobody holds a grant; every
    Node is in service."""
    if rollout is None or rollout.status.observed_generation != rollout.metadata.generation:
        return False
    is_stopped = rollout.status.phase == RolloutPhase.PAUSED and not rollout.spec.paused
    return (
        (is_stopped or rollout.status.phase == RolloutPhase.COMPLETE)
        and not (ledger is not None and ledger.spec.holders)
        and not any(is_away(node) for node in nodes)
    )


def _is_upgraded(host: Host, node: Node | None, new: Release) -> bool:
    return (
        host.status.phase == Phase.IDLE
        and _runs(host, new)
        and node is not None
        and node.status.node_info.os_image == new.pretty_name
    )


def _is_returned(host: Host, node: Node | None, old: Release, new: Release) -> bool:
    return (
        _failed(host, new)
        and _runs(host, old)
        and node is not None
        and node.status.node_info.os_image == old.pretty_name
    )


def summarise(
    groups: Mapping[str, str],
    hosts: Mapping[str, Host],
    nodes: Mapping[str, Node],
    releases: tuple[Release, Release],
    away: Away,
    seconds: tuple[float, float],
) -> Summary:
    """Counts the hosts named in `groups` (node -> group) as their objects are. `releases` old, new; `seconds` whole
    command, rollout alone."""
    old, new = releases
    upgraded = {n for n, host in hosts.items() if n in groups and _is_upgraded(host, nodes.get(n), new)}
    returned = {n for n, host in hosts.items() if n in groups and _is_returned(host, nodes.get(n), old, new)}
    return Summary(
        hosts=len(groups),
        upgraded=len(upgraded),
        returned=len(returned),
        max_unavailable_seen=away.most,
        budget=sum(group.budget for group in away.groups()),
        wall_s=round(seconds[0], 1),
        rollout_s=round(seconds[1], 1),
        returned_hosts=[_returned(hosts[name]) for name in sorted(returned)],
        groups={
            group.name: {
                "hosts": sum(owner == group.name for owner in groups.values()),
                "upgraded": sum(groups[name] == group.name for name in upgraded),
                "returned": sum(groups[name] == group.name for name in returned),
                "max_unavailable_seen": group.most_away,
                "budget": group.budget,
            }
            for group in away.groups()
        },
    )


def _returned(host: Host) -> Returned:
    error = host.status.last_error
    if error is None:
        return Returned(node=host.metadata.name, name="", code="", message="")
    text = error.message.removeprefix(f"{error.code}: ")
    return Returned(node=host.metadata.name, name=error.name, code=error.code, message=text)


def deviations(summary: Summary, faulty: str) -> list[Reason]:
    """What did not go as told: every host but `faulty` upgraded, that one returned, no budget ever exceeded."""
    found = []
    if summary.upgraded != summary.hosts - 1:
        found.append(reason("DemoNotUpgraded", upgraded=summary.upgraded, expected=summary.hosts - 1))
    names = [host.node for host in summary.returned_hosts]
    if names != [faulty]:
        found.append(reason("DemoNotReturned", expected=faulty, returned=", ".join(names) or "-"))
    for name, group in summary.groups.items():
        if group["max_unavailable_seen"] > group["budget"]:
            seen, budget = group["max_unavailable_seen"], group["budget"]
            found.append(reason("DemoBudgetExceeded", group=name, seen=seen, budget=budget))
    return found
