"""The courier against a scripted agent: what it asks, when it hangs up, what it says of an agent that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from hostplane.api.host import Grant, Host, HostSettings, HostSpec, ImageRef, Preview, PreviewStatus
from hostplane.api.meta import ObjectMeta
from hostplane.proxy import courier
from hostplane.proxy.courier import Courier, Repeats
from hostplane.proxy.decide import Call
from hostplane.proxy.report import Report
from hostplane.proxy.view import HostView, Signal

NEW = f"sha256:{'b' * 64}"
IMAGE = ImageRef(format="rootTar", ref="http://x/y", digest=NEW, size=1, version="2")
REFUSED = {"error": {"code": -32000, "message": "m", "data": {"name": "SlotHeld", "code": "HP-6001", "text": "no"}}}


def host(uid: str = "u1", **spec: Any) -> Host:
    return Host(metadata=ObjectMeta(name="n", uid=uid), spec=HostSpec(**spec))


class Desk:
    """Where a courier works: a view to change, the reports it offered."""

    def __init__(self) -> None:
        self.view = HostView()
        self.reports: list[Report] = []
        self.offered = Signal()

    def wish(self, new: Host | None) -> None:
        self.view.see(new)

    def offer(self, report: Report) -> None:
        self.reports.append(report)
        self.offered.fire()

    async def until(self, holds: Callable[[Report], bool]) -> Report:
        async with asyncio.timeout(5):
            while not self.reports or not holds(self.reports[-1]):
                await self.offered.wait()
        return self.reports[-1]


@contextlib.asynccontextmanager
async def at_work(socket: str, answer: float = 5.0, patience: float = 0.0) -> AsyncIterator[Desk]:
    desk = Desk()
    working = Courier(desk.view, desk.offer, socket, name="test", answer_seconds=answer, patience_seconds=patience)
    task = asyncio.create_task(working.run())
    try:
        yield desk
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_no_agent_is_bothered_before_there_is_a_host(fake_agent: Any) -> None:
    async def scene() -> None:
        async with fake_agent, at_work(fake_agent.path) as desk:
            await asyncio.sleep(0)
            assert not fake_agent.connections
            desk.wish(host("u7"))
            await desk.until(lambda r: r.status is not None)
            assert fake_agent.calls[0] == ("hello", {"protocols": [1], "client": "test", "hostUid": "u7"})

    asyncio.run(scene())


def test_resting_agent_is_told_of_no_more_than_hello_and_status(fake_agent: Any) -> None:
    async def scene() -> None:
        async with fake_agent, at_work(fake_agent.path) as desk:
            desk.wish(host())
            report = await desk.until(lambda r: r.status is not None)
            await fake_agent.until(lambda: fake_agent.connections == 1 and not fake_agent.open)
            assert [name for name, _ in fake_agent.calls] == ["hello", "status"]
            assert report.unreachable is None
            assert report.status is not None
            assert report.status.phase == "Idle"
            desk.wish(host(image=IMAGE))
            await fake_agent.until(lambda: fake_agent.count("stage") == 1)

    asyncio.run(scene())


def test_resting_agent_is_asked_again_when_it_has_news(fake_agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "_NEWS_SECONDS", 0.02)

    async def scene() -> None:
        async with fake_agent, at_work(fake_agent.path) as desk:
            desk.wish(host())
            await desk.until(lambda r: r.status is not None)
            await fake_agent.until(lambda: fake_agent.open == 0)
            visits = fake_agent.connections
            await asyncio.sleep(0.1)  # silence can only be listened to
            assert fake_agent.connections == visits
            settings = {"version": "s1", "drift": ["/etc/motd: files /etc/motd"]}
            fake_agent.say(settings=settings)
            (Path(fake_agent.path).parent / "news").write_text("1\n")
            report = await desk.until(lambda r: bool(r.status and r.status.settings))
            assert report.status is not None
            assert report.status.settings is not None
            assert report.status.settings.drift == settings["drift"]
            await fake_agent.until(lambda: fake_agent.open == 0)
            assert fake_agent.connections == visits + 1

    asyncio.run(scene())


def test_busy_agent_is_listened_to_until_it_rests(fake_agent: Any) -> None:
    async def scene() -> None:
        fake_agent.status["phase"] = "Staging"
        async with fake_agent, at_work(fake_agent.path) as desk:
            desk.wish(host())
            await fake_agent.until(lambda: fake_agent.count("wait") == 1)
            fake_agent.say(progress={"bytes": 5, "total": 10})
            await desk.until(lambda r: r.status is not None and r.status.progress is not None)
            fake_agent.say(phase="Staged", progress=None)
            await desk.until(lambda r: r.status is not None and r.status.phase == "Staged")
            await fake_agent.until(lambda: not fake_agent.open)
            assert fake_agent.connections == 1

    asyncio.run(scene())


def test_new_wish_interrupts_the_listening(fake_agent: Any) -> None:
    async def scene() -> None:
        fake_agent.status["phase"] = "Trial"
        fake_agent.status["operation"] = {"seq": 5, "operation": "upgrade", "digest": NEW}
        fake_agent.status["slots"] = {"A": {"state": "Trial", "digest": NEW}, "B": {}}
        fake_agent.answers["confirm"] = lambda _: {**fake_agent.status, "phase": "Idle", "revision": 9}
        async with fake_agent, at_work(fake_agent.path) as desk:
            desk.wish(host(grant=Grant(seq=5, operation="upgrade", digest=NEW, stage="Switch")))
            await fake_agent.until(lambda: fake_agent.count("wait") == 1)
            desk.wish(host(grant=Grant(seq=5, operation="upgrade", digest=NEW, stage="Confirm")))
            await desk.until(lambda r: r.status is not None and r.status.phase == "Idle")

    asyncio.run(scene())


def test_refusal_is_reported_and_goes_when_the_wish_goes(fake_agent: Any) -> None:
    async def scene() -> None:
        fake_agent.answers["stage"] = lambda _: REFUSED
        async with fake_agent, at_work(fake_agent.path) as desk:
            desk.wish(host(image=IMAGE))
            report = await desk.until(lambda r: r.refusal is not None)
            assert report.refusal is not None
            assert str(report.refusal) == "HP-6001: no"
            assert report.unreachable is None
            await fake_agent.until(lambda: not fake_agent.open)
            assert fake_agent.count("stage") == 1  # not again at once
            desk.wish(host())
            await desk.until(lambda r: r.refusal is None)

    asyncio.run(scene())


def test_confirmation_that_came_before_the_checks_ended_is_repeated_with_the_next_news(fake_agent: Any) -> None:
    async def scene() -> None:
        running = {"error": {"code": -32000, "message": "m", "data": {"name": "ChecksRunning", "text": "wait"}}}
        fake_agent.status |= {"phase": "Trial", "operation": {"seq": 5, "operation": "upgrade", "digest": NEW}}
        fake_agent.status["slots"] = {"A": {"state": "Trial", "digest": NEW}, "B": {}}
        fake_agent.answers["confirm"] = lambda _: running
        async with fake_agent, at_work(fake_agent.path) as desk:
            desk.wish(host(grant=Grant(seq=5, operation="upgrade", digest=NEW, stage="Confirm")))
            await fake_agent.until(lambda: fake_agent.count("wait") == 1)
            fake_agent.answers["confirm"] = lambda _: {**fake_agent.status, "phase": "Idle", "revision": 99}
            fake_agent.say()
            await desk.until(lambda r: r.status is not None and r.status.phase == "Idle")
            assert not any(report.refusal for report in desk.reports)

    asyncio.run(scene())


def test_missing_agent_is_a_condition_and_its_return_another(fake_agent: Any) -> None:
    async def scene() -> None:
        async with at_work(fake_agent.path) as desk:
            desk.wish(host())
            report = await desk.until(lambda r: r.unreachable is not None)
            assert report.unreachable is not None
            assert report.unreachable.name == "AgentUnreachable"
            async with fake_agent:
                await desk.until(lambda r: r.unreachable is None)

    asyncio.run(scene())


def test_brief_absence_is_no_condition(fake_agent: Any) -> None:
    async def scene() -> None:
        async with at_work(fake_agent.path, patience=60.0) as desk:
            fake_agent.status["phase"] = "Trial"
            async with fake_agent:
                desk.wish(host())
                await fake_agent.until(lambda: fake_agent.count("wait") == 1)
            fake_agent.calls.clear()
            async with fake_agent:
                await fake_agent.until(lambda: fake_agent.count("wait") == 1)
            assert not any(report.unreachable for report in desk.reports)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("method", "answer", "name"),
    [
        ("hello", None, "AgentSlow"),
        ("status", None, "AgentSlow"),
        ("hello", b"not json\n", "AgentUnreachable"),
        ("status", {"schema": "1.0", "phase": 7}, "AgentAnswerInvalid"),
        ("status", {"schema": "2.0", "phase": "Idle"}, "AgentSchemaUnknown"),
        ("hello", {"error": {"code": -32000, "message": "m", "data": {"name": "WrongHost"}}}, "WrongHost"),
    ],
)
def test_agent_that_misbehaves_is_a_condition_within_its_deadline(
    fake_agent: Any, method: str, answer: Any, name: str
) -> None:
    async def scene() -> None:
        fake_agent.answers[method] = lambda _: answer
        async with fake_agent, at_work(fake_agent.path, answer=0.3) as desk:
            desk.wish(host())
            started = time.monotonic()
            report = await desk.until(lambda r: r.unreachable is not None)
            assert report.unreachable is not None
            assert report.unreachable.name == name
            assert time.monotonic() - started < 3
            fake_agent.answers.clear()
            await desk.until(lambda r: r.unreachable is None)

    asyncio.run(scene())


def test_dead_agent_is_tried_ever_more_rarely(fake_agent: Any) -> None:
    async def scene() -> None:
        fake_agent.answers["hello"] = lambda _: b"nonsense\n"
        async with fake_agent, at_work(fake_agent.path) as desk:
            desk.wish(host())
            await fake_agent.until(lambda: fake_agent.connections == 4)
            # 0.2 + 0.4 + 0.8 s, each shortened by up to half
            first, last = desk.reports[0], desk.reports[-1]
            assert first.unreachable == last.unreachable

    started = time.monotonic()
    asyncio.run(scene())
    assert time.monotonic() - started > 0.7


def test_recreated_host_starts_over(fake_agent: Any) -> None:
    async def scene() -> None:
        fake_agent.status["phase"] = "Trial"
        async with fake_agent, at_work(fake_agent.path) as desk:
            desk.wish(host("u1"))
            await fake_agent.until(lambda: fake_agent.count("wait") == 1)
            desk.wish(None)
            desk.wish(host("u2"))
            await desk.until(lambda r: r.uid == "u2" and r.status is not None)
            assert [params["hostUid"] for name, params in fake_agent.calls if name == "hello"] == ["u1", "u2"]

    asyncio.run(scene())


def test_rebooting_agent_is_not_kept_from_it_by_a_listener(fake_agent: Any) -> None:
    async def scene() -> None:
        fake_agent.status["phase"] = "Rebooting"
        async with fake_agent, at_work(fake_agent.path) as desk:
            desk.wish(host())
            await fake_agent.until(lambda: fake_agent.connections == 1 and not fake_agent.open)
            fake_agent.say(phase="Trial")
            await desk.until(lambda r: r.status is not None and r.status.phase == "Trial")
            assert fake_agent.connections < 4

    asyncio.run(scene())


def test_repeats_grow_apart_and_another_call_is_free() -> None:
    now = 100.0
    repeats = Repeats(lambda: now)
    stage, release = Call("stage", {"image": 1}), Call("release", {"seq": 1})
    assert repeats.delay(stage) == 0
    waits = []
    for _ in range(14):
        repeats.note(stage)
        waits.append(repeats.delay(stage))
        assert repeats.delay(release) == 0
        now += waits[-1]
        assert repeats.delay(stage) == 0
    assert 1.0 <= waits[0] <= 2.0
    assert 900.0 <= waits[-1] <= 1800.0
    repeats.note(release)
    assert repeats.delay(stage) == 0
    repeats.forget()
    assert repeats.delay(release) == 0


def test_a_question_is_asked_once_and_its_answer_goes_with_it(fake_agent: Any) -> None:
    async def scene() -> None:
        answer = {"changes": ["/etc/motd: files /etc/motd"], "more": 0, "services": [], "rebootNeeded": True}
        fake_agent.answers["preview"] = lambda params: answer
        async with fake_agent, at_work(fake_agent.path) as desk:
            desk.wish(host(preview=Preview(id="q1")))
            report = await desk.until(lambda r: r.preview is not None)
            assert report.preview == PreviewStatus(id="q1", changes=answer["changes"], reboot_needed=True)
            desk.wish(host(preview=Preview(id="q1"), settings=HostSettings(version="x")))
            await fake_agent.until(lambda: fake_agent.count("hello") == 2)
            desk.wish(host())
            await desk.until(lambda r: r.preview is None)
            assert fake_agent.count("preview") == 1

    asyncio.run(scene())


def test_an_agent_that_refuses_a_question_or_does_not_know_it_is_quoted(fake_agent: Any) -> None:
    async def scene() -> None:
        fake_agent.answers["preview"] = lambda params: REFUSED
        async with fake_agent, at_work(fake_agent.path) as desk:
            desk.wish(host(preview=Preview(id="q1")))
            report = await desk.until(lambda r: r.preview is not None)
            assert report.preview is not None
            assert (report.preview.id, report.preview.error) == ("q1", "HP-6001: no")
            assert report.refusal is None

    asyncio.run(scene())
