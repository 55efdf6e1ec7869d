"""How long, how fast, how often: what every download keeps to, wherever its bytes come from.

Nothing here knows a protocol. A wait is always one that a cancellation ends.
"""

import random
import threading
import time
from typing import NamedTuple, Optional

from hostplane.errors import HostError

__all__ = ["Cancelled", "DroppedError", "Limits", "MissingError", "Pace"]

_LONGEST_WAIT = 60.0
_BURST_SECONDS = 1.0


class Limits(NamedTuple):
    """How long and how fast."""

    stall_seconds: float = 30.0
    attempts: int = 5
    bytes_per_second: int = 0
    least_bytes_per_second: int = 0
    least_over_seconds: float = 300.0
    back_off_seconds: float = 1.0


class Cancelled(Exception):
    """The caller wants no more of it."""


class DroppedError(Exception):
    """It ended before it was whole, and asking again is worth a try; `retry_after` in seconds where the server says."""

    retry_after = 0.0  # type: float


class MissingError(HostError):
    """The server says for certain that it does not have it."""


class Pace(object):
    """One staging's clock: counts what came over the network, holds the rate and ends every wait on a cancellation."""

    def __init__(self, limits: Limits, cancelled: threading.Event) -> None:
        self.limits = limits
        self.cancelled = cancelled
        self.received = 0
        self._due = 0.0
        self._waited, self._came = 0.0, 0

    def check(self) -> None:
        """Raises Cancelled when nobody wants the rest."""
        if self.cancelled.is_set():
            raise Cancelled()

    def took(self, count: int) -> None:
        """`count` bytes came; waits until the rate allows the next ones. Raises Cancelled."""
        self.received += count
        rate = self.limits.bytes_per_second
        if rate:
            now = time.monotonic()
            self._due = max(self._due, now - _BURST_SECONDS) + count / rate
            if self._due > now and self.cancelled.wait(self._due - now):
                raise Cancelled()

    def waited(self, seconds: float, count: int = 0, url: str = "") -> None:
        """`count` bytes came after `seconds` of waiting; a server that drips for ever is no server.

        Raises:
            HostError: PayloadTooSlow at the end of a span of time in which too few came; the next span begins then.
        """
        self._waited, self._came = self._waited + seconds, self._came + count
        if url and self._waited >= self.limits.least_over_seconds:
            rate, span, least = self._came / self._waited, self._waited, self.limits.least_bytes_per_second
            self._waited, self._came = 0.0, 0
            if rate < least:
                raise HostError("PayloadTooSlow", url=url, rate=int(rate), seconds=int(span), least=least)

    def back_off(self, failures: int, retry_after: Optional[float] = None) -> None:
        """Wait before the attempt after `failures` ones: 1, 2, 4... s, or what the server asks, a minute at most.

        A part of it is left to chance, so that a thousand hosts that were refused together do not come back together.
        """
        wait = min(30.0, self.limits.back_off_seconds * 2 ** (failures - 1)) * (0.5 + random.random() / 2)
        wait = min(_LONGEST_WAIT, max(wait, retry_after or 0.0))
        if self.cancelled.wait(wait):
            raise Cancelled()
        if failures == 1:  # more in a row are bounded by their number; a server with a byte each time is not
            self.waited(wait)
