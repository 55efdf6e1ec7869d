"""Ways to spoil what is right, and the one seed all campaigns start from.

A campaign is run twice: a hundred examples in every test run, and thousands under `make test-long`, for some
minutes in all (HOSTPLANE_FUZZ_EXAMPLES sets another number, HOSTPLANE_FUZZ_SEED another seed). Nothing is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from hostplane.errors import HostError

SEED = int(os.environ.get("HOSTPLANE_FUZZ_SEED", "20261123"))
QUICK = 150
LONG = int(os.environ.get("HOSTPLANE_FUZZ_EXAMPLES", "8000"))

Test = Callable[..., None]


def campaign(*strategies: st.SearchStrategy[Any], cost: int = 1) -> Callable[[Test], Test]:
    """The test as two: a quick one, and a long-marked one; an example that costs more is tried less often."""

    def wrap(test: Test) -> Test:
        def run(examples: int) -> None:
            options = settings(
                max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck)
            )
            seed(SEED)(options(given(*strategies)(test)))()

        @pytest.mark.parametrize(
            "examples", [QUICK // cost, pytest.param(LONG // cost, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
        )
        def both(examples: int) -> None:
            run(examples)

        both.__name__, both.__doc__ = test.__name__, test.__doc__
        return both

    return wrap


def refusal(act: Callable[[], Any]) -> str:
    """The name of the one HostError it ended with, empty when it ended well; any other exception fails the test."""
    name = ""
    try:
        act()
    except HostError as fault:
        name, words = fault.name, str(fault)
        if not words or "\n" in words:
            raise AssertionError(f"not one sentence: {words!r}") from fault
    return name


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 1 << 31, 1 << 53, 1 << 63, 1 << 64, 10**30]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["", "..", "/", "../../etc/passwd", "\x00", "\ud800", "sha256:" + "0" * 64, "1.0", "9.0", "é" * 300]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)


@st.composite
def spoiled_value(draw: st.DrawFn, value: Any) -> Any:
    """`value` with one to three of its parts replaced, removed, doubled or added to."""
    for _ in range(draw(st.integers(1, 3))):
        value = _spoil(draw, value)
    return value


def _spoil(draw: st.DrawFn, value: Any) -> Any:
    kind = draw(st.integers(0, 9))
    if isinstance(value, dict) and value and kind > 1:
        key = draw(st.sampled_from(sorted(value)))
        rest = {name: part for name, part in value.items() if name != key}
        if kind == 2:
            return rest
        if kind == 3:
            return {**value, draw(st.text(max_size=8)): draw(values)}
        return {**value, key: _spoil(draw, value[key])}
    if isinstance(value, list) and value and kind > 1:
        at = draw(st.integers(0, len(value) - 1))
        if kind == 2:
            return value[:at] + value[at + 1 :]
        if kind == 3:
            return value + [value[at]] * draw(st.integers(1, 60))
        return [*value[:at], _spoil(draw, value[at]), *value[at + 1 :]]
    return draw(values)


@st.composite
def spoiled_bytes(draw: st.DrawFn, raw: bytes) -> bytes:
    """`raw` with bytes changed, cut out, doubled or put in."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            raw = raw[:at] + bytes([draw(st.integers(0, 255))]) + raw[at + 1 :]
        elif kind == 1:
            raw = raw[:at]
        elif kind == 2:
            raw = raw[:at] + draw(st.binary(max_size=12)) + raw[at:]
        elif kind == 3:
            size = draw(st.sampled_from([1, 2, 4, 8]))
            number = draw(st.sampled_from([0, 1, 2, (1 << (8 * size - 1)) - 1, (1 << (8 * size)) - 1]))
            raw = raw[:at] + number.to_bytes(size, "big") + raw[at + size :]
        else:
            end = draw(st.integers(at, len(raw)))
            raw = raw[:at] + raw[end:] + raw[at:end]
    return raw


def spoiled_json(*documents: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Documents spoiled as values, and their text spoiled as bytes; sometimes nothing of either kind."""

    def text(value: Any) -> bytes:
        return json.dumps(value).encode("utf-8", "surrogatepass")

    whole = st.sampled_from(documents)
    as_values = whole.flatmap(spoiled_value).map(text)
    as_bytes = whole.map(text).flatmap(spoiled_bytes)
    return st.one_of(as_values, as_values, as_bytes, values.map(text), st.binary(max_size=64))
