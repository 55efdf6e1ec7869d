"""How fast a staging may use the disk, how far it is, and whether anybody still wants it: asked at every step.

The rate counts bytes read and written alike. For the length of a staging the thread is in the kernel's idle class of
I/O, so that it uses what others leave; where the kernel or the scheduler knows no such thing, it changes nothing.
"""

import os
import threading
import time
from typing import Callable, NamedTuple, Optional

from hostplane.agent.fetch import Cancelled

from .plan import Plan

__all__ = ["IdleDisk", "Pace", "Progress"]

_REPORT_SECONDS = 0.5
_BURST_SECONDS = 0.25
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_WHO_PROCESS, _CLASS_SHIFT, _CLASS_NONE, _CLASS_IDLE = 1, 13, 0, 3


class Progress(NamedTuple):
    """How far a staging is: bytes of all its passes. `bytes_per_second` is over its whole run; 0 seconds: unknown."""

    bytes: int
    total: int
    bytes_per_second: int
    eta_seconds: int = 0
    plan: Optional[Plan] = None


class Pace(object):
    """One staging's clock. `report` hears of progress about twice a second."""

    def __init__(
        self,
        bytes_per_second: int = 0,
        cancelled: Optional[threading.Event] = None,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._rate, self._report = bytes_per_second, report
        self._cancelled = cancelled or threading.Event()
        self._began = self._due = time.monotonic()
        self._reported = 0.0
        self._done = self._total = 0

    def expect(self, size: int) -> None:
        """`size` bytes more are going to be read or written."""
        self._total += size

    def step(self, size: int) -> None:
        """`size` bytes are read or written now; waits as the rate demands. Raises Cancelled."""
        now = time.monotonic()
        if self._rate:
            self._due = max(self._due, now - _BURST_SECONDS) + size / self._rate
            if self._due > now:
                self._cancelled.wait(self._due - now)
        if self._cancelled.is_set():
            raise Cancelled()
        self._done += size
        if now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            self._report(self._progress(now))

    def _progress(self, now: float) -> Progress:
        speed = self._done / max(0.001, now - self._began)
        left = max(0, self._total - self._done)
        return Progress(min(self._done, self._total), self._total, int(speed), int(left / speed) + 1 if speed else 0)


class IdleDisk(object):
    """As a context: this thread's reads and writes give way to everybody else's."""

    def __init__(self, wanted: bool = True) -> None:
        self._wanted = wanted

    def __enter__(self) -> None:
        if self._wanted:
            _set_class(_CLASS_IDLE)

    def __exit__(self, *_: object) -> None:
        if self._wanted:
            _set_class(_CLASS_NONE)


def _set_class(kind: int) -> None:
    """Only a courtesy: whatever refuses it is passed over."""
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is None:
        return
    try:
        import ctypes

        ctypes.CDLL(None).syscall(number, _WHO_PROCESS, 0, kind << _CLASS_SHIFT)
    except (ImportError, OSError, AttributeError):
        return
