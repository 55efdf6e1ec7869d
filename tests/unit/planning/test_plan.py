"""One pass over everything: who is let in, in what order, and what everybody else is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hostplane.api.host import Grant
from hostplane.api.ledger import MAX_HOLDERS
from hostplane.api.meta import LabelSelector
from hostplane.api.nodegroup import Window
from hostplane.api.rollout import Step
from hostplane.planning.actions import Assign, SetGrant, SetImage
from hostplane.planning.kubeos import Record
from hostplane.planning.snapshot import NEVER

from . import build
from .clusters import NOW, V2_REF, begun, change, decide, held, kubeos, native, on_v2, reasons, staged, working

# --- who begins -----------------------------------------------------------------------------------------------------


def test_as_many_begin_as_the_budget_allows() -> None:
    decided = decide(native(4, limit=2))
    assert begun(decided) == ["n0", "n1"]
    assert decided.ledger.add == {"n0": (1, "group/web"), "n1": (3, "group/web")}
    assert decided.ledger.next_seq == 5
    assert reasons(decided) == {"n2": "BudgetFull", "n3": "BudgetFull"}
    assert all(isinstance(a, SetGrant) and a.grant.stage == "Reserved" for a in decided.begin)


def test_the_number_and_its_release_are_both_taken() -> None:
    seqs = [seq for seq, _ in decide(native(3, limit=3)).ledger.add.values()]
    assert seqs == [1, 3, 5]


def test_numbers_are_above_every_one_that_was_ever_heard_of() -> None:
    """Also after a restore of the store: else hosts would refuse what is new to us and old to them."""
    world = native(2)
    shown = msgspec.structs.replace(staged("n1").status, seq=70)
    world["hosts"]["n1"] = msgspec.structs.replace(staged("n1"), status=shown)
    assert decide(world).ledger.add["n0"][0] == 71
    world["hosts"]["n1"] = working("n1", 90, "Release")
    assert decide(world).ledger.add["n0"][0] == 91


@pytest.mark.parametrize("claimed", [1 << 21, (1 << 53) - 1, (1 << 63) - 1])
def test_a_number_that_no_host_can_have_heard_of_takes_none_from_the_others(claimed: int) -> None:
    """A stolen token writes any status; numbers that hosts refuse, or no store holds, would stop the whole fleet."""
    world = native(3)
    shown = msgspec.structs.replace(staged("n1").status, seq=claimed)
    world["hosts"]["n1"] = msgspec.structs.replace(staged("n1"), status=shown)
    shown = msgspec.structs.replace(staged("n2").status, seq=70)
    world["hosts"]["n2"] = msgspec.structs.replace(staged("n2"), status=shown)
    assert decide(world).ledger.add["n0"][0] == 71


def test_a_ledger_that_was_lost_begins_above_the_records() -> None:
    world = kubeos(2, limit=2)
    record = msgspec.json.encode(Record(os="uid-old", seq=40)).decode()
    world["instances"]["n1"] = build.instance("n1", record=record)
    assert {seq for seq, _ in decide(world).ledger.add.values()} == {41, 43}


def test_a_node_that_is_down_goes_first_and_costs_nothing() -> None:
    world = native(3)
    change(world, "n2", ready=False)
    decided = decide(world)
    assert begun(decided) == ["n2"]
    assert reasons(decided) == {"n0": "BudgetFull", "n1": "BudgetFull"}


@pytest.mark.parametrize("make", [native, kubeos])
def test_a_zone_that_blinks_is_not_taken_as_a_whole(make: Any) -> None:
    world = make(6, limit=2)
    for name in world["nodes"]:
        change(world, name, ready=False)
    assert len(begun(decide(world))) == 2


@pytest.mark.parametrize("make", [native, kubeos])
def test_cordoned_nodes_are_not_all_drained_at_once(make: Any) -> None:
    world = make(6, limit=2)
    for name in world["nodes"]:
        change(world, name, cordoned=True)
    assert len(begun(decide(world))) == 2


def test_one_that_leaves_makes_room_in_the_same_pass() -> None:
    world = native(2)
    world["ledger"] = held("group/web", n0=5)
    done = working("n0", 6, "Release")
    world["hosts"]["n0"] = msgspec.structs.replace(done, status=on_v2(done))
    decided = decide(world)
    assert (set(decided.ledger.remove), begun(decided)) == ({"n0"}, ["n1"])


def test_one_that_leaves_while_it_is_down_makes_none() -> None:
    """It is away on its own account from here on."""
    world = native(2)
    world["ledger"] = held("group/web", n0=5)
    lost = working("n0", 6, "Release")
    world["hosts"]["n0"] = msgspec.structs.replace(lost, status=on_v2(lost))
    change(world, "n0", ready=False)
    decided = decide(world)
    assert (set(decided.ledger.remove), begun(decided)) == ({"n0"}, [])


def test_a_ledger_that_is_full_lets_nobody_in() -> None:
    world = kubeos(1)
    world["ledger"] = held("group/web", **dict.fromkeys((f"x{i}" for i in range(MAX_HOLDERS)), 1))
    decided = decide(world, cluster_max_unavailable=9999)
    assert (begun(decided), reasons(decided)) == ([], {"n0": "LedgerFull"})


def test_the_clusters_cap_is_over_all_owners() -> None:
    world = native(3, limit=3)
    more = kubeos(3, limit=3)
    nodes = {
        **world["nodes"],
        **{
            f"k{n}": msgspec.structs.replace(v, metadata=build.node(f"k{n}", labels=v.metadata.labels).metadata)
            for n, v in more["nodes"].items()
        },
    }
    instances = {f"k{n}": build.instance(f"k{n}") for n in more["nodes"]}
    everything = {**world, "nodes": nodes, "instances": instances, "oses": more["oses"]}
    assert len(begun(decide(everything, cluster_max_unavailable=4))) == 4
    assert len(begun(decide(everything, cluster_max_unavailable="34%"))) == 2


@pytest.mark.parametrize("value", ["0%", 0, "many"])
def test_a_cap_of_the_cluster_that_makes_no_sense_is_the_most_careful_one(value: Any) -> None:
    assert len(begun(decide(native(3, limit=3), cluster_max_unavailable=value))) == 1


# --- why not --------------------------------------------------------------------------------------------------------


def test_a_closed_window_holds_new_work_and_staging_goes_on() -> None:
    world = native(2)
    window = Window(start="20:00", duration="1h")
    world["groups"]["web"] = build.group("web", windows=[window])
    world["hosts"]["n1"] = build.host("n1")
    decided = decide(world)
    assert begun(decided) == []
    assert reasons(decided) == {"n0": "WindowClosed", "n1": "AwaitingStaging"}
    assert [type(a) for a in decided.actions] == [SetImage]
    assert decided.restless
    assert begun(decide(world, NOW.replace(hour=20))) == ["n0"]


def test_what_is_under_way_goes_on_outside_the_window() -> None:
    world = native(1)
    world["groups"]["web"] = build.group("web", windows=[Window(start="20:00", duration="1h")])
    world["ledger"] = held("group/web", n0=5)
    world["hosts"]["n0"] = working("n0", 5, "Reserved")
    assert [a.node for a in decide(world).actions] == ["n0", "n0"]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"windows": [Window(start="20:00", duration="9x")]}, "WindowLength"),
        ({"windows": [Window(start="20:00", duration="1h", time_zone="Moon/Sea")]}, "UnknownTimeZone"),
        ({"max_unavailable": 0}, "CountTooSmall"),
        ({"max_unavailable": "lots"}, "CountForm"),
    ],
)
def test_a_group_that_can_never_act_stops_itself_only(fields: dict[str, Any], name: str) -> None:
    world = native(1)
    world["groups"]["web"] = build.group("web", **fields)
    other = kubeos(1)
    world["nodes"]["k0"] = build.node("k0", labels={build.POOL: "pool"})
    world["instances"], world["oses"] = {"k0": build.instance("k0")}, other["oses"]
    decided = decide(world)
    assert begun(decided) == ["k0"]
    assert decided.owners["group/web"].hold is not None
    assert reasons(decided) == {"n0": name}


@pytest.mark.parametrize("limit", [0, -1])
def test_an_os_object_that_can_never_act_is_held(limit: int) -> None:
    decided = decide(kubeos(2, limit=limit))
    assert begun(decided) == []
    assert reasons(decided) == {"n0": "CountTooSmall", "n1": "CountTooSmall"}


def test_too_many_failures_stop_a_rollout() -> None:
    world = native(3, limit=3)
    failed = Grant(
        seq=4, operation="upgrade", digest=build.digest("v2"), stage="Release", rollout="uid-up/1", why="HostLost"
    )
    world["hosts"]["n0"] = staged("n0", grant=msgspec.structs.replace(failed, verdict="HostFault"))
    decided = decide(world)
    assert begun(decided) == []
    assert reasons(decided) == {"n0": "HostLost", "n1": "TooManyFailed", "n2": "TooManyFailed"}
    world["rollouts"]["up"] = build.rollout(failure_threshold=2)
    assert begun(decide(world)) == ["n1", "n2"]


def test_too_many_failures_stop_an_os_object() -> None:
    world = kubeos(3, limit=1)
    record = Record(os="uid-os-pool", generation=1, seq=1, ended=5, why="WrongVersion")
    world["instances"]["n0"] = build.instance("n0", record=msgspec.json.encode(record).decode())
    assert reasons(decide(world)) == {"n0": "WrongVersion", "n1": "TooManyFailed", "n2": "TooManyFailed"}


def test_those_beyond_a_step_know_so() -> None:
    world = native(3, limit=3, rollouts={"up": build.rollout(steps=[Step(nodes=1, soak_seconds=60)])})
    decided = decide(world)
    assert begun(decided) == ["n0"]
    assert reasons(decided) == {"n1": "StepHolds", "n2": "StepHolds"}


def test_a_paused_rollout_begins_and_stages_nothing() -> None:
    world = native(2, rollouts={"up": build.rollout(paused=True)})
    world["hosts"]["n1"] = build.host("n1")
    decided = decide(world)
    assert (begun(decided), decided.actions) == ([], [])
    assert reasons(decided) == {"n0": "RolloutPaused", "n1": "AwaitingStaging"}


def test_only_so_many_stage_at_a_time() -> None:
    world = native(5)
    fresh = msgspec.structs.replace(build.host("x").status, phase="Staging")
    world["hosts"] = {n: build.host(n) for n in world["nodes"]}
    world["hosts"]["n0"] = build.host("n0", image=V2_REF, status=fresh)
    assert [a.node for a in decide(world, max_staging=3).actions] == ["n1", "n2"]


def test_never_and_overlaps_are_told() -> None:
    world = native(3)
    change(world, "n0", labels={NEVER: ""})
    world["groups"]["all"] = build.group("all", selector=LabelSelector(match_labels={"too": "yes"}))
    change(world, "n1", labels={"too": "yes"})
    decided = decide(world)
    assert reasons(decided) == {"n0": "Never", "n1": "Overlap"}
    assert begun(decided) == ["n2"]
    assert [why.name for why in decided.owners["group/web"].conflicts] == ["OverlapWith"]


def test_a_missing_osinstance_blocks_its_own_node_only() -> None:
    world = kubeos(2, limit=2)
    del world["instances"]["n0"]
    decided = decide(world)
    assert [type(a) for a in decided.begin] == [Assign]
    assert begun(decided) == ["n1"]
    assert reasons(decided) == {"n0": "NoOSInstance"}


def test_nothing_to_do_is_restful() -> None:
    world = kubeos(3)
    for name in world["nodes"]:
        world["nodes"][name] = build.node(name, version="v2", labels={build.POOL: "pool"})
    decided = decide(world)
    assert (decided.actions, decided.begin, bool(decided.ledger), decided.restless) == ([], [], False, False)
