"""How many nodes may be away at once. Each node is counted once, whatever the number of reasons it is away for.

A node is away when it is not Ready, unschedulable or in the Ledger. One that is away already costs nothing more, so a
fix can reach a host that is down even where the budget is used up; but it takes a place in the Ledger like any other,
and a cap never gives out more places than it allows. Else nodes that were down for a moment, or only cordoned, would
all be taken at once, and would then be away because of us.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from hostplane.api.core import Node
from hostplane.api.nodegroup import TopologyCap
from hostplane.errors import ApiError, Reason, reason

__all__ = ["Away", "Budget", "Cap", "parse_count"]


def parse_count(value: int | str, total: int) -> int:
    """A count as it is, a share of `total` rounded down; at least 1 where it is not refused.

    Raises:
        ApiError: below 1, below 1 %, over 100 %, or no number.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ApiError("CountTooSmall", value=value)
        return value
    text = str(value)
    share = text[:-1]
    if not (text.endswith("%") and share.isascii() and share.isdecimal() and 1 <= int(share) <= 100):
        raise ApiError("CountForm", value=value)
    return max(1, total * int(share) // 100)


class Cap:
    """One limit, how many nodes under it are away, and how many of those hold a place in the Ledger."""

    __slots__ = ("_full", "held", "limit", "name", "used")

    def __init__(self, name: str, limit: int, used: int = 0, held: int = 0) -> None:
        self.name, self.limit, self.used, self.held = name, limit, used, held
        self._full: Reason | None = None

    def admits(self, is_away: bool) -> bool:
        """Whether one more may go that is away already, or is not."""
        return (self.held if is_away else self.used) < self.limit

    @property
    def full(self) -> Reason:
        """That it is used up, as one object for all whom it stops."""
        if self._full is None:
            self._full = reason("BudgetFull", cap=self.name, limit=self.limit)
        return self._full


class Away(msgspec.Struct, frozen=True):
    """Who of one owner is away, who of those is in the Ledger, and how many count against it that it has lost."""

    nodes: set[str]
    held: set[str]
    strays: int

    @property
    def count(self) -> int:
        """How many are away."""
        return len(self.nodes) + self.strays

    def cap(self, owner: str, limit: int) -> Cap:
        """The owner's own limit, as it is used now."""
        return Cap(owner, limit, self.count, len(self.held) + self.strays)


class Budget:
    """The caps that one group's nodes stand under: the group's own, one per topology value, and the cluster's."""

    def __init__(
        self,
        group: Cap,
        cluster: Cap,
        topology: Sequence[TopologyCap] = (),
        members: Iterable[Node] = (),
        away: Collection[str] = frozenset(),
        held: Collection[str] = frozenset(),
    ) -> None:
        self.group, self.cluster = group, cluster
        self._domains: list[tuple[str, dict[str, Cap]]] = []
        nodes = list(members) if topology else []
        for cap in topology:
            sizes: dict[str, int] = {}
            used: dict[str, int] = {}
            taken: dict[str, int] = {}
            for node in nodes:
                value = node.metadata.labels.get(cap.key, "")
                sizes[value] = sizes.get(value, 0) + 1
                used[value] = used.get(value, 0) + (node.metadata.name in away)
                taken[value] = taken.get(value, 0) + (node.metadata.name in held)
            domains = {
                value: Cap(f"{cap.key}={value}", parse_count(cap.max_unavailable, size), used[value], taken[value])
                for value, size in sizes.items()
            }
            self._domains.append((cap.key, domains))

    def _caps(self, node: Node) -> list[Cap]:
        caps = [self.group, self.cluster]
        for key, domains in self._domains:
            caps.append(domains[node.metadata.labels.get(key, "")])
        return caps

    def refuse(self, node: Node, is_away: bool) -> Reason | None:
        """Why this node may not go now, or None where it may."""
        for cap in self._caps(node):
            if not cap.admits(is_away):
                return cap.full
        return None

    def take(self, node: Node, is_away: bool) -> None:
        """Give this node a place; it is away from now on."""
        for cap in self._caps(node):
            cap.held += 1
            cap.used += not is_away
