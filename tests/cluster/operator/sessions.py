"""Sessions that let an operator meet what a real one meets: death at a write, a long pause, refusals, lost answers.

Each stands in for a whole process: once it is dead or frozen, nothing passes in either direction, watches included.
Leases and Events are not counted among the writes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from hostplane.errors import ClusterError, ConflictError, GoneError, ThrottledError, UnreachableError
from hostplane.kube.session import Session

__all__ = ["FaultySession", "ForgetfulSession", "FrozenSession", "MortalSession"]


def is_write(method: str, path: str) -> bool:
    """Whether a request counts among an operator's writes."""
    return method != "GET" and "/leases" not in path and "/events" not in path and path != "/api/v1/namespaces"


class MortalSession(Session):
    """Dies at a write: `die_at` counts from 1; before or after it is made. Afterwards nothing reaches the server."""

    die_at = 0
    after = False
    writes = 0
    dead: asyncio.Event
    delay: Callable[[str, str], Awaitable[None]] | None = None

    def begin(self) -> None:
        """Called once, in the loop that will use it."""
        self.dead = asyncio.Event()

    async def _call(self, method: str, path: str, *args: Any, **kwargs: Any) -> Any:
        if self.dead.is_set():
            raise UnreachableError("ServerUnreachable", url="dead", why="killed")
        is_last = False
        if is_write(method, path):
            self.writes += 1
            is_last = self.writes == self.die_at
        if is_last and not self.after:
            await self._die()
        if self.delay is not None:
            await self.delay(method, path)
        answer = await super()._call(method, path, *args, **kwargs)
        if is_last:
            await self._die()
        return answer

    async def _die(self) -> None:
        self.dead.set()
        await asyncio.Event().wait()


class FrozenSession(MortalSession):
    """A process that is stopped at write `freeze_at`, past its fence, and goes on at `thaw` with all that it knew.

    `held` writes were on their way then; `late` of them have been answered since.
    """

    freeze_at = 0
    frozen: asyncio.Event
    _running: asyncio.Event

    def begin(self) -> None:
        super().begin()
        self.frozen, self._running = asyncio.Event(), asyncio.Event()
        self._running.set()
        self.held = self.late = self._begun = 0
        self.refused: Counter[str] = Counter()
        self._sent: set[asyncio.Future[Any]] = set()

    def thaw(self) -> None:
        """Go on: what was to be written goes out first, then the watches catch up."""
        self._running.set()

    async def _call(self, method: str, path: str, *args: Any, **kwargs: Any) -> Any:
        if is_write(method, path):
            self._begun += 1
            if self._begun == self.freeze_at:
                self.frozen.set()
                self._running.clear()
        if self._running.is_set() or not is_write(method, path):
            await self._running.wait()
            return await super()._call(method, path, *args, **kwargs)
        self.held += 1
        sent = asyncio.ensure_future(self._send_late(method, path, *args, **kwargs))
        self._sent.add(sent)
        return await asyncio.shield(sent)  # it is on its way: nobody's cancellation calls it back

    async def _send_late(self, *args: Any, **kwargs: Any) -> Any:
        await self._running.wait()
        try:
            return await super()._call(*args, **kwargs)
        except ClusterError as error:
            self.refused[error.name] += 1
            raise
        finally:
            self.late += 1

    async def close(self) -> None:
        self.thaw()
        await asyncio.gather(*self._sent, return_exceptions=True)
        await super().close()

    @contextlib.asynccontextmanager
    async def watch(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async def held(changes: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for change in changes:
                await self._running.wait()
                yield change

        async with super().watch(*args, **kwargs) as changes, contextlib.aclosing(held(changes)) as slow:
            yield slow


class FaultySession(MortalSession):
    """The first write to each place is refused with a conflict, the second with 429; the third one's answer is lost."""

    def begin(self) -> None:
        super().begin()
        self.tries: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    async def _call(self, method: str, path: str, *args: Any, **kwargs: Any) -> Any:
        if not is_write(method, path):
            return await super()._call(method, path, *args, **kwargs)
        place = f"{method} {path}"
        self.tries[place] += 1
        match self.tries[place]:
            case 1:
                error: ClusterError = ConflictError("WriteConflict", message="injected")
            case 2:
                error = ThrottledError("ServerBusy", message="injected")
                error.retry_after = 0.01
            case 3:
                await super()._call(method, path, *args, **kwargs)
                error = UnreachableError("ServerUnreachable", url="injected", why="the answer was lost")
            case _:
                return await super()._call(method, path, *args, **kwargs)
        self.refused[error.name] += 1
        raise error


class ForgetfulSession(MortalSession):
    """Every watch is told after a few changes that its version is too old to go on from."""

    lives = 3

    def begin(self) -> None:
        super().begin()
        self.expired = 0

    @contextlib.asynccontextmanager
    async def watch(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async def cut(changes: AsyncIterator[Any]) -> AsyncIterator[Any]:
            left = self.lives
            async for change in changes:
                left -= 1
                if not left:
                    self.expired += 1
                    raise GoneError("VersionExpired", message="injected")
                yield change

        async with super().watch(*args, **kwargs) as changes, contextlib.aclosing(cut(changes)) as short:
            yield short
