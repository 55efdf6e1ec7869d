"""How many nodes may be away at once. Each node is counted once, whatever the number of reasons it is away for.

A node is away when it is not Ready, unschedulable or in the Ledger. One that is away already costs nothing more, so
a fix can always reach a host that is down; one that comes up from nothing costs one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hostplane.api.core import Node
from hostplane.api.nodegroup import TopologyCap
from hostplane.errors import ApiError, Reason, reason

__all__ = ["Budget", "Cap", "parse_count"]


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
    if not (text.endswith("%") and share.isascii() and share.isdigit() and 1 <= int(share) <= 100):
        raise ApiError("CountForm", value=value)
    return max(1, total * int(share) // 100)


class Cap:
    """One limit and how much of it is used."""

    __slots__ = ("_full", "limit", "name", "used")

    def __init__(self, name: str, limit: int, used: int = 0) -> None:
        self.name, self.limit, self.used = name, limit, used
        self._full: Reason | None = None

    @property
    def free(self) -> int:
        """How many more may go."""
        return max(0, self.limit - self.used)

    @property
    def full(self) -> Reason:
        """That it is used up, as one object for all whom it stops."""
        if self._full is None:
            self._full = reason("BudgetFull", cap=self.name, limit=self.limit)
        return self._full


class Budget:
    """The caps that one group's nodes stand under: the group's own, one per topology value, and the cluster's."""

    def __init__(
        self,
        group: Cap,
        cluster: Cap,
        topology: Sequence[TopologyCap] = (),
        members: Iterable[Node] = (),
        away: Mapping[str, bool] | frozenset[str] | set[str] = frozenset(),
    ) -> None:
        self.group, self.cluster = group, cluster
        self._domains: list[tuple[str, dict[str, Cap]]] = []
        nodes = list(members) if topology else []
        for cap in topology:
            sizes: dict[str, int] = {}
            used: dict[str, int] = {}
            for node in nodes:
                value = node.metadata.labels.get(cap.key, "")
                sizes[value] = sizes.get(value, 0) + 1
                used[value] = used.get(value, 0) + (node.metadata.name in away)
            domains = {v: Cap(f"{cap.key}={v}", parse_count(cap.max_unavailable, n), used[v]) for v, n in sizes.items()}
            self._domains.append((cap.key, domains))

    def _caps(self, node: Node) -> list[Cap]:
        caps = [self.group, self.cluster]
        for key, domains in self._domains:
            caps.append(domains[node.metadata.labels.get(key, "")])
        return caps

    def refuse(self, node: Node, is_away: bool) -> Reason | None:
        """Why this node may not go now, or None where it may. A node that is away already may always."""
        if is_away:
            return None
        for cap in self._caps(node):
            if not cap.free:
                return cap.full
        return None

    def take(self, node: Node, is_away: bool) -> None:
        """Count this node as away from now on."""
        if not is_away:
            for cap in self._caps(node):
                cap.used += 1
