"""Taking a change back out of a file that has moved on: all of it, or nothing and a refusal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostplane.agent.settings.patch import take_back

BEFORE = "a\nb\nc\nd\n"


@pytest.mark.parametrize(
    ("after", "now", "result"),
    [
        ("a\nB\nc\nd\n", "a\nB\nc\nd\n", BEFORE),
        ("a\nB\nc\nd\n", "a\nB\nc\nd\ne\n", BEFORE + "e\n"),
        ("a\nB\nc\nd\n", "0\na\nB\nc\nd\n", "0\n" + BEFORE),
        ("a\nB\nc\nd\n", "a\nX\nc\nd\n", None),
        ("a\nc\nd\n", "a\nc\nd\ne\n", BEFORE + "e\n"),
        ("a\nc\nd\n", "a\nx\nc\nd\n", None),
        ("a\nb\nc\nd\ne\n", "a\nb\nc\nd\ne\nf\n", BEFORE + "f\n"),
        ("a\nb\nc\nd\ne\n", "a\nb\nc\nd\n", None),
        ("A\nb\nc\nD\n", "A\nb\nx\nc\nD\n", "a\nb\nx\nc\nd\n"),
        ("", "", BEFORE),
    ],
)
def test_take_back(after: str, now: str, result: str | None) -> None:
    assert take_back(now, after, BEFORE) == result


_TEXT = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=8).map(lambda lines: "".join(f"{x}\n" for x in lines))


@settings(deadline=None, max_examples=200)
@given(_TEXT, _TEXT, st.lists(st.sampled_from(["x\n", "y\n"]), max_size=2))
def test_what_others_wrote_at_the_ends_stays(before: str, after: str, more: list[str]) -> None:
    head, tail = "".join(more), "".join(reversed(more))
    assert take_back(after, after, before) == before
    # Lines put in at the very beginning or end have no neighbour there: that is refused, never guessed.
    found = take_back(head + after + tail, after, before)
    assert found in (None, head + before + tail)
