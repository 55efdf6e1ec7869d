"""The reporter against a session that keeps what it is given, or does not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec

from hostplane.api.host import Host, HostStatus, Phase, Progress
from hostplane.api.meta import ObjectMeta
from hostplane.errors import ClusterError, UnreachableError
from hostplane.kube.session import Session
from hostplane.proxy.report import Report
from hostplane.proxy.reporter import Reporter
from hostplane.proxy.view import HostView, Signal

HOST_1 = Host(metadata=ObjectMeta(name="n", uid="u1"))


class Shelf:
    """Stands in for the session: keeps the status, counts the writes, fails as often as it is told to."""

    def __init__(self, view: HostView) -> None:
        self._view = view
        self.writes: list[dict[str, Any]] = []
        self.failures: list[ClusterError] = []
        self.drops = ""
        self.happened = Signal()

    async def patch(self, _: object, name: str, body: list[dict[str, Any]], **how: Any) -> Host:
        assert (name, how["subresource"], how["kind"]) == ("n", "status", "json")
        assert self._view.host is not None
        self.writes.append(body[1]["value"])
        self.happened.fire()
        if self.failures:
            raise self.failures.pop()
        kept = {key: value for key, value in body[1]["value"].items() if key != self.drops}
        return msgspec.structs.replace(self._view.host, status=msgspec.convert(kept, HostStatus))

    async def until(self, writes: int) -> dict[str, Any]:
        async with asyncio.timeout(5):
            while len(self.writes) < writes:
                await self.happened.wait()
        return self.writes[-1]


@contextlib.asynccontextmanager
async def reporting(now: list[float]) -> AsyncIterator[tuple[HostView, Shelf, Reporter]]:
    view = HostView()
    shelf = Shelf(view)
    reporter = Reporter(cast(Session, shelf), view, view.see, clock=lambda: now[0])
    task = asyncio.create_task(reporter.run())
    try:
        yield view, shelf, reporter
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def report(uid: str = "u1", **status: Any) -> Report:
    return Report(uid=uid, status=HostStatus(**status))


async def settle() -> None:
    """Let everything run that can without the passing of time."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_each_edge_is_written_once() -> None:
    async def scene() -> None:
        async with reporting([0.0]) as (view, shelf, reporter):
            view.see(HOST_1)
            reporter.offer(report(phase=Phase.IDLE))
            await shelf.until(1)
            reporter.offer(report(phase=Phase.STAGING))
            assert (await shelf.until(2))["phase"] == "Staging"
            await settle()
            assert len(shelf.writes) == 2

    asyncio.run(scene())


def test_status_somebody_overwrote_is_put_right() -> None:
    async def scene() -> None:
        async with reporting([0.0]) as (view, shelf, reporter):
            view.see(HOST_1)
            reporter.offer(report(phase=Phase.STAGED))
            await shelf.until(1)
            view.see(HOST_1)
            assert (await shelf.until(2))["phase"] == "Staged"

    asyncio.run(scene())


def test_report_for_another_host_of_the_name_is_not_written() -> None:
    async def scene() -> None:
        async with reporting([0.0]) as (view, shelf, reporter):
            view.see(HOST_1)
            reporter.offer(report("u2", phase=Phase.IDLE))
            await settle()
            assert not shelf.writes
            view.see(msgspec.structs.replace(HOST_1, metadata=ObjectMeta(name="n", uid="u2")))
            await shelf.until(1)

    asyncio.run(scene())


def test_failed_write_is_tried_again_with_the_latest_report() -> None:
    async def scene() -> None:
        async with reporting([0.0]) as (view, shelf, reporter):
            shelf.failures = [UnreachableError("ServerUnreachable", url="u", why="w")]
            view.see(HOST_1)
            reporter.offer(report(phase=Phase.STAGING))
            await shelf.until(1)
            reporter.offer(report(phase=Phase.STAGED))
            assert (await shelf.until(2))["phase"] == "Staged"

    asyncio.run(scene())


def test_what_the_server_does_not_keep_is_not_written_for_ever() -> None:
    async def scene() -> None:
        async with reporting([0.0]) as (view, shelf, reporter):
            shelf.drops = "never"
            view.see(HOST_1)
            reporter.offer(report(phase=Phase.IDLE, never=True))
            await shelf.until(1)
            await settle()
            assert len(shelf.writes) == 1

    asyncio.run(scene())


def test_progress_is_written_at_most_every_thirty_seconds() -> None:
    async def scene() -> None:
        now = [1000.0]
        async with reporting(now) as (view, shelf, reporter):
            view.see(HOST_1)
            for done in range(0, 100, 5):
                reporter.offer(report(phase=Phase.STAGING, progress=Progress(bytes=done, total=100)))
                await settle()
            assert [write["progress"].get("bytes", 0) for write in shelf.writes] == [0]
            now[0] += 31
            reporter.offer(report(phase=Phase.STAGING, progress=Progress(bytes=96, total=100)))
            assert (await shelf.until(2))["progress"]["bytes"] == 96

    asyncio.run(scene())


def test_flapping_host_has_a_bounded_rate() -> None:
    async def scene() -> None:
        async with reporting([0.0]) as (view, shelf, reporter):
            view.see(HOST_1)
            for turn in range(100):
                reporter.offer(report(phase=Phase.ALL[turn % 2], seq=turn))
                await settle()
            assert len(shelf.writes) == 12

    asyncio.run(scene())
