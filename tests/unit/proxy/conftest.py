"""A scripted agent on a real unix socket, for what an honest agent does not do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostplane.proxy.view import Signal

DEADLINE = 5.0
Answer = dict[str, Any] | bytes | None


class FakeAgent:
    """Answers `status` and `wait` from `status`; everything else with `answers[method](params)`.

    An answer of bytes is sent as it is, None is silence, a dict with "error" is a refusal.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.status: dict[str, Any] = {"schema": "1.0", "revision": 1, "phase": "Idle", "activeSlot": "A"}
        self.answers: dict[str, Callable[[dict[str, Any]], Answer]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.connections = 0
        self.open = 0
        self.happened = Signal()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FakeAgent:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        """Die: the socket goes, connections break."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def say(self, **changes: Any) -> None:
        """Another Status."""
        self.status = {**self.status, **changes, "revision": self.status["revision"] + 1}
        self.happened.fire()

    def count(self, method: str) -> int:
        return sum(name == method for name, _ in self.calls)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that the agent sees."""
        await until(self.happened, holds)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        self.happened.fire()
        try:
            while line := await reader.readline():
                request = json.loads(line)
                answer = await self._answer(request["method"], request["params"])
                if isinstance(answer, dict):
                    kind = "error" if "error" in answer else "result"
                    body = {"jsonrpc": "2.0", "id": request["id"], kind: answer.get("error", answer)}
                    answer = json.dumps(body).encode() + b"\n"
                if answer is not None:
                    writer.write(answer)
                    await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            self.happened.fire()
            writer.close()

    async def _answer(self, method: str, params: dict[str, Any]) -> Answer:
        self.calls.append((method, params))
        self.happened.fire()
        if method in self.answers:
            return self.answers[method](params)
        if method == "wait":
            try:
                async with asyncio.timeout(params["timeoutSeconds"]):
                    while self.status["revision"] == params["revision"]:
                        await self.happened.wait()
            except TimeoutError:
                pass
        if method == "hello":
            return {"protocol": 1, "agent": "fake", "schema": "1.0"}
        return self.status


async def until(signal: Signal, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not holds():
            await signal.wait()


@pytest.fixture
def fake_agent(tmp_path: Path) -> FakeAgent:
    return FakeAgent(tmp_path / "agent.sock")
