"""Keys are the same for the same inputs, and what differs can be told."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from hostplane.image.building.keys import Made, before, canonical, changes, key_of, why
from hostplane.image.recipe import StageName

MADE = Made(
    stage=StageName.FILES,
    code="c" * 64,
    inputs={"hostname": "a", "file": [{"path": "/etc/motd", "content": "1" * 64}], "sysctl": {"x": 1}},
    before={"packages": "p" * 64},
)


def test_a_key_does_not_depend_on_the_order_of_names() -> None:
    turned = replace(MADE, inputs=dict(reversed(MADE.inputs.items())))
    assert key_of(turned) == key_of(MADE)
    assert canonical({"b": 1, "a": [1, {"d": 2, "c": 3}]}) == b'{"a":[1,{"c":3,"d":2}],"b":1}'


@pytest.mark.parametrize(
    "other",
    [
        replace(MADE, stage=StageName.SLIM),
        replace(MADE, code="d" * 64),
        replace(MADE, inputs={**MADE.inputs, "hostname": "b"}),
        replace(MADE, inputs={**MADE.inputs, "hostname": None}),
        replace(MADE, before={"packages": "q" * 64}),
    ],
)
def test_a_key_depends_on_everything_that_decides_the_result(other: Made) -> None:
    assert key_of(other) != key_of(MADE)


def test_the_reason_is_the_name_of_the_input_that_changed() -> None:
    now = replace(MADE, inputs={**MADE.inputs, "file": [{"path": "/etc/motd", "content": "2" * 64}]})
    assert why(MADE, now) == ["file[/etc/motd].content: 111111111111 -> 222222222222"]


def test_the_reason_says_what_came_and_what_went() -> None:
    assert list(changes({"include": ["a", "b"]}, {"include": ["b", "c", "d"]})) == ["include: -a, +c, +d"]
    assert list(changes({"a": None}, {"a": {"b": 1}})) == ['a: nothing -> {"b":1}']
    assert list(changes({"n": list(range(9))}, {"n": list(range(20, 40))})) == ["n: 9 -> 20 entries"]


def test_no_reason_is_found_where_nothing_changed() -> None:
    assert why(MADE, MADE) == []
    assert why(None, MADE) == ["never built"]


def test_the_reason_names_a_stage_before_and_the_program() -> None:
    now = replace(MADE, code="d" * 64, before={"packages": "q" * 64})
    assert why(MADE, now) == ["packages changed", "the stage's program changed"]


def test_boot_builds_on_packages_alone_unless_its_root_is_kept() -> None:
    assert before(StageName.BOOT, boot_in_tree=False) == (StageName.PACKAGES,)
    assert before(StageName.BOOT, boot_in_tree=True) == (StageName.SCRIPTS,)
    assert before(StageName.SLIM, boot_in_tree=False) == (StageName.SCRIPTS,)
    assert before(StageName.SLIM, boot_in_tree=True) == (StageName.BOOT,)
    assert before(StageName.SEAL, boot_in_tree=False) == (StageName.BOOT, StageName.SLIM)
    assert before(StageName.BOOTSTRAP, boot_in_tree=False) == ()


def test_every_stage_but_the_first_builds_on_an_earlier_one() -> None:
    order = list(StageName)
    for stage in order[1:]:
        for name in before(stage, boot_in_tree=False):
            assert order.index(name) < order.index(stage)
