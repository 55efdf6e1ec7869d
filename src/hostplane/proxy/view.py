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
    """The Host of this node; `changed` fires with every difference, the status included.

    It hears of the Host twice: from the watch, which is in order and always right in the end, and from the answers to
    our own writes, which come out of order with it. So an answer counts only while the watch has not said more.
    """

    def __init__(self) -> None:
        self.host: Host | None = None
        self.changed = Signal()

    def see(self, new: Host | None) -> None:
        """The watch says that the Host is `new`; None: that there is none."""
        self.host = new
        self.changed.fire()

    def answered(self, new: Host) -> None:
        """A write of ours was answered with `new`; the watch will say the same, or has said more."""
        known = self.host
        if known is not None and known.metadata.uid == new.metadata.uid and _version(new) > _version(known):
            self.see(new)

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


def _version(host: Host) -> int:
    version = host.metadata.resource_version
    return int(version) if version.isdigit() else 0
