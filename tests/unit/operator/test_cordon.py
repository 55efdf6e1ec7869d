"""Exactly the cordon state that was found, whoever writes in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostplane.api.core import Node
from hostplane.errors import ConflictError, NotFoundError
from hostplane.operator.cordon import cordon, restore
from hostplane.planning.cordon import MARK, Mark, cordon_patch, mark_of, restore_patch


class Nodes:
    """One node and the two calls of a Session that write it; `before_patch` lets somebody else write first."""

    def __init__(self, *, cordoned: bool = False, mark: str | None = None) -> None:
        self.body: dict[str, Any] = {
            "metadata": {"name": "n1", "uid": "u1", "resourceVersion": "1", "annotations": {"other": "stays"}},
            "spec": {"unschedulable": cordoned},
        }
        if mark is not None:
            self.body["metadata"]["annotations"][MARK] = mark
        self.before_patch: list[Callable[[], None]] = []
        self.patches = 0

    @property
    def node(self) -> Node:
        return msgspec.convert(self.body, Node)

    @property
    def cordoned(self) -> bool:
        return self.node.spec.unschedulable

    def write(self, cordoned: bool | None = None) -> None:
        """Somebody else's write: a heartbeat, or kubectl cordon and uncordon."""
        metadata = self.body["metadata"]
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
        if cordoned is not None:
            self.body["spec"]["unschedulable"] = cordoned

    async def get(self, resource: Any, name: str) -> Node:
        if not self.body:
            raise NotFoundError("ObjectNotFound", message=name)
        return self.node

    async def patch(self, resource: Any, name: str, patch: dict[str, Any]) -> Node:
        if self.before_patch:
            self.before_patch.pop(0)()
        if not self.body:
            raise NotFoundError("ObjectNotFound", message=name)
        if patch["metadata"]["resourceVersion"] != self.body["metadata"]["resourceVersion"]:
            raise ConflictError("WriteConflict", message=name)
        self.patches += 1
        annotations = self.body["metadata"]["annotations"] | patch["metadata"]["annotations"]
        self.body["metadata"]["annotations"] = {key: value for key, value in annotations.items() if value is not None}
        self.write(patch.get("spec", {}).get("unschedulable"))
        return self.node


def do_cordon(nodes: Nodes, seq: int = 7, seen: Node | None = None) -> Node:
    return asyncio.run(cordon(nodes, seen or nodes.node, seq))  # type: ignore[arg-type]


def do_restore(nodes: Nodes, seq: int | None = None, seen: Node | None = None) -> Node | None:
    return asyncio.run(restore(nodes, seen or nodes.node, seq))  # type: ignore[arg-type]


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("meanwhile", [None, "heartbeat", "uncordon"])
def test_the_state_found_is_the_state_left(before: bool, meanwhile: str | None) -> None:
    nodes = Nodes(cordoned=before)

    do_cordon(nodes)
    assert nodes.cordoned
    assert mark_of(nodes.node) == Mark(7, before)
    if meanwhile:
        nodes.write(False if meanwhile == "uncordon" else None)
    do_restore(nodes)

    assert nodes.cordoned == (before and meanwhile != "uncordon")
    assert nodes.body["metadata"]["annotations"] == {"other": "stays"}


def test_mark_and_cordon_are_one_conditional_patch() -> None:
    patch = cordon_patch(Nodes().node, 7)

    assert patch == {
        "metadata": {"resourceVersion": "1", "annotations": {MARK: '{"seq":7,"was":false}'}},
        "spec": {"unschedulable": True},
    }


@pytest.mark.parametrize(
    ("cordoned", "mark", "expected"),
    [
        # (what the node says, its mark) -> the mark it gets, None if nothing is written
        (False, None, Mark(7, False)),
        (True, None, Mark(7, True)),
        (True, Mark(7, False), None),
        (True, Mark(7, True), None),
        (False, Mark(7, False), Mark(7, False)),  # uncordoned during the grant: again
        (False, Mark(7, True), Mark(7, False)),  # and the cordon that was there before is over
        (True, Mark(3, False), Mark(7, False)),  # left over by an earlier grant: still ours
        (True, Mark(3, True), Mark(7, True)),
        (False, Mark(3, True), Mark(7, False)),
        (True, Mark(9, False), Mark(7, False)),
    ],
)
def test_cordon_table(cordoned: bool, mark: Mark | None, expected: Mark | None) -> None:
    patch = cordon_patch(Nodes(cordoned=cordoned, mark=mark and msgspec.json.encode(mark).decode()).node, 7)

    if expected is None:
        assert patch is None
    else:
        assert patch is not None
        assert msgspec.json.decode(patch["metadata"]["annotations"][MARK], type=Mark) == expected
        assert patch["spec"] == {"unschedulable": True}


@pytest.mark.parametrize(
    ("cordoned", "mark", "seq", "writes", "cordoned_after"),
    [
        (True, None, 7, False, True),  # not ours
        (False, None, 7, False, False),
        (True, Mark(7, False), 7, True, False),
        (True, Mark(7, True), 7, True, True),
        (False, Mark(7, False), 7, True, False),
        (False, Mark(7, True), 7, True, False),
        (True, Mark(3, False), 7, True, False),  # an earlier grant's remains
        (True, Mark(9, False), 7, False, True),  # a later grant's cordon, seen by a leader that was paused
        (True, Mark(9, False), None, True, False),
    ],
)
def test_restore_table(cordoned: bool, mark: Mark | None, seq: int | None, writes: bool, cordoned_after: bool) -> None:
    nodes = Nodes(cordoned=cordoned, mark=mark and msgspec.json.encode(mark).decode())

    do_restore(nodes, seq)

    assert nodes.cordoned is cordoned_after
    assert nodes.patches == int(writes)
    assert (MARK in nodes.body["metadata"]["annotations"]) is (mark is not None and not writes)


@pytest.mark.parametrize("mark", ["", "no", "{}", '{"seq":"x","was":0}', "[" * 100_000, '{"seq":7}'])
def test_a_mark_that_cannot_be_read_lifts_no_cordon(mark: str) -> None:
    nodes = Nodes(cordoned=True, mark=mark)

    do_restore(nodes, 7)

    assert nodes.cordoned
    assert MARK not in nodes.body["metadata"]["annotations"]


def test_a_stale_copy_is_never_written_on() -> None:
    nodes = Nodes()
    seen = nodes.node
    nodes.write(True)  # an administrator cordons after we looked

    do_cordon(nodes, seen=seen)
    do_restore(nodes)

    assert nodes.cordoned


def test_conflicts_are_read_again_and_bounded() -> None:
    nodes = Nodes()
    nodes.before_patch = [nodes.write] * 3
    do_cordon(nodes)
    assert nodes.patches == 1

    nodes.before_patch = [nodes.write] * 1000
    with pytest.raises(ConflictError):
        do_restore(nodes)
    assert len(nodes.before_patch) > 900


def test_repeating_changes_nothing() -> None:
    nodes = Nodes()

    do_cordon(nodes)
    do_cordon(nodes)
    assert nodes.patches == 1
    do_restore(nodes)
    do_restore(nodes)
    assert nodes.patches == 2


def test_a_node_that_is_gone_has_nothing_to_restore() -> None:
    nodes = Nodes(cordoned=True, mark='{"seq":7,"was":false}')
    seen = nodes.node
    nodes.body = {}

    assert do_restore(nodes, seen=seen) is None
    with pytest.raises(NotFoundError):
        do_cordon(nodes, 8, seen=seen)


def test_a_node_of_the_same_name_but_another_uid_is_left_alone() -> None:
    nodes = Nodes()
    seen = nodes.node
    nodes.write()
    nodes.body["metadata"]["uid"] = "u2"

    with pytest.raises(NotFoundError, match="HP-4520"):
        do_cordon(nodes, seen=seen)
    assert not nodes.cordoned


steps = st.lists(st.sampled_from(["heartbeat", "cordon", "uncordon", "ours", "again", "crash"]), max_size=6)


@given(st.booleans(), steps)
def test_whatever_happens_between_the_last_wish_of_the_administrator_holds(before: bool, between: list[str]) -> None:
    nodes = Nodes(cordoned=before)
    wish = before
    do_cordon(nodes, 7)
    for step in between:
        if step in ("ours", "again", "crash"):
            do_cordon(nodes, 8 if step == "crash" else 7)
        elif step == "heartbeat":
            nodes.write()
        elif step == "uncordon" and nodes.cordoned:
            nodes.write(False)
            wish = False
        elif step == "cordon" and not nodes.cordoned:  # a mark is there: taken for ours, as the module says
            nodes.write(True)
            wish = wish or json.loads(nodes.body["metadata"]["annotations"][MARK])["was"]
    do_restore(nodes)

    assert nodes.cordoned is wish
    assert restore_patch(nodes.node) is None
