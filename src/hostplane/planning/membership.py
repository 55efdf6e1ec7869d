"""Which nodes belong to which NodeGroup or KubeOS OS, and which belong to two and are therefore left alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from hostplane.api.core import Node
from hostplane.api.kubeos import CONTROL_PLANE, NODE_SELECTOR, KubeOS
from hostplane.api.meta import LabelSelector
from hostplane.api.nodegroup import NodeGroup

from .snapshot import NEVER

__all__ = ["Membership", "matches", "membership", "os_key"]

ALL_LABEL, NO_LABEL = "all-label", "no-label"


def os_key(os: KubeOS) -> str:
    """namespace/name of an OS object."""
    return f"{os.metadata.namespace}/{os.metadata.name}"


def matches(selector: LabelSelector) -> Callable[[Mapping[str, str]], bool]:
    """A predicate over labels; an unknown operator matches nothing."""
    equal = tuple(selector.match_labels.items())
    parts = tuple((r.key, r.operator, frozenset(r.values)) for r in selector.match_expressions)

    def test(labels: Mapping[str, str]) -> bool:
        for key, value in equal:
            if labels.get(key) != value:
                return False
        for key, operator, values in parts:
            match operator:
                case "In":
                    ok = labels.get(key) in values
                case "NotIn":
                    ok = labels.get(key) not in values
                case "Exists":
                    ok = key in labels
                case "DoesNotExist":
                    ok = key not in labels
                case _:
                    ok = False
            if not ok:
                return False
        return True

    return test


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes by owner. An owner is `group/NAME` or `os/NAMESPACE/NAME`."""

    members: dict[str, list[str]]
    """Every owner, also one without nodes -> its nodes, hidden and conflicting ones left out."""
    conflicts: dict[str, tuple[str, ...]]
    """Nodes claimed by more than one owner -> those owners. Nobody works on them."""
    hidden: frozenset[str]
    never: frozenset[str]

    def overlaps(self, owner: str) -> dict[str, str]:
        """Other owners this one collides with -> one node that shows it."""
        found: dict[str, str] = {}
        for node, owners in self.conflicts.items():
            if owner in owners:
                for other in owners:
                    if other != owner:
                        found.setdefault(other, node)
        return found


def membership(nodes: Mapping[str, Node], groups: Mapping[str, NodeGroup], oses: Mapping[str, KubeOS]) -> Membership:
    """Sort every node. Control-plane nodes never belong to an OS object, as with KubeOS; a NodeGroup may hold them."""
    members: dict[str, list[str]] = {}
    tests: list[tuple[str, bool, Callable[[Mapping[str, str]], bool]]] = []
    for name, group in groups.items():
        members[f"group/{name}"] = []
        tests.append((f"group/{name}", group.spec.mode == "Hidden", matches(group.spec.selector)))
    everywhere: list[str] = []
    unlabelled: list[str] = []
    by_value: dict[str, list[str]] = {}
    for key, os in oses.items():
        owner = f"os/{key}"
        members[owner] = []
        match os.spec.nodeselector:
            case "all-label":
                everywhere.append(owner)
            case "no-label":
                unlabelled.append(owner)
            case value:
                by_value.setdefault(value, []).append(owner)
    conflicts: dict[str, tuple[str, ...]] = {}
    hidden: set[str] = set()
    never: set[str] = set()
    for name, node in nodes.items():
        labels = node.metadata.labels
        if NEVER in labels:
            never.add(name)
            continue
        owners = [owner for owner, _, test in tests if test(labels)]
        if tests and any(is_hidden for owner, is_hidden, _ in tests if owner in owners):
            hidden.add(name)
            continue
        if CONTROL_PLANE not in labels:
            label = labels.get(NODE_SELECTOR)
            owners += unlabelled if label is None else by_value.get(label, ())
            owners += everywhere
        if len(owners) == 1:
            members[owners[0]].append(name)
        elif owners:
            conflicts[name] = tuple(owners)
    return Membership(members=members, conflicts=conflicts, hidden=frozenset(hidden), never=frozenset(never))
