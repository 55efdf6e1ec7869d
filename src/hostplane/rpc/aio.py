"""The asyncio client of the agent's socket, for the proxy: many calls over one connection, each with its own deadline.

Answers are matched to calls by id, so a `wait` may hang while `status` is asked. When the connection breaks, every
pending call fails at once and the client says so; whoever owns it connects anew and reads `status`.
"""

import asyncio
from typing import Any, Dict, Optional

from hostplane.errors import HostError

from . import endpoint, messages

__all__ = ["AsyncAgentClient"]


class AsyncAgentClient(object):
    """`await connect()`, then `call` as often as wanted; `await close()` at the end."""

    def __init__(self, path: str, timeout: float = 10.0, name: str = "hostplane") -> None:
        self._path = path
        self._timeout = timeout
        self._name = name
        self._writer: Optional[asyncio.StreamWriter] = None
        self._listener: "Optional[asyncio.Future[None]]" = None
        self._pending: "Dict[int, asyncio.Future[Any]]" = {}
        self._last = 0

    @property
    def is_connected(self) -> bool:
        """Whether calls can be made."""
        return self._writer is not None

    async def connect(self, host_uid: str = "") -> Dict[str, Any]:
        """Connect and say hello; gives the agent's greeting {protocol, agent, schema}.

        Raises:
            AgentError: the agent refused us. HostError: AgentUnreachable, AgentSlow.
        """
        await self.close()
        sock = endpoint.connect(self._path, self._timeout)  # a local connect never waits for a network
        sock.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(sock=sock, limit=messages.ANSWER_LIMIT)
        self._listener = asyncio.ensure_future(self._listen(reader, self._writer))
        try:
            return await self.hello(host_uid)
        except BaseException:
            await self.close()
            raise

    async def hello(self, host_uid: str = "") -> Dict[str, Any]:
        """Agree on a protocol; `host_uid` is the Host object's own uid."""
        hello = {"protocols": list(messages.PROTOCOLS), "client": self._name, "hostUid": host_uid}
        return await self.call(messages.HELLO, hello)

    async def call(
        self, method: str, params: Optional[Dict[str, Any]] = None, timeout: Optional[float] = None
    ) -> Dict[str, Any]:
        """The result of `method` within `timeout` seconds (a `wait` gets its own time on top).

        Raises:
            AgentError: the agent refused. HostError: AgentUnreachable, AgentSlow, AgentAnswerInvalid.
        """
        params = params or {}
        allowed = self._timeout if timeout is None else timeout
        if method == messages.WAIT:
            allowed += float(params.get("timeoutSeconds", 0))
        if self._writer is None:
            raise HostError("AgentUnreachable", socket=self._path, detail="not connected")
        self._last += 1
        ident = self._last
        answer: "asyncio.Future[Any]" = asyncio.get_event_loop().create_future()
        self._pending[ident] = answer
        try:
            self._writer.write(messages.request(ident, method, params))
            result = await asyncio.wait_for(self._answered(answer, ident), allowed)
        except asyncio.TimeoutError:
            raise HostError("AgentSlow", socket=self._path, seconds=allowed) from None
        finally:
            self._pending.pop(ident, None)
            answer.cancel()
        if not isinstance(result, dict):
            raise HostError("AgentAnswerInvalid", detail="the result is not an object")
        return result

    async def _answered(self, answer: "asyncio.Future[Any]", ident: int) -> Any:
        if self._writer is not None:
            try:
                await self._writer.drain()
            except OSError:
                pass  # the listener sees the broken connection, after what the agent said last
        return messages.result_of(await answer, ident)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        why = "the agent closed the connection"
        try:
            while True:
                raw = await reader.readline()
                if not raw:
                    break
                value = messages.load_answer(raw)
                ident = value.get("id") if isinstance(value, dict) else None
                pending = self._pending.get(ident) if isinstance(ident, int) else None
                if pending is None and ident is None and self._pending:  # a refusal that names no call: of the oldest
                    pending = next(iter(self._pending.values()))
                if pending is not None and not pending.done():
                    pending.set_result(value)
        except (OSError, ValueError, HostError) as fault:
            why = str(fault)
        finally:
            if self._writer is writer:
                self._writer = None
            writer.close()
            for pending in list(self._pending.values()):
                if not pending.done():
                    pending.set_exception(HostError("AgentUnreachable", socket=self._path, detail=why))

    async def close(self) -> None:
        """End the connection and fail what is pending; safe to repeat."""
        listener, self._listener, self._writer = self._listener, None, None
        if listener is not None:
            listener.cancel()
            await asyncio.wait([listener])
