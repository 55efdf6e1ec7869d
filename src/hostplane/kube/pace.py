"""How fast and how soon again: a token bucket for requests and a back-off with jitter for failures.

Both take their clock and randomness as parameters, so that tests need no waiting.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

__all__ = ["Backoff", "TokenBucket"]


class TokenBucket:
    """`rate` tokens a second, `burst` at most; takers are served in order of arrival."""

    def __init__(
        self,
        rate: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate, self._burst, self._clock, self._sleep = rate, burst, clock, sleep
        self._tokens = float(burst)
        self._at = clock()

    def reserve(self) -> float:
        """Take a token, on credit if need be; returns the seconds to wait before acting on it."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._rate)

    async def take(self) -> None:
        """Wait until a token is there. A cancelled waiter has still spent its token."""
        if (wait := self.reserve()) > 0:
            await self._sleep(wait)


class Backoff:
    """Waits that double from `first` to `most` seconds, each shortened by up to half at random."""

    def __init__(self, first: float = 0.2, most: float = 30.0, chance: Callable[[], float] = random.random) -> None:
        self._first, self._most, self._chance = first, most, chance
        self._next = first

    def wait(self, at_least: float | None = None) -> float:
        """The seconds to wait this time, never less than what the server asked for."""
        wait = self._next * (1 - self._chance() / 2)
        self._next = min(self._most, self._next * 2)
        return max(wait, at_least or 0.0)

    def reset(self) -> None:
        """Start again from `first`: something worked."""
        self._next = self._first
