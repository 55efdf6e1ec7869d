"""How many may be away: counts and shares, and the rule that a place is never given out twice."""

from __future__ import annotations

import pytest

from hostplane.api.core import Node
from hostplane.api.nodegroup import TopologyCap
from hostplane.errors import ApiError
from hostplane.planning.budget import Away, Budget, Cap, parse_count

from . import build


@pytest.mark.parametrize(
    ("value", "total", "wanted"),
    [(1, 10, 1), (25, 10, 25), ("25%", 10, 2), ("25%", 11, 2), ("1%", 10, 1), ("100%", 10, 10), ("10%", 0, 1)],
)
def test_a_share_is_rounded_down_and_at_least_one(value: int | str, total: int, wanted: int) -> None:
    assert parse_count(value, total) == wanted


@pytest.mark.parametrize("value", [0, -1])
def test_a_count_below_one_is_refused(value: int) -> None:
    with pytest.raises(ApiError) as refusal:
        parse_count(value, 10)
    assert refusal.value.name == "CountTooSmall"


@pytest.mark.parametrize("value", ["0%", "101%", "5", "", "%", "-5%", "5.5%", "²%", " 5%", "5 %", True, None])
def test_what_is_neither_a_count_nor_a_share_is_refused(value: int | str) -> None:
    with pytest.raises(ApiError) as refusal:
        parse_count(value, 10)
    assert refusal.value.name == "CountForm"


def budget(limit: int, used: int = 0, held: int = 0, cluster: Cap | None = None) -> Budget:
    return Budget(Cap("group/web", limit, used, held), cluster or Cap("cluster", 100))


ANY = build.node("n0")


def test_no_more_than_the_limit_may_go() -> None:
    two = budget(2)
    for _ in range(2):
        assert two.refuse(ANY, False) is None
        two.take(ANY, False)
    why = two.refuse(ANY, False)
    assert why is not None
    assert (why.name, why.params) == ("BudgetFull", {"cap": "group/web", "limit": 2})


def test_a_node_that_is_down_goes_though_the_budget_is_used_up() -> None:
    """It is counted already, so the fix costs nobody anything."""
    assert budget(1, used=1).refuse(ANY, True) is None
    assert budget(1, used=1).refuse(ANY, False) is not None


def test_nodes_that_are_down_are_not_all_taken_at_once() -> None:
    """They may come up the next moment; then every one of them would be away because of us."""
    three = budget(1, used=3)
    assert three.refuse(ANY, True) is None
    three.take(ANY, True)
    assert three.refuse(ANY, True) is not None


def test_one_that_is_down_already_is_not_counted_twice() -> None:
    two = budget(2, used=1)
    two.take(ANY, True)
    assert two.refuse(ANY, False) is None
    two.take(ANY, False)
    assert two.refuse(ANY, False) is not None


def test_the_clusters_cap_is_shared_by_all_groups() -> None:
    cluster = Cap("cluster", 2)
    one, two = budget(5, cluster=cluster), budget(5, cluster=cluster)
    one.take(ANY, False)
    two.take(ANY, False)
    why = one.refuse(ANY, False)
    assert why is not None
    assert why.params["cap"] == "cluster"


def zoned(**zones: str) -> list[Node]:
    return [build.node(name, labels={"zone": zone} if zone else {}) for name, zone in zones.items()]


def test_each_value_of_a_topology_key_has_its_own_cap() -> None:
    nodes = zoned(a1="a", a2="a", b1="b", b2="b")
    caps = [TopologyCap(key="zone", max_unavailable=1)]
    spread = Budget(Cap("group/web", 4), Cap("cluster", 4), caps, nodes)
    spread.take(nodes[0], False)
    refused = spread.refuse(nodes[1], False)
    assert refused is not None
    assert refused.params == {"cap": "zone=a", "limit": 1}
    assert spread.refuse(nodes[2], False) is None


def test_nodes_without_the_label_share_a_cap() -> None:
    nodes = zoned(x="", y="", a="a")
    spread = Budget(Cap("g", 3), Cap("cluster", 3), [TopologyCap(key="zone", max_unavailable=1)], nodes)
    spread.take(nodes[0], False)
    assert spread.refuse(nodes[1], False) is not None
    assert spread.refuse(nodes[2], False) is None


def test_a_share_of_a_zone_is_a_share_of_its_own_nodes() -> None:
    nodes = zoned(a1="a", a2="a", a3="a", a4="a", b1="b")
    spread = Budget(Cap("g", 9), Cap("cluster", 9), [TopologyCap(key="zone", max_unavailable="50%")], nodes)
    spread.take(nodes[0], False)
    spread.take(nodes[1], False)
    assert spread.refuse(nodes[2], False) is not None


def test_who_is_away_already_counts_in_its_zone() -> None:
    nodes = zoned(a1="a", a2="a", b1="b")
    caps = [TopologyCap(key="zone", max_unavailable=1)]
    spread = Budget(Cap("g", 9), Cap("cluster", 9), caps, nodes, away={"a1"}, held={"a1"})
    assert spread.refuse(nodes[1], False) is not None
    assert spread.refuse(nodes[1], True) is not None
    assert spread.refuse(nodes[2], False) is None
    spread = Budget(Cap("g", 9), Cap("cluster", 9), caps, nodes, away={"a1"})
    assert spread.refuse(nodes[0], True) is None


def test_what_an_owner_has_lost_counts_against_it() -> None:
    away = Away({"n1", "n2"}, {"n2"}, 1)
    cap = away.cap("group/web", 3)
    assert (cap.used, cap.held, away.count) == (3, 2, 3)
    assert not cap.admits(False)
    assert cap.admits(True)
