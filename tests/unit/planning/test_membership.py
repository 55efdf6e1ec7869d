"""Who belongs where, who belongs to two and is left alone, and who is never touched."""

from __future__ import annotations

from typing import Any

import pytest

from hostplane.api.core import Node
from hostplane.api.kubeos import CONTROL_PLANE, NODE_SELECTOR
from hostplane.api.meta import LabelSelector, Requirement
from hostplane.planning.membership import Membership, matches, membership
from hostplane.planning.snapshot import NEVER

from . import build

NODES = {
    "plain": build.node("plain"),
    "a": build.node("a", labels={NODE_SELECTOR: "a"}),
    "empty": build.node("empty", labels={NODE_SELECTOR: ""}),
    "boss": build.node("boss", labels={CONTROL_PLANE: ""}),
    "boss-a": build.node("boss-a", labels={CONTROL_PLANE: "", NODE_SELECTOR: "a"}),
    "never": build.node("never", labels={NODE_SELECTOR: "a", NEVER: ""}),
}


def of(nodes: dict[str, Node], groups: Any = (), oses: Any = ()) -> Membership:
    return membership(
        nodes,
        {g.metadata.name: g for g in groups},
        {f"{o.metadata.namespace}/{o.metadata.name}": o for o in oses},
    )


@pytest.mark.parametrize(
    ("selector", "members"),
    [
        ("no-label", ["plain"]),
        ("all-label", ["plain", "a", "empty"]),
        ("", ["empty"]),
        ("a", ["a"]),
        ("b", []),
    ],
)
def test_kubeos_nodeselector(selector: str, members: list[str]) -> None:
    """Control-plane nodes never belong to an OS object."""
    found = of(NODES, oses=[build.os_object("x", nodeselector=selector)])
    assert found.members["os/default/x"] == members


def test_never_beats_everything() -> None:
    everything = build.group("all", selector=LabelSelector())
    hidden = build.group("hide", selector=LabelSelector(), mode="Hidden")
    for groups in ([everything], [hidden], [everything, hidden]):
        found = of(NODES, groups, [build.os_object("x", nodeselector="a")])
        assert found.never == {"never"}
        assert "never" not in found.hidden
        assert "never" not in found.conflicts
        assert all("never" not in names for names in found.members.values())


def test_a_group_may_hold_control_plane_nodes() -> None:
    found = of(NODES, [build.group("all", selector=LabelSelector())])
    assert found.members["group/all"] == ["plain", "a", "empty", "boss", "boss-a"]


def test_a_node_of_two_groups_belongs_to_neither() -> None:
    groups = [
        build.group("one", selector=LabelSelector(match_labels={NODE_SELECTOR: "a"})),
        build.group("two", selector=LabelSelector()),
    ]
    found = of(NODES, groups)
    assert found.members["group/one"] == []
    assert found.members["group/two"] == ["plain", "empty", "boss"]
    assert found.conflicts == {"a": ("group/one", "group/two"), "boss-a": ("group/one", "group/two")}
    assert found.overlaps("group/one") == {"group/two": "a"}
    assert found.overlaps("group/two") == {"group/one": "a"}


def test_a_group_and_an_os_object_collide() -> None:
    found = of(
        NODES,
        [build.group("web", selector=LabelSelector(match_labels={NODE_SELECTOR: "a"}))],
        [build.os_object("x", nodeselector="a")],
    )
    assert found.members == {"group/web": ["boss-a"], "os/default/x": []}
    assert found.conflicts == {"a": ("group/web", "os/default/x")}


def test_all_label_collides_with_every_other_os() -> None:
    found = of(NODES, oses=[build.os_object("x", nodeselector="a"), build.os_object("y", nodeselector="all-label")])
    assert found.members == {"os/default/x": [], "os/default/y": ["plain", "empty"]}
    assert found.conflicts == {"a": ("os/default/x", "os/default/y")}


def test_the_same_selector_in_two_namespaces_collides() -> None:
    found = of(
        NODES, oses=[build.os_object("x", nodeselector="a"), build.os_object("x", namespace="z", nodeselector="a")]
    )
    assert set(found.conflicts) == {"a"}
    assert found.overlaps("os/z/x") == {"os/default/x": "a"}


def test_a_hidden_group_takes_its_nodes_out_of_all_others() -> None:
    hidden = build.group("hide", selector=LabelSelector(match_labels={NODE_SELECTOR: "a"}), mode="Hidden")
    found = of(NODES, [hidden, build.group("all", selector=LabelSelector())], [build.os_object("x", nodeselector="a")])
    assert found.hidden == {"a", "boss-a"}
    assert found.conflicts == {}
    assert found.members["group/all"] == ["plain", "empty", "boss"]
    assert found.members["group/hide"] == []


def test_an_owner_without_nodes_is_still_there() -> None:
    assert of({}, [build.group("web")], [build.os_object("x")]).members == {"group/web": [], "os/default/x": []}


def need(operator: str, *values: str) -> LabelSelector:
    return LabelSelector(match_expressions=[Requirement(key="k", operator=operator, values=list(values))])


@pytest.mark.parametrize(
    ("selector", "labels", "wanted"),
    [
        (LabelSelector(), {}, True),
        (LabelSelector(match_labels={"k": "v"}), {"k": "v"}, True),
        (LabelSelector(match_labels={"k": "v"}), {"k": "w"}, False),
        (LabelSelector(match_labels={"k": ""}), {}, False),
        (need("In", "a", "b"), {"k": "b"}, True),
        (need("In", "a", "b"), {"k": "c"}, False),
        (need("In", "a"), {}, False),
        (need("NotIn", "a"), {"k": "a"}, False),
        (need("NotIn", "a"), {"k": "b"}, True),
        (need("NotIn", "a"), {}, True),
        (need("Exists"), {"k": ""}, True),
        (need("Exists"), {}, False),
        (need("DoesNotExist"), {}, True),
        (need("DoesNotExist"), {"k": "x"}, False),
        (need("Near"), {"k": "x"}, False),  # an operator of tomorrow matches nothing
    ],
)
def test_selectors(selector: LabelSelector, labels: dict[str, str], wanted: bool) -> None:
    assert matches(selector)(labels) is wanted
