"""Copies tell where new bytes come from; they are disjoint, ascending and inside of both sides."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from hostplane.image.bundle.matching import copies, difference

OLD = random.Random(3).randbytes(200_000)


def covered(new: bytes, old: bytes) -> int:
    done = total = 0
    for one in copies(new, old):
        assert one.at >= done
        assert one.length > 0
        assert one.at + one.length <= len(new)
        assert 0 <= one.source <= one.source + one.length <= len(old)
        done = one.at + one.length
        total += one.length
    return total


def test_what_only_moved_is_found_whole() -> None:
    assert covered(OLD, OLD) == len(OLD)
    assert covered(b"put in front" * 9 + OLD[:90_000] + b"and between" * 50 + OLD[90_000:], OLD) >= len(OLD) - 64


def test_a_copy_goes_on_over_bytes_that_changed() -> None:
    new = bytearray(OLD)
    for at in range(100, len(new), 97):
        new[at] ^= 0x55
    found = list(copies(bytes(new), OLD))
    assert sum(one.length for one in found) > 0.95 * len(OLD)
    assert len(found) < 20
    wrong = sum(bytes(difference(new[a : a + n], OLD[s : s + n])).count(0) for a, s, n in found)
    assert wrong > 0.9 * len(OLD)


def test_nothing_is_found_where_nothing_is_alike() -> None:
    assert covered(random.Random(4).randbytes(100_000), OLD) == 0
    assert covered(b"", OLD) == covered(OLD, b"") == 0


pieces = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 400)), max_size=8)


@given(pieces, st.randoms(use_true_random=False))
def test_copies_stay_inside_whatever_the_two_sides_are(cuts: list[tuple[int, int]], chance: random.Random) -> None:
    old = OLD[:3400]
    covered(b"".join(old[at : at + size] + chance.randbytes(size // 9) for at, size in cuts), old)
