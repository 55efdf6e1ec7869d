"""Nodes that we once took and that no wish covers any more are seen to their end, and counted until then."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hostplane.api.kubeos import UPGRADING
from hostplane.planning.actions import DeleteHost, DeleteInstance, EndOperation, Reclaim, SetGrant, Uncordon
from hostplane.planning.kubeos import Record
from hostplane.planning.snapshot import NEVER

from . import build
from .clusters import SECONDS, begun, change, decide, held, kubeos, native, reasons, staged, working


def leave(world: dict[str, Any], name: str) -> None:
    change(world, name, labels={"pool": None, build.POOL: "elsewhere"})


def test_a_host_that_left_its_group_still_counts_against_it() -> None:
    world = native(2)
    world["ledger"] = held("group/web", n0=5)
    world["hosts"]["n0"] = working("n0", 5)
    leave(world, "n0")
    decided = decide(world)
    assert (begun(decided), reasons(decided)["n1"]) == ([], "BudgetFull")
    assert decided.owners["group/web"].away == 1
    assert "n0" not in decided.ledger.remove


def test_it_is_seen_to_its_end() -> None:
    world = native(1)
    world["ledger"] = held("group/web", n0=5)
    leave(world, "n0")
    world["hosts"]["n0"] = working("n0", 5, "Reserved")
    (release,) = decide(world).actions
    assert isinstance(release, SetGrant)
    assert release.grant.why == "WishChanged"
    world["hosts"]["n0"] = working("n0", 6, "Release")
    assert decide(world).ledger.remove == {"n0"}


def test_one_that_left_its_group_and_the_ledger_lost_is_found() -> None:
    world = native(1)
    leave(world, "n0")
    world["hosts"]["n0"] = working("n0", 5)
    assert decide(world).ledger.add["n0"][0] == 5


def test_a_cordon_of_ours_on_a_node_that_nobody_manages_is_lifted() -> None:
    world = native(1)
    change(
        world, "n0", labels={"pool": None}, cordoned=True, annotations={"hostplane.dev/cordon": '{"seq":5,"was":false}'}
    )
    assert [type(a) for a in decide(world).actions] == [Uncordon]


def test_a_kubeos_node_that_left_its_pool_is_seen_to_its_end() -> None:
    """Its proxy goes on whatever the selector says, so the deadline still matters."""
    world = kubeos(2)
    record = Record(os="uid-os-pool", generation=1, seq=5, boot="boot-1", at=SECONDS - 9000)
    busy = build.instance("n0", status="upgrade", owner="default/pool", record=msgspec.json.encode(record).decode())
    world["instances"]["n0"] = busy
    world["ledger"] = held("os/default/pool", n0=5)
    change(world, "n0", labels={build.POOL: "elsewhere", UPGRADING: ""})
    decided = decide(world)
    assert [type(a) for a in decided.actions] == [EndOperation]
    assert begun(decided) == []


def test_a_node_that_changes_its_driver_in_the_middle_waits_for_the_first_one() -> None:
    world = kubeos(1)
    world["hosts"] = {"n0": working("n0", 5)}
    world["ledger"] = held("group/web", n0=5)
    decided = decide(world)
    assert begun(decided) == []
    assert reasons(decided) == {"n0": "OwnedByOther"}
    assert not decided.ledger.remove
    back = native(1)
    record = Record(os="uid-os-pool", seq=5, at=SECONDS)
    busy = build.instance("n0", status="upgrade", owner="default/pool", record=msgspec.json.encode(record).decode())
    back |= {"instances": {"n0": busy}, "oses": {"default/pool": build.os_object()}}
    back["ledger"] = held("os/default/pool", n0=5)
    decided = decide(back)
    assert (begun(decided), set(decided.ledger.remove)) == ([], set())
    assert reasons(decided) == {"n0": "OwnedByOther"}


def test_what_never_says_no_to_counts_until_it_is_over() -> None:
    world = native(2)
    world["ledger"] = held("group/web", n0=5)
    world["hosts"]["n0"] = working("n0", 5, "Reserved")
    change(world, "n0", labels={NEVER: ""})
    decided = decide(world)
    assert (decided.actions, set(decided.ledger.remove), begun(decided)) == ([], set(), [])
    world["hosts"]["n0"] = working("n0", 6, "Release")
    assert decide(world).ledger.remove == {"n0"}


def test_nodes_of_a_deleted_os_object_are_given_back() -> None:
    world = kubeos(1, oses={})
    record = Record(os="uid-os-pool", seq=5, schedulable=True)
    busy = build.instance("n0", status="upgrade", owner="default/pool", record=msgspec.json.encode(record).decode())
    world["instances"]["n0"] = busy
    change(world, "n0", labels={UPGRADING: ""}, cordoned=True)
    (back,) = decide(world).actions
    assert isinstance(back, Reclaim)
    assert (back.reason.name, back.uncordon) == ("OwnerDeleted", True)
    change(world, "n0", labels={NEVER: ""})
    assert decide(world).actions == []


@pytest.mark.parametrize(
    ("age", "leaves", "deleted"),
    [(5, False, []), (10, False, [DeleteInstance, DeleteHost]), (300, True, [DeleteInstance, DeleteHost])],
)
def test_deleted_nodes_are_forgotten_after_a_while(age: int, leaves: bool, deleted: list[type]) -> None:
    world = kubeos(1, nodes={}, hosts={"n0": staged("n0")}, gone={"n0": float(SECONDS - age)})
    world["ledger"] = held("os/default/pool", n0=5)
    decided = decide(world)
    assert ("n0" in decided.ledger.remove) is leaves
    assert [type(a) for a in decided.actions] == deleted
    assert decided.restless


def test_a_deleted_node_counts_until_it_is_forgotten() -> None:
    world = kubeos(2, gone={"n0": float(SECONDS - 60)})
    del world["nodes"]["n0"]
    world["ledger"] = held("os/default/pool", n0=5)
    assert begun(decide(world)) == []
    world["gone"] = {"n0": float(SECONDS - 301)}
    decided = decide(world)
    assert set(decided.ledger.remove) == {"n0"}
