"""A small blocking client of the agent's socket, for the command line, scripts and tests.

One connection, one call at a time. It never retries: whoever calls knows whether the call may be repeated.
"""

import socket
from typing import Any, Dict, Optional, Sequence

from hostplane.errors import HostError

from . import endpoint, framing, messages

__all__ = ["AgentClient"]


class AgentClient(object):
    """`with AgentClient(path) as agent: agent.call("status")`; says hello when it connects.

    `timeout` (seconds) bounds connecting and each answer; a `wait` gets its own time on top.
    """

    def __init__(
        self,
        path: str,
        timeout: float = 10.0,
        host_uid: str = "",
        name: str = "hostplane",
        protocols: Sequence[int] = messages.PROTOCOLS,
    ) -> None:
        self._path = path
        self._timeout = timeout
        self._hello = {"protocols": list(protocols), "client": name, "hostUid": host_uid}
        self._sock: Optional[socket.socket] = None
        self._last = 0
        self.greeting: Dict[str, Any] = {}

    def __enter__(self) -> "AgentClient":
        self._sock = endpoint.connect(self._path, self._timeout)
        self._reader = framing.LineReader(self._sock, messages.ANSWER_LIMIT, self._timeout)
        try:
            self.greeting = self.call(messages.HELLO, **self._hello)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; safe to repeat."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def call(self, method: str, **params: Any) -> Dict[str, Any]:
        """The result of `method`.

        Raises:
            AgentError: the agent refused.
            HostError: AgentUnreachable, AgentSlow or AgentAnswerInvalid; the connection is closed then.
        """
        if self._sock is None:
            raise HostError("AgentUnreachable", socket=self._path, detail="the connection is closed")
        self._last += 1
        allowed = self._timeout + (float(params.get("timeoutSeconds", 0)) if method == messages.WAIT else 0)
        if not framing.send(self._sock, messages.request(self._last, method, params), self._timeout):
            raw = self._pending_answer()
        else:
            raw = self._reader.read(allowed)
        if raw is None:
            self.close()
            raise HostError("AgentSlow", socket=self._path, seconds=allowed)
        try:
            result = messages.result_of(messages.load_answer(raw), self._last)
        except messages.AgentError:
            raise
        except HostError:
            self.close()
            raise
        if not isinstance(result, dict):
            raise HostError("AgentAnswerInvalid", detail="the result is not an object")
        return result

    def _pending_answer(self) -> Optional[bytes]:
        """An agent that stops listening says why before it closes; without that the call was never heard."""
        raw = self._reader.read(1.0)
        if raw is None:
            self.close()
            raise HostError("AgentUnreachable", socket=self._path, detail="the agent closed the connection")
        return raw
