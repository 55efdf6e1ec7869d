"""Bursts pass, the long run keeps the rate, failures space out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hostplane.kube.pace import Backoff, TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_waits_for_nothing_and_then_the_rate_counts() -> None:
    bucket = TokenBucket(10, 3, Clock())
    assert [bucket.reserve() for _ in range(5)] == [0, 0, 0, 0.1, 0.2]


def test_rest_fills_the_bucket_but_not_over_its_burst() -> None:
    clock = Clock()
    bucket = TokenBucket(10, 3, clock)
    for _ in range(3):
        bucket.reserve()
    clock.now += 1000
    assert [bucket.reserve() for _ in range(4)] == [0, 0, 0, 0.1]


@given(gaps=st.lists(st.floats(0, 2), min_size=1, max_size=200))
def test_never_more_than_burst_and_rate_allow(gaps: list[float]) -> None:
    clock = Clock()
    bucket = TokenBucket(5, 4, clock)
    granted = []
    for gap in gaps:
        clock.now += gap
        granted.append(clock.now + bucket.reserve())
    granted.sort()
    for first, start in enumerate(granted):
        for last in range(first, len(granted)):
            assert last - first + 1 <= 4 + 5 * (granted[last] - start) + 1 + 1e-6


def test_backoff_doubles_up_to_its_limit_and_starts_again() -> None:
    backoff = Backoff(1, 5, chance=lambda: 0.0)
    assert [backoff.wait() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.reset()
    assert backoff.wait() == 1


def test_backoff_never_undercuts_what_the_server_asked_for() -> None:
    assert Backoff(1, 5, chance=lambda: 1.0).wait(7) == 7
    assert Backoff(2, 5, chance=lambda: 1.0).wait() == 1
