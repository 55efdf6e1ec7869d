"""However the network cuts them, answers and watch lines come out whole; what is none, or endless, is refused."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostplane.errors import ClusterError, UnreachableError
from hostplane.kube.transport import Answer, Pool
from hostplane.kube.wire import Lines
from tests.unit.kube.scripted_server import Script, answer, chunked, hang_up, never, serving

CUTS = st.lists(st.integers(0, 10**6), max_size=20)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def slowly(pieces: list[bytes]) -> Script:
    """Sends the pieces in writes of their own, each once the client could see the one before."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            for _ in range(3):
                await asyncio.sleep(0)

    return send


async def ask(*scripts: Script, times: int = 1, method: str = "GET", limit: int = 10**6) -> tuple[list[Answer], int]:
    """The answers to `times` requests, and how many connections they took."""
    async with serving(*scripts) as (server, endpoint):
        pool = Pool(endpoint, 1)
        answers = [await pool.request(method, "/x", {}, b"", timeout=5, limit=limit) for _ in range(times)]
        await pool.close()
    return answers, server.connections


@given(chunks=st.lists(st.binary(min_size=1, max_size=50), max_size=8), cuts=CUTS)
def test_chunked_answers_survive_any_cut_and_leave_the_connection_open(chunks: list[bytes], cuts: list[int]) -> None:
    wire = chunked(*chunks) + b"0\r\nTrailer: 1\r\n\r\n"

    answers, connections = asyncio.run(ask(slowly(cut(wire, cuts)), times=2))

    assert [each.body for each in answers] == [b"".join(chunks)] * 2
    assert connections == 1


@given(body=st.binary(max_size=100), cuts=CUTS)
def test_counted_answers_survive_any_cut_and_leave_the_connection_open(body: bytes, cuts: list[int]) -> None:
    answers, connections = asyncio.run(ask(slowly(cut(answer(body), cuts)), times=2))

    assert [each.body for each in answers] == [body] * 2
    assert connections == 1


@pytest.mark.parametrize("whole", [answer(b"abc"), chunked(b"abc") + b"0\r\n\r\n"])
def test_bytes_after_the_answer_forbid_another_use_of_the_connection(whole: bytes) -> None:
    answers, connections = asyncio.run(ask(whole + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", times=2))
    assert [each.body for each in answers] == [b"abc"] * 2
    assert connections == 2


def test_a_body_without_length_ends_with_the_connection() -> None:
    async def until_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nabc")
        writer.close()
        raise EOFError

    answers, connections = asyncio.run(ask(until_close, times=2))
    assert [each.body for each in answers] == [b"abc"] * 2
    assert connections == 2


def test_answers_without_a_body_end_with_their_head() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert asyncio.run(ask(head, times=2, method="HEAD"))[1] == 1
    assert asyncio.run(ask(b"HTTP/1.1 204 No Content\r\n\r\n", times=2))[1] == 1


def test_interim_answers_say_nothing() -> None:
    wire = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(b"abc", Retry_After="7")
    [found], _ = asyncio.run(ask(wire))
    assert (found.status, found.headers["retry-after"], found.body) == (200, "7", b"abc")


def refused() -> Iterator[tuple[str, Script]]:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked(b"abc"))
        await hang_up(reader, writer)

    yield "without answering", hang_up
    yield "before the end", half
    yield "a head without end", b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000
    yield "a head over its limit", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 65_536 + b"\r\ncontent-length: 0\r\n\r\n"
    yield "another protocol", b"SSH-2.0-OpenSSH\r\n\r\n"
    yield "a length that is none", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"
    yield "two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
    yield "an unasked-for switch", b"HTTP/1.1 101 X\r\nUpgrade: x\r\n\r\n"
    head = chunked()
    for chunk in (b"-1\r\n", b"\r\n", b"zz\r\n", b"1_0\r\n", b"2\r\nabc\r\n", b"a" * 400_000):
        yield f"the chunk {chunk[:10]!r}", head + chunk


CASES = dict(refused())


@pytest.mark.parametrize("what", CASES)
def test_what_is_no_answer_is_refused_at_once(what: str) -> None:
    with pytest.raises(UnreachableError) as caught:
        asyncio.run(ask(CASES[what]))
    assert "TimeoutError" not in str(caught.value)


def test_a_large_head_passes() -> None:
    [found], _ = asyncio.run(ask(slowly(cut(answer(b"abc", x="y" * 48_000), [20_000, 40_000]))))
    assert found.body == b"abc"


def test_a_body_over_the_limit_is_refused() -> None:
    for wire in (b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n", chunked(*[b"x" * 25] * 4, b"x")):
        with pytest.raises(ClusterError, match="larger than 100"):
            asyncio.run(ask(wire, limit=100))
    [found], _ = asyncio.run(ask(answer(b"x" * 100), limit=100))
    assert len(found.body) == 100


def test_a_head_reaches_the_server_as_it_was_meant() -> None:
    async def main() -> None:
        async with serving(answer()) as (server, endpoint):
            pool = Pool(endpoint, 1)
            sent = {"impersonate-user": "张伟"}
            await pool.request("POST", "/x?y=z", sent, b"{}", timeout=5, limit=100)
            await pool.request("DELETE", "/x", {}, b"", timeout=5, limit=100)
            await pool.close()
        host = f"127.0.0.1:{endpoint.port}"
        post, delete = server.requests
        assert (post.method, post.target, post.body) == ("POST", "/base/x?y=z", b"{}")
        assert post.headers == {"host": host, "content-length": "2", **sent}
        assert delete.headers == {"host": host, "content-length": "0"}

    asyncio.run(main())


@pytest.mark.parametrize("token", ["Bearer sec\r\nret: x", "Bearer sec\0ret", "Bearer sec\vret"])
def test_a_credential_that_is_no_header_is_neither_sent_nor_shown(token: str) -> None:
    async def main() -> None:
        async with serving(never) as (server, endpoint):
            with pytest.raises(UnreachableError, match="what HTTP does not allow") as caught:
                await Pool(endpoint, 1).request("GET", "/x", {"authorization": token}, b"", timeout=5, limit=100)
        assert "sec" not in str(caught.value)
        assert server.requests == []

    asyncio.run(main())


@given(
    lines=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b" ")), max_size=8),
    cuts=st.lists(st.integers(0, 10**6)),
)
def test_lines_survive_any_cut(lines: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(line + b"\n" for line in lines)
    framing = Lines()

    found = [line for piece in cut(wire, cuts) for line in framing.feed(piece)]

    assert found == [line for line in lines if line.strip()]


def test_an_event_of_endless_length_is_refused() -> None:
    framing = Lines(limit=100)
    for _ in range(10):
        framing.feed(b"x" * 10)
    with pytest.raises(UnreachableError, match="over 100 bytes"):
        framing.feed(b"x")


def test_large_events_pass() -> None:
    framing = Lines()
    event = b"x" * 1_500_000
    assert [framing.feed(piece) for piece in (event[:700_000], event[700_000:], b"\n")] == [[], [], [event]]
