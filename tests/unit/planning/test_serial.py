"""KubeOS's serial mode: a batch of maxunavailable nodes gets the label, and one after the other is worked on."""

from __future__ import annotations

from datetime import UTC, datetime

from hostplane.api.kubeos import SERIAL
from hostplane.planning.actions import Assign, LabelNode
from hostplane.planning.plan import plan
from hostplane.planning.serial import serial
from hostplane.planning.snapshot import Options, Snapshot
from hostplane.planning.standing import Stand, Standing

from . import build


def stands(**of: Stand) -> list[Standing]:
    return [Standing(name, stand) for name, stand in of.items()]


def names(found: tuple[list[Standing], list[LabelNode]]) -> tuple[list[str], dict[str, str | None]]:
    return [s.node for s in found[0]], {label.node: label.labels[SERIAL] for label in found[1]}


READY, WORKING, DONE, FAILED = Stand.READY, Stand.WORKING, Stand.DONE, Stand.FAILED


def test_a_batch_is_labelled_before_its_first_node_begins() -> None:
    begin, labels = names(serial(stands(a=READY, b=READY, c=READY), [], 2, False))
    assert (begin, labels) == ([], {"a": "", "b": ""})
    begin, labels = names(serial(stands(a=READY, b=READY, c=READY), ["a", "b"], 2, False))
    assert (begin, labels) == (["a"], {})


def test_nobody_begins_while_one_works() -> None:
    assert serial(stands(a=WORKING, b=READY, c=READY), ["a", "b"], 2, False) == ([], [])


def test_the_next_is_of_the_same_batch() -> None:
    begin, labels = names(serial(stands(a=DONE, b=READY, c=READY), ["a", "b"], 2, False))
    assert (begin, labels) == (["b"], {})


def test_a_batch_is_filled_up() -> None:
    begin, labels = names(serial(stands(a=READY, b=READY, c=READY), ["b"], 2, False))
    assert (begin, labels) == (["b"], {"a": ""})


def test_a_finished_batch_is_dissolved_before_the_next_one_is_labelled() -> None:
    begin, labels = names(serial(stands(a=DONE, b=FAILED, c=READY, d=READY), ["a", "b"], 2, False))
    assert (begin, labels) == ([], {"a": None, "b": None})


def test_in_the_end_no_label_is_left() -> None:
    begin, labels = names(serial(stands(a=DONE, b=DONE), ["a", "b"], 2, False))
    assert (begin, labels) == ([], {"a": None, "b": None})


def test_nothing_is_prepared_while_nobody_may_begin() -> None:
    assert serial(stands(a=READY, b=READY), [], 2, True) == ([], [])


def test_those_whose_turn_it_is_not_know_so() -> None:
    nodes = {n: build.node(n, labels={build.POOL: "pool"}) for n in ("a", "b", "c")}
    nodes |= {n: build.with_labels(nodes[n], **{SERIAL: ""}) for n in ("a", "b")}
    snapshot = Snapshot(
        nodes=nodes,
        instances={n: build.instance(n) for n in nodes},
        oses={"default/pool": build.os_object(executionmode="serial", maxunavailable=2)},
    )
    decided = plan(snapshot, datetime(2026, 3, 1, tzinfo=UTC), UTC, Options())
    assert [a.node for a in decided.begin if isinstance(a, Assign)] == ["a"]
    assert {n: why.name for n, why in decided.reasons.items()} == {"b": "SerialTurn", "c": "SerialTurn"}


def test_a_full_batch_does_not_make_nodes_wait_that_are_away_already() -> None:
    """One down node uses the budget of one up; the node that is down may go."""
    nodes = {
        "a": build.node("a", labels={build.POOL: "pool"}),
        "b": build.node("b", labels={build.POOL: "pool", SERIAL: ""}, ready=False),
    }
    snapshot = Snapshot(
        nodes=nodes,
        instances={n: build.instance(n) for n in nodes},
        oses={"default/pool": build.os_object(executionmode="serial", maxunavailable=1)},
    )
    decided = plan(snapshot, datetime(2026, 3, 1, tzinfo=UTC), UTC, Options())
    assert [a.node for a in decided.begin] == ["b"]
