"""Events are gathered, bounded, and never stand in anybody's way."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from hostplane.api.meta import ApiStruct, ObjectMeta, Resource
from hostplane.errors import ClusterError, NotFoundError, UnreachableError, reason
from hostplane.kube.events import Event, EventRecorder
from hostplane.kube.session import Session


class Thing(ApiStruct, frozen=True, kw_only=True, gc=False):
    metadata: ObjectMeta


THING = Resource(Thing, "example.com", "v1", "Thing", "things")
LOST = reason("LeadershipLost", identity="x")


class EventServer(Session):
    """Keeps Events; raises what is in `troubles` first."""

    def __init__(self, *troubles: ClusterError) -> None:
        self.troubles = list(troubles)
        self.events: dict[str, dict[str, Any]] = {}
        self.writes = 0

    def _enter(self) -> None:
        self.writes += 1
        if self.troubles:
            raise self.troubles.pop(0)

    async def create(self, resource: Any, body: dict[str, Any], namespace: str | None = None, **_: Any) -> Any:
        self._enter()
        assert namespace == body["metadata"]["namespace"]
        self.events[body["metadata"]["name"]] = body
        return Event()

    async def patch(self, resource: Any, name: str, body: Any, *_: Any, **__: Any) -> Any:
        self._enter()
        if name not in self.events:
            raise NotFoundError("ObjectNotFound", message=name)
        self.events[name] |= body
        return Event()


def recorded(
    server: EventServer, *emits: tuple[Any, str], **options: Any
) -> tuple[EventRecorder, list[dict[str, Any]]]:
    recorder = EventRecorder(server, "tester", **options)

    async def main() -> None:
        for about, message in emits:
            recorder.emit(THING, about, LOST, message=message)
        await recorder.flush(5)

    asyncio.run(main())
    return recorder, list(server.events.values())


def test_an_event_says_who_what_and_why() -> None:
    thing = Thing(metadata=ObjectMeta(name="a", namespace="ns", uid="u"))
    server = EventServer()
    recorder = EventRecorder(server, "tester")
    recorder.emit(THING, thing, LOST, "Warning")
    asyncio.run(recorder.flush(5))
    (event,) = server.events.values()
    involved = {"apiVersion": "example.com/v1", "kind": "Thing", "name": "a", "namespace": "ns", "uid": "u"}
    assert event["involvedObject"] == involved
    assert (event["reason"], event["type"], event["count"]) == ("LeadershipLost", "Warning", 1)
    assert event["message"] == str(LOST)
    assert event["metadata"]["namespace"] == "ns"


def test_an_event_about_a_cluster_scoped_object_lies_in_default() -> None:
    _, events = recorded(EventServer(), ("node-1", "m"))
    assert events[0]["metadata"]["namespace"] == "default"
    assert "namespace" not in events[0]["involvedObject"]


def test_the_same_reason_on_the_same_object_is_one_event() -> None:
    server = EventServer()
    recorder = EventRecorder(server, "tester")

    async def main() -> None:
        for message in ("first", "second"):
            recorder.emit(THING, "a", LOST, message=message)
        recorder.emit(THING, "b", LOST)
        await recorder.flush(5)
        recorder.emit(THING, "a", LOST, message="third")
        await recorder.flush(5)

    asyncio.run(main())
    counts = {event["involvedObject"]["name"]: (event["count"], event["message"]) for event in server.events.values()}
    assert counts == {"a": (3, "third"), "b": (1, str(LOST))}
    assert server.writes == 3


def test_an_event_that_the_server_forgot_is_made_anew() -> None:
    server = EventServer()
    recorder = EventRecorder(server, "tester")

    async def main() -> None:
        recorder.emit(THING, "a", LOST)
        await recorder.flush(5)
        server.events.clear()
        recorder.emit(THING, "a", LOST)
        await recorder.flush(5)

    asyncio.run(main())
    assert [event["count"] for event in server.events.values()] == [1]


def test_too_many_drop_the_oldest_and_are_counted() -> None:
    recorder, events = recorded(EventServer(), *((f"n{number}", "m") for number in range(10)), capacity=3)
    assert [event["involvedObject"]["name"] for event in events] == ["n7", "n8", "n9"]
    assert recorder.dropped == 7


def test_messages_are_bounded_without_cutting_a_character() -> None:
    _, events = recorded(EventServer(), ("a", "界" * 2000))
    assert len(events[0]["message"].encode()) <= 1024
    assert set(events[0]["message"]) == {"界"}


def test_an_outage_delays_and_a_refusal_drops() -> None:
    lost = UnreachableError("ServerUnreachable", url="u", why="cut")
    refused = ClusterError("RequestForbidden", status=403, message="no")

    async def main() -> tuple[EventRecorder, EventServer]:
        server = EventServer(lost, refused)
        recorder = EventRecorder(server, "tester")
        for name in ("a", "b"):
            recorder.emit(THING, name, LOST)
        for _ in range(3):
            with contextlib.suppress(ClusterError):
                await recorder._write_oldest()
        return recorder, server

    recorder, server = asyncio.run(main())
    assert [event["involvedObject"]["name"] for event in server.events.values()] == ["b"]
    assert recorder.dropped == 1
    assert server.writes == 3


def test_run_writes_what_is_emitted_later() -> None:
    async def main() -> int:
        server = EventServer()
        recorder = EventRecorder(server, "tester")
        running = asyncio.create_task(recorder.run())
        for round_ in range(3):
            recorder.emit(THING, f"a{round_}", LOST)
            async with asyncio.timeout(5):
                while len(server.events) <= round_:  # noqa: ASYNC110  # the stand-in has no event to wait for
                    await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return len(server.events)

    assert asyncio.run(main()) == 3
