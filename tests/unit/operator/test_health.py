"""The health pages, and clients that do not behave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hostplane.errors import LocalError, Reason, reason
from hostplane.operator.health import HealthServer


def serve(script: Callable[[HealthServer], Awaitable[None]], **settings: Any) -> None:
    """Runs a script against a listening server; ends within 10 s or fails."""

    async def both() -> None:
        server = HealthServer(**settings)
        runner = asyncio.ensure_future(server.run())
        try:
            async with asyncio.timeout(10):
                await server.listening()
                await script(server)
        finally:
            runner.cancel()
            async with asyncio.timeout(5):
                await asyncio.wait([runner])

    asyncio.run(both())


async def ask(server: HealthServer, raw: bytes) -> bytes:
    """Sends bytes and reads to the end."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        writer.write(raw)
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


async def get(server: HealthServer, path: str, method: str = "GET") -> tuple[int, bytes]:
    answer = await ask(server, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


def test_pages_answer() -> None:
    async def script(server: HealthServer) -> None:
        assert await get(server, "/healthz") == (200, b"ok\n")
        assert await get(server, "/readyz?verbose") == (200, b"ok\n")
        assert await get(server, "/metrics") == (200, b"m 1\n")
        assert await get(server, "/") == (404, b"404 Not Found\n")
        assert await get(server, "/healthz/../metrics") == (404, b"404 Not Found\n")

    serve(script, metrics=(lambda: b"m 1\n", "text/plain"))


def test_head_says_the_length_and_sends_no_body() -> None:
    async def script(server: HealthServer) -> None:
        answer = await ask(server, b"HEAD /healthz HTTP/1.1\r\n\r\n")
        assert b"Content-Length: 3\r\n" in answer
        assert answer.endswith(b"\r\n\r\n")

    serve(script)


def test_an_unready_process_says_why() -> None:
    why: list[Reason | None] = [reason("DrainBroken", node="n1", why="a bug")]

    async def script(server: HealthServer) -> None:
        status, body = await get(server, "/readyz")
        assert status == 503
        assert body.startswith(b"HP-4505: ")
        assert (await get(server, "/healthz"))[0] == 200
        why[0] = None
        assert (await get(server, "/readyz"))[0] == 200

    serve(script, ready=lambda: why[0])


def test_without_metrics_there_is_no_such_page() -> None:
    async def script(server: HealthServer) -> None:
        assert (await get(server, "/metrics"))[0] == 404

    serve(script)


def test_a_page_that_fails_is_an_error_and_the_server_goes_on() -> None:
    def fail() -> bytes:
        raise ZeroDivisionError

    async def script(server: HealthServer) -> None:
        assert (await get(server, "/metrics"))[0] == 500
        assert (await get(server, "/healthz"))[0] == 200

    serve(script, metrics=(fail, "text/plain"))


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"POST /healthz HTTP/1.1\r\n\r\n", 405),
        (b"DELETE /metrics HTTP/1.1\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"GET  /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz SPDY/9\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\xff\xfe /healthz HTTP/1.1\r\n\r\n", 405),
        (b"GET /\xff\x00 HTTP/1.1\r\n\r\n", 404),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
    ],
)
def test_what_is_not_a_request_for_a_page_is_refused(raw: bytes, status: int) -> None:
    async def script(server: HealthServer) -> None:
        assert (await ask(server, raw)).startswith(f"HTTP/1.1 {status} ".encode())

    serve(script)


def test_an_endless_head_is_cut_off() -> None:
    async def script(server: HealthServer) -> None:
        _, writer = await asyncio.open_connection(server.host, server.port)
        await _closed(writer, b"a" * 65536)
        assert (await get(server, "/healthz"))[0] == 200

    serve(script)


def test_a_silent_client_is_told_so_and_closed() -> None:
    async def script(server: HealthServer) -> None:
        assert (await ask(server, b"GET /healthz HT")).startswith(b"HTTP/1.1 408 ")

    serve(script, seconds=0.1)


def test_a_client_that_does_not_read_is_closed() -> None:
    ended = asyncio.Event()

    async def script(server: HealthServer) -> None:
        _, writer = await asyncio.open_connection(server.host, server.port, limit=1)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert (await get(server, "/healthz"))[0] == 200
        await _closed(writer, b"x")
        ended.set()

    serve(script, seconds=0.2, metrics=(lambda: b"m" * 32_000_000, "text/plain"))
    assert ended.is_set()


async def _closed(writer: asyncio.StreamWriter, sent: bytes) -> None:
    """Sends again and again until the other end has gone; the caller's time-out bounds it."""
    try:
        while True:
            writer.write(sent)
            await writer.drain()
            await asyncio.sleep(0.001)
    except ConnectionError:
        writer.transport.abort()


def test_connections_are_bounded_and_a_place_comes_free_again() -> None:
    async def script(server: HealthServer) -> None:
        idle = [await asyncio.open_connection(server.host, server.port) for _ in range(3)]
        for _, writer in idle[:2]:
            writer.write(b"GET ")
            await writer.drain()
        assert await ask(server, b"GET /healthz HTTP/1.1\r\n\r\n") == b""
        for reader, _ in idle:
            await reader.read()
        assert (await get(server, "/healthz"))[0] == 200
        for _, writer in idle:
            writer.transport.abort()

    serve(script, connections=3, seconds=0.5)


def test_stops_at_once_though_a_client_is_connected() -> None:
    async def script() -> None:
        server = HealthServer(seconds=300)
        runner = asyncio.ensure_future(server.run())
        await server.listening()
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET ")
        await writer.drain()
        await asyncio.sleep(0)
        runner.cancel()
        async with asyncio.timeout(2):
            await asyncio.wait([runner])
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.transport.abort()

    asyncio.run(script())


def test_a_taken_port_is_one_clear_error() -> None:
    async def script(server: HealthServer) -> None:
        with pytest.raises(LocalError, match="HP-4530"):
            await HealthServer(port=server.port).run()

    serve(script)
