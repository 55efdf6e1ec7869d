"""Versions stand in one order, whoever wrote them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostplane.agent.bundle.versions import compare, is_below

ORDER = ["", "1~", "1~rc1", "1", "1.a", "1.0", "1.2~rc1", "1.2~rc2", "1.2", "1.2.1", "1.2.10", "1.10", "2", "2026.1"]
VERSIONS = st.text("0129ab.~+-", max_size=8)


@pytest.mark.parametrize("at", range(len(ORDER) - 1))
def test_each_is_below_the_next(at: int) -> None:
    assert is_below(ORDER[at], ORDER[at + 1])
    assert not is_below(ORDER[at + 1], ORDER[at])


@pytest.mark.parametrize(("one", "two"), [("1.2", "1-2"), ("1.02", "1.2"), ("v1", "v.1"), ("1.2", "1.2.")])
def test_separators_and_zeros_decide_nothing(one: str, two: str) -> None:
    assert compare(one, two) == 0


@given(VERSIONS, VERSIONS, VERSIONS)
def test_it_is_an_order(one: str, two: str, three: str) -> None:
    assert compare(one, two) == -compare(two, one)
    if compare(one, two) <= 0 and compare(two, three) <= 0:
        assert compare(one, three) <= 0
