"""Reads are tried again, writes never; connections are few, used again, and never after a broken answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from hostplane.api.meta import ApiStruct, ObjectMeta, Resource
from hostplane.errors import ClusterError, ConflictError, GoneError, NotFoundError, ThrottledError, UnreachableError
from hostplane.kube import session as session_module
from hostplane.kube.auth import Credentials
from tests.unit.kube.scripted_server import answer, chunked, hang_up, never, scripted


class Thing(ApiStruct, frozen=True, kw_only=True, gc=False):
    metadata: ObjectMeta


THING = Resource(Thing, "example.com", "v1", "Thing", "things", namespaced=True)
A = {"metadata": {"name": "a", "resourceVersion": "5"}}


def listing(*names: str, following: str = "") -> bytes:
    items = [{"metadata": {"name": name}} for name in names]
    return answer({"metadata": {"resourceVersion": "9", "continue": following}, "items": items})


def test_a_read_names_its_object_and_sender() -> None:
    async def main() -> None:
        async with scripted(answer(A)) as (server, session):
            found = await session.get(THING, "a/b?c", "ns")
            assert found.metadata.resource_version == "5"
        request = server.requests[0]
        assert request.target == "/base/apis/example.com/v1/namespaces/ns/things/a%2Fb%3Fc"
        assert request.headers["authorization"] == "Bearer secret"
        assert request.headers["user-agent"] == "test"

    asyncio.run(main())


@pytest.mark.parametrize(
    "trouble",
    [
        hang_up,
        answer(b"", 503),
        answer(b"", 429, Retry_After="0"),
        answer(b"", 500),
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ],
)
def test_a_read_is_tried_again(trouble: bytes) -> None:
    async def main() -> None:
        async with scripted(trouble, answer(A)) as (server, session):
            assert (await session.get(THING, "a")).metadata.name == "a"
        assert len(server.requests) == 2

    asyncio.run(main())


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (hang_up, UnreachableError),
        (answer(b"", 503, Retry_After="7"), ThrottledError),
        (answer(b"", 500), ClusterError),
    ],
)
def test_a_write_is_never_repeated(trouble: bytes, error: type[ClusterError]) -> None:
    async def main() -> None:
        async with scripted(trouble, answer(A)) as (server, session):
            with pytest.raises(error) as caught:
                await session.patch(THING, "a", {})
        assert len(server.requests) == 1
        assert getattr(caught.value, "retry_after", None) in (7, None)

    asyncio.run(main())


def test_a_read_waits_as_long_as_the_server_says(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def main() -> None:
        async with scripted(answer(b"", 429, Retry_After="9"), answer(b"", 503, Retry_After="900"), answer(A)) as (
            _,
            session,
        ):
            monkeypatch.setattr(session_module.asyncio, "sleep", sleep)
            await session.get(THING, "a")

    asyncio.run(main())
    assert waited == [9, 30]


def test_a_lasting_failure_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(seconds: float) -> None: ...

    async def main() -> None:
        async with scripted(answer(b"", 503)) as (server, session):
            monkeypatch.setattr(session_module.asyncio, "sleep", sleep)
            with pytest.raises(ThrottledError):
                await session.get(THING, "a")
        assert len(server.requests) == 5

    asyncio.run(main())


@pytest.mark.parametrize(("status", "error"), [(404, NotFoundError), (409, ConflictError), (422, ClusterError)])
def test_a_refusal_is_final_also_for_reads(status: int, error: type[ClusterError]) -> None:
    async def main() -> None:
        async with scripted(answer({"message": "no"}, status)) as (server, session):
            with pytest.raises(error, match="no"):
                await session.get(THING, "a")
        assert len(server.requests) == 1

    asyncio.run(main())


def test_a_silent_server_is_given_up() -> None:
    async def main() -> None:
        async with scripted(never, timeout=0.05) as (_, session):
            with pytest.raises(UnreachableError):
                await session.create(THING, A)

    asyncio.run(main())


def test_many_requests_share_few_connections() -> None:
    async def main() -> None:
        async with scripted(answer(A), connections=3) as (server, session), asyncio.TaskGroup() as tasks:
            for _ in range(50):
                tasks.create_task(session.get(THING, "a"))
        assert server.connections <= 3

    asyncio.run(main())


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async def main() -> None:
        async with scripted(answer(A, Connection="close"), answer(A)) as (server, session):
            for _ in range(3):
                await session.patch(THING, "a", {})
            server.close_connections()
            async with asyncio.timeout(5):
                while not session._pool._free[0].is_stale:  # noqa: ASYNC110  # the end of an idle stream has no event
                    await asyncio.sleep(0)
            await session.patch(THING, "a", {})
        assert [request.connection for request in server.requests] == [1, 2, 2, 3]

    asyncio.run(main())


def test_a_cancelled_request_takes_its_connection_with_it() -> None:
    async def main() -> None:
        async with scripted(never, answer(A), connections=1) as (server, session):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await session.patch(THING, "a", {})
            await session.get(THING, "a")
        assert server.connections == 2

    asyncio.run(main())


def test_an_urgent_request_passes_the_queue() -> None:
    async def main() -> None:
        async with scripted(never, answer(A), connections=1) as (_, session), asyncio.TaskGroup() as tasks:
            stuck = tasks.create_task(session.patch(THING, "a", {}))
            await asyncio.sleep(0)
            assert (await session.get(THING, "a", urgent=True)).metadata.name == "a"
            stuck.cancel()

    asyncio.run(main())


def test_a_list_is_read_page_by_page_and_begins_again_when_it_expires() -> None:
    async def main() -> None:
        expired = answer({"message": "expired"}, 410)
        pages = listing("a", following="x"), expired, listing("b", following="y z"), listing("c")
        async with scripted(*pages) as (server, session):
            found = await session.list(THING, label_selector="a=b,c", limit=1)
        assert [item.metadata.name for item in found.items] == ["b", "c"]
        assert server.requests[3].target.endswith("things?labelSelector=a%3Db%2Cc&limit=1&continue=y+z")

    asyncio.run(main())


def test_an_oversized_page_is_asked_for_in_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_ANSWER_LIMIT", 1000)

    async def main() -> None:
        async with scripted(answer(b" " * 1001), listing("a")) as (server, session):
            assert len((await session.list(THING)).items) == 1
        assert [request.target.partition("limit=")[2] for request in server.requests] == ["500", "125"]
        async with scripted(answer(b" " * 1001)) as (_, session):
            with pytest.raises(ClusterError, match="larger than 1000"):
                await session.list(THING)

    asyncio.run(main())


def test_apply_says_what_it_applies() -> None:
    async def main() -> None:
        async with scripted(answer(A)) as (server, session):
            body = {"metadata": {"name": "a"}}
            await session.patch(THING, "a", body, "ns", "status", kind="apply", field_manager="me", force=True)
        request = server.requests[0]
        assert request.target.endswith("/things/a/status?fieldManager=me&force=true")
        assert request.headers["content-type"] == "application/apply-patch+yaml"
        assert json.loads(request.body) == {"apiVersion": "example.com/v1", "kind": "Thing", **body}

    asyncio.run(main())


def test_a_rotated_token_is_read_again_after_a_401(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")

    async def main() -> None:
        who = Credentials(token_file=token)
        async with scripted(answer(A), answer(b"", 401), answer(A), answer(b"", 401), who=who) as (server, session):
            await session.patch(THING, "a", {})
            token.write_text("new")
            await session.patch(THING, "a", {})  # refused before it was looked at, so once more is safe
            with pytest.raises(ClusterError) as caught:
                await session.patch(THING, "a", {})
        assert caught.value.name == "RequestForbidden"
        sent = [request.headers["authorization"] for request in server.requests]
        assert sent == ["Bearer old", "Bearer old", "Bearer new", "Bearer new", "Bearer new"]

    asyncio.run(main())


def test_a_watch_yields_changes_and_raises_how_it_ended() -> None:
    event = json.dumps({"type": "ADDED", "object": A}).encode() + b"\n"
    gone = json.dumps({"type": "ERROR", "object": {"code": 410, "message": "too old"}}).encode() + b"\n"

    async def seen(*scripts: bytes) -> list[str]:
        versions = []
        async with scripted(*scripts) as (_, session), session.watch(THING, "4", seconds=1) as changes:
            async for change in changes:
                versions.append(change.resource_version)
        return versions

    assert asyncio.run(seen(chunked(event[:9], event[9:] + event) + b"0\r\n\r\n")) == ["5", "5"]
    with pytest.raises(GoneError):
        asyncio.run(seen(chunked(event, gone)))
    with pytest.raises(GoneError):
        asyncio.run(seen(answer({"message": "too old"}, 410)))
    with pytest.raises(UnreachableError):
        asyncio.run(seen(chunked(event) + b"zz\r\n"))
