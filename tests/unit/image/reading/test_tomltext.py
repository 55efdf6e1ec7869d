"""What is written is read back as it was."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hostplane.image.reading.tomltext import document

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PLAIN = st.one_of(st.booleans(), st.integers(-(1 << 40), 1 << 40), TEXT)
TREE: Any = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(PLAIN, max_size=30),
        st.dictionaries(TEXT, inner, max_size=3),
        st.lists(st.dictionaries(TEXT, inner, max_size=2), min_size=1, max_size=3),
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(TEXT, TREE, max_size=4))
def test_a_document_is_read_back_as_it_was(table: dict[str, Any]) -> None:
    assert tomllib.loads(document(table, ["a comment", "of two\nlines"])) == table
