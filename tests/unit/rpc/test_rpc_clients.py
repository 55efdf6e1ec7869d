"""Both clients against agents that answer late, wrongly, out of order or not at all."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hostplane.errors import HostError
from hostplane.rpc import endpoint, messages
from hostplane.rpc.aio import AsyncAgentClient
from hostplane.rpc.client import AgentClient

Script = Callable[[Any, Any], None]


class Scripted:
    """An agent that does as `script(request, connection)` says, after an honest hello."""

    def __init__(self, path: str, script: Script) -> None:
        self._listener = endpoint.listen(path, 0o600)
        self._script = script
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: Any) -> None:
        with sock, sock.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                if request["method"] == "hello":
                    sock.sendall(messages.result_answer(request["id"], {"protocol": 1}))
                else:
                    self._script(request, sock)

    def close(self) -> None:
        self._listener.shutdown(2)
        self._listener.close()
        for thread in [self._accepting, *self._threads]:
            thread.join(5)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[[Script], str]]:
    made: list[Scripted] = []

    def start(script: Script) -> str:
        path = str(tmp_path / "s")
        made.append(Scripted(path, script))
        return path

    yield start
    for scripted in made:
        scripted.close()


def echo(request: Any, sock: Any) -> None:
    sock.sendall(messages.result_answer(request["id"], request["params"]))


def silent(request: Any, sock: Any) -> None:
    pass


def rubbish(request: Any, sock: Any) -> None:
    sock.sendall(b"rubbish\n")


def refuse(request: Any, sock: Any) -> None:
    sock.sendall(messages.error_answer(request["id"], HostError("VetoedByHost")))


def hang_up(request: Any, sock: Any) -> None:
    sock.shutdown(2)


FAULTS = [(silent, "AgentSlow"), (rubbish, "AgentAnswerInvalid"), (refuse, "VetoedByHost")]


@pytest.mark.parametrize(("script", "name"), FAULTS)
def test_the_blocking_client_names_what_went_wrong(agent: Any, script: Script, name: str) -> None:
    with AgentClient(agent(script), timeout=0.3) as client, pytest.raises(HostError) as caught:
        client.call("status")
    assert caught.value.name == name


def test_the_blocking_client_calls_again_and_again(agent: Any) -> None:
    with AgentClient(agent(echo)) as client:
        assert [client.call("status", n=n)["n"] for n in range(5)] == list(range(5))


def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="HP-5501"):
        AgentClient(str(tmp_path / "none")).__enter__()
    with pytest.raises(HostError, match="HP-5501"):
        asyncio.run(AsyncAgentClient(str(tmp_path / "none")).connect())


@pytest.mark.parametrize(("script", "name"), [FAULTS[0], FAULTS[2], (hang_up, "AgentUnreachable")])
def test_the_asyncio_client_names_what_went_wrong(agent: Any, script: Script, name: str) -> None:
    async def run() -> str:
        client = AsyncAgentClient(agent(script))
        await client.connect("uid")
        with pytest.raises(HostError) as caught:
            await client.call("status", timeout=0.3)
        await client.close()
        return caught.value.name

    assert asyncio.run(run()) == name


def test_the_asyncio_client_matches_answers_to_calls(agent: Any) -> None:
    kept: list[Any] = []

    def backwards(request: Any, sock: Any) -> None:
        kept.append(request)
        if len(kept) == 3:
            for held in reversed(kept):
                echo(held, sock)

    async def run() -> list[Any]:
        client = AsyncAgentClient(agent(backwards))
        greeting = await client.connect()
        assert greeting == {"protocol": 1}
        assert client.is_connected
        answers = await asyncio.gather(*(client.call("status", {"n": n}) for n in range(3)))
        await client.close()
        assert not client.is_connected
        return [answer["n"] for answer in answers]

    assert asyncio.run(run()) == [0, 1, 2]


def test_a_broken_connection_fails_what_is_pending_and_connecting_again_works(agent: Any) -> None:
    seen: list[Any] = []

    def break_once(request: Any, sock: Any) -> None:
        seen.append(request)
        (hang_up if len(seen) == 1 else echo)(request, sock)

    async def run() -> dict[str, Any]:
        client = AsyncAgentClient(agent(break_once))
        await client.connect()
        with pytest.raises(HostError, match="HP-5501"):
            await client.call("wait", {"revision": 1, "timeoutSeconds": 60})
        with pytest.raises(HostError, match="HP-5501"):
            await client.call("status")
        await client.connect()
        answer = await client.call("status", {"n": 1})
        await client.close()
        return answer

    assert asyncio.run(run()) == {"n": 1}
