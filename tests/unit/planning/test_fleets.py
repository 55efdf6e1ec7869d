"""Larger worlds at random: everything that can happen happens, then it stops, and all must end where they should."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostplane.planning.outcome import Plan
from hostplane.planning.snapshot import Snapshot
from hostplane.planning.standing import Stand

from .faults import FAULTS, fleet, image_changes, ledger_is_lost, lift, mend, os_is_deleted
from .passes import Operator
from .world import World

FLEETS = st.fixed_dictionaries(
    {
        "hosts": st.integers(0, 12),
        "kubeos": st.integers(1, 12),
        "limit": st.sampled_from([1, 2, "25%", "50%"]),
        "per_zone": st.sampled_from([None, 1, "50%"]),
        "cluster": st.sampled_from(["100%", "20%", 2]),
        "kubeos_limit": st.integers(1, 4),
        "mode": st.sampled_from(["parallel", "serial"]),
        "steps": st.booleans(),
    }
)
EVENTS = st.lists(st.tuples(st.integers(0, 40), st.sampled_from(FAULTS), st.integers(0, 59)), max_size=12)
DEATHS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6), st.integers(0, 20)), max_size=6)
LAGS = st.lists(
    st.tuples(
        st.integers(0, 40), st.sampled_from(["nodes", "hosts", "instances", "ledger", "oses"]), st.integers(1, 6)
    ),
    max_size=8,
)


class Story:
    """A world, its operators, and what happens to both."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.operator = Operator(world)
        self.asleep: list[tuple[int, Any]] = []
        """Operators that stopped mid-pass: when they wake, and what they still mean to write."""
        self.seen: list[Snapshot] = []

    def lag(self, kinds: dict[str, int]) -> None:
        """The next pass sees these kinds as they were so many passes ago."""
        self.seen.append(self.world.snapshot())
        self.operator.late = {kind: self.seen[max(0, len(self.seen) - 1 - by)] for kind, by in kinds.items()}

    def one_pass(self, dies_after: int | None = None, sleeps: int = 0) -> Plan:
        """One pass; the operator may die after some writes, or sleep over the rest of them."""
        snapshot, decided = self.operator.look()
        writes = self.operator.writes(snapshot, decided)
        if dies_after is None:
            for write in writes:
                write()
            self.world.exempt = frozenset()
        else:
            for _, write in zip(range(dies_after), writes, strict=False):
                write()
            if sleeps:
                self.asleep.append((sleeps, writes))
            self.operator = Operator(self.world)
        return decided

    def wake(self, now: int) -> None:
        """Those whose time has come finish what they meant to do."""
        for when, writes in [a for a in self.asleep if a[0] <= now]:
            for write in writes:
                write()
            self.asleep.remove((when, writes))


def run(config: dict[str, Any], events: Any, deaths: Any, lags: Any = (), length: int = 45) -> None:
    story = Story(fleet(**config))
    world = story.world
    world.lagging = bool(lags)
    dying = {when: (after, sleeps) for when, after, sleeps in deaths}
    for now in range(length):
        for when, fault, target in events:
            if when == now:
                fault(world, target)
        after, sleeps = dying.get(now, (None, 0))
        story.lag({kind: by for when, kind, by in lags if when == now})
        story.one_pass(after, now + sleeps if sleeps else 0)
        story.wake(now)
        world.tick()
    story.wake(length + 100)
    story.lag({})
    story.one_pass()
    mend(world)
    finish(story)


def finish(story: Story) -> None:
    """Faults have stopped: everybody gets there within the passes that one after the other takes."""
    world = story.world
    bound = 200 + 45 * len(world.machines)
    decided = None
    for _ in range(bound):
        lift(world)
        decided = story.one_pass()
        stands = {s.node: s.stand for mine in decided.owners.values() for s in mine.standings}
        if not world.ledger.spec.holders and set(stands.values()) <= {Stand.DONE} and not decided.actions:
            break
        world.tick()
    else:
        assert decided is not None
        told = {n: str(decided.reasons.get(n, s)) for n, s in stands.items() if s is not Stand.DONE}
        raise AssertionError(f"not there after {bound} passes: {told}; holders {world.ledger.spec.holders}")
    assert stands.keys() == world.nodes.keys()
    for name, node in world.nodes.items():
        assert node.status.node_info.os_image == "v2", f"{name} runs {node.status.node_info.os_image}"
        assert "hostplane.dev/cordon" not in node.metadata.annotations
        assert not {label for label in node.metadata.labels if label.startswith("upgrade.openeuler.org/upg")}


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(FLEETS, EVENTS, DEATHS)
def test_whatever_happens_no_promise_is_broken_and_all_get_there(
    config: dict[str, Any], events: Any, deaths: Any
) -> None:
    run(config, events, deaths)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(FLEETS, EVENTS, LAGS)
def test_copies_of_different_age_break_no_promise_either(config: dict[str, Any], events: Any, lags: Any) -> None:
    """Each kind has a watch of its own; a Ledger of now may stand beside a node of a minute ago."""
    run(config, [e for e in events if e[1] is not ledger_is_lost], [], lags)


def test_a_node_between_its_proxys_two_last_writes_is_not_taken_for_one_that_an_administrator_cordoned() -> None:
    """It un-labels, then uncordons; a wish that changed meanwhile, and then went, left the node cordoned for ever."""
    config: dict[str, Any] = {"hosts": 0, "kubeos": 4, "limit": 1, "per_zone": None, "cluster": "100%"}
    config.update(kubeos_limit=2, mode="serial", steps=False)
    run(config, [(26, image_changes, 1), (33, os_is_deleted, 0)], [])


@pytest.mark.long
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(FLEETS, EVENTS, DEATHS)
def test_whatever_happens_for_long(config: dict[str, Any], events: Any, deaths: Any) -> None:
    run(config, events, deaths)


@pytest.mark.long
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(FLEETS, EVENTS, LAGS)
def test_copies_of_different_age_for_long(config: dict[str, Any], events: Any, lags: Any) -> None:
    run(config, [e for e in events if e[1] is not ledger_is_lost], [], lags)
