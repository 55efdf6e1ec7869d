"""The proxy's one Host as last seen, and a way to wait until it differs. It asks nobody; the informer tells it."""

from __future__ import annotations

import asyncio

from hostplane.api.host import Host, HostSpec

__all__ = ["HostView", "Signal", "Wish"]

Wish = tuple[str, HostSpec] | None
"""Uid and spec: all of a Host that can call for action. None: there is no Host."""


class Signal:
    """Wakes whoever waits now; nothing is remembered, so look first and wait after, without an await in between."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        """Wake all who wait."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float | None = None) -> None:
        """Until the next `fire`, at most `seconds`."""
        event = self._event
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return


class HostView:
    """The Host of this node; `changed` fires with every difference, the status included."""

    def __init__(self) -> None:
        self.host: Host | None = None
        self.changed = Signal()

    def see(self, new: Host | None) -> None:
        """The Host is `new` now; None: there is none."""
        self.host = new
        self.changed.fire()

    @property
    def wish(self) -> Wish:
        """What the Host asks for now."""
        return (self.host.metadata.uid, self.host.spec) if self.host else None

    async def other_wish(self, known: Wish, seconds: float | None = None) -> bool:
        """Wait until the wish differs from `known`, at most `seconds`; whether it does."""
        try:
            async with asyncio.timeout(seconds):
                while self.wish == known:
                    await self.changed.wait()
        except TimeoutError:
            return False
        return True
