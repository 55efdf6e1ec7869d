"""Carries the wish to the agent and the agent's Status back, one visit at a time.

    visit: connect, hello, status ─▶ while there is a call to make: make it ─▶ while the agent is busy: wait for news
        ▲                                                                              │ at rest: hang up
        └── the wish differs, a repeat is due, or the agent could not be reached ◀─────┘

Between visits nothing is connected, so that a socket-activated agent can exit; nothing is asked either, but a file
beside the socket is looked at, by which the agent tells of what it found without being asked. Every visit starts from
what is written in the Host and in the agent, so any of the three may be killed at any point. A call that changed
nothing, or was refused, is repeated ever more rarely. No await on the agent is without a time limit.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

import msgspec

from hostplane.api.host import Phase, Preview, PreviewStatus
from hostplane.errors import HostError, Reason
from hostplane.kube.pace import Backoff, TokenBucket
from hostplane.proxy.decide import AgentStatus, Call, is_at_rest, next_call
from hostplane.proxy.report import Report
from hostplane.proxy.view import HostView, Wish
from hostplane.rpc import messages
from hostplane.rpc.aio import AsyncAgentClient

__all__ = ["Courier", "Repeats"]

_LISTEN_SECONDS = 25.0
_PROOF_SECONDS = 1.0  # the first wait after a failed visit: an answer to it shows that the agent is back
_REBOOT_SECONDS = 0.5  # between two looks whether it is up again
_REBOOT_PATIENCE_SECONDS = 120.0
_NEWS_SECONDS = 20.0  # between two looks whether the agent has found something by itself (drift)
_WORK_SECONDS = 60.0  # a call that writes to the host's disk may take that long
_NOT_YET = ("ChecksRunning", "OperationUnderWay")  # refusals that only mean: ask again
_log = logging.getLogger("hostplane.proxy")


class Repeats:
    """When the same call may be made once more: ever more rarely.

    An image that cannot be fetched is asked for again after 2 s, 4 s... half an hour; anything else within a minute.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: Call | None = None
        self._backoff = Backoff()
        self._next = 0.0

    def delay(self, call: Call) -> float:
        """Seconds until `call` may be made."""
        return max(0.0, self._next - self._clock()) if call == self._last else 0.0

    def note(self, call: Call) -> None:
        """`call` is being made."""
        if call != self._last:
            self._last = call
            is_fetch = call.method == messages.STAGE
            self._backoff = Backoff(first=2.0, most=1800.0) if is_fetch else Backoff(first=1.0, most=60.0)
        self._next = self._clock() + self._backoff.wait()

    def forget(self) -> None:
        """What the last call met has changed; the next one may be made at once."""
        self._last = None


class Courier:
    """Between `view` and the agent behind `socket`; `offer` takes each report.

    `answer_seconds` bounds one answer of the agent. `patience_seconds` is how long it may be out of reach before the
    Host says so, for agents are updated; a host that said it reboots has two minutes at least.
    """

    def __init__(
        self,
        view: HostView,
        offer: Callable[[Report], None],
        socket: str,
        *,
        name: str,
        answer_seconds: float,
        patience_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view, self._offer, self._socket, self._name = view, offer, socket, name
        self._answer_seconds, self._patience, self._clock = answer_seconds, patience_seconds, clock
        self._repeats = Repeats(clock)
        self._listening = TokenBucket(rate=4, burst=20, clock=clock)
        self._status: AgentStatus | None = None  # the last one, of the Host with this uid
        self._uid = ""
        self._refusal: tuple[Call, Reason] | None = None
        self._preview: tuple[Preview, PreviewStatus] | None = None
        self._backoff = Backoff(first=0.2, most=15.0)
        self._lost_at: float | None = None  # when the first of the failed visits began
        self._unreachable: Reason | None = None

    async def run(self) -> None:
        """Visit for ever; ends by cancellation."""
        while True:
            wish = self._view.wish
            if wish is None:
                await self._view.other_wish(None)
                continue
            if wish[0] != self._uid:
                self._uid, self._status, self._refusal, self._preview = wish[0], None, None, None
                self._trust()
            started, known = self._clock(), self._news_time()
            try:
                pause = await self._visit(wish)
            except HostError as error:
                pause = self._miss(error, started)
            await self._rest(wish, pause, known)

    async def _rest(self, wish: Wish, seconds: float | None, known: int) -> None:
        """Until the wish is another one, `seconds` are over, or the agent has news that are not the `known` ones.

        Only a file's time is looked at, so that a resting agent need not run.
        """
        left = seconds
        while self._news_time() == known and (left is None or left > 0):
            if await self._view.other_wish(wish, _NEWS_SECONDS if left is None else min(left, _NEWS_SECONDS)):
                return
            left = None if left is None else left - _NEWS_SECONDS

    def _news_time(self) -> int:
        try:
            return os.stat(os.path.join(os.path.dirname(self._socket), "news")).st_mtime_ns
        except OSError:
            return 0

    def _trust(self) -> None:
        """The agent has done more than to greet us: it is there."""
        self._lost_at = self._unreachable = None
        self._backoff.reset()

    def _miss(self, error: HostError, started: float) -> float:
        """The visit begun at `started` failed; returns the seconds until the next one."""
        if self._lost_at is None:
            self._lost_at = started
        pause = self._backoff.wait()
        is_down = self._status is not None and self._status.phase == Phase.REBOOTING
        patience = max(self._patience, _REBOOT_PATIENCE_SECONDS) if is_down else self._patience
        left = patience - (self._clock() - self._lost_at)
        _log.warning("agent_missed retry_seconds=%.1f error=%r", pause, str(error))
        if left > 0:
            return min(pause, left)
        self._unreachable = error.reason
        self._report()
        return pause

    async def _visit(self, wish: Wish) -> float | None:
        """Serve `wish` until the agent rests or the wish is another one.

        Returns:
            Seconds until the next visit is due; None when only another wish calls for one.

        Raises:
            HostError: the agent cannot be reached, is slow, speaks nonsense or refuses to talk.
        """
        agent = AsyncAgentClient(self._socket, self._answer_seconds, self._name)
        try:
            await agent.connect(self._uid)
            status = _decoded(await agent.call(messages.STATUS))
            self._preview = await self._answered(agent, wish[1].preview) if wish is not None else None
            while self._view.wish == wish and wish is not None:
                call = next_call(wish[1], status)
                wait = self._repeats.delay(call) if call else None
                if self._refusal and self._refusal[0] != call:
                    self._refusal = None
                rests = is_at_rest(status) and (call is None or bool(wait))
                if rests:
                    self._trust()
                self._status = status
                self._report()
                if rests:
                    return wait
                if status.phase == Phase.REBOOTING:
                    return _REBOOT_SECONDS  # who listens would only keep it from going down
                if call and not wait:
                    status = await self._make(agent, call)
                else:
                    await self._listening.take()
                    after = await self._listen(agent, wish, status.revision, wait) or status
                    if after.revision != status.revision and after.phase == Phase.TRIAL:
                        self._repeats.forget()  # a check may have ended that the confirmation waits for
                    status = after
                self._trust()
            return 0.0
        finally:
            await agent.close()

    async def _make(self, agent: AsyncAgentClient, call: Call) -> AgentStatus:
        """Make `call`; a refusal is kept for the report and the status asked for anew."""
        self._repeats.note(call)
        _log.info("agent_called method=%s", call.method)
        try:
            answer = await agent.call(call.method, call.params, timeout=max(_WORK_SECONDS, self._answer_seconds))
        except messages.AgentError as error:
            _log.warning("agent_refused method=%s error=%r", call.method, str(error))
            self._refusal = (call, error.reason) if error.name not in _NOT_YET else None
            answer = await agent.call(messages.STATUS)
        else:
            self._refusal = None
        return _decoded(answer)

    async def _answered(self, agent: AsyncAgentClient, asked: Preview | None) -> tuple[Preview, PreviewStatus] | None:
        """The Host's question with the agent's answer, or its refusal; asked once, since nothing is kept of it."""
        if asked is None or (self._preview is not None and self._preview[0] == asked):
            return self._preview if asked is not None else None
        try:
            params = {"settings": msgspec.to_builtins(asked)}
            said = await agent.call(messages.PREVIEW, params, timeout=max(_WORK_SECONDS, self._answer_seconds))
            answer = msgspec.structs.replace(msgspec.convert(said, PreviewStatus), id=asked.id)
        except messages.AgentError as error:
            answer = PreviewStatus(id=asked.id, error=str(error)[:4096])
        except msgspec.ValidationError as error:
            raise HostError("AgentAnswerInvalid", detail=str(error)) from error
        return asked, answer

    async def _listen(
        self, agent: AsyncAgentClient, wish: Wish, revision: int, seconds: float | None
    ) -> AgentStatus | None:
        """The Status after `revision`, at the latest after `seconds`; None when the wish became another one first."""
        most = _LISTEN_SECONDS if self._lost_at is None else _PROOF_SECONDS
        params = {"revision": revision, "timeoutSeconds": min(most, seconds or most)}
        answer = asyncio.ensure_future(agent.call(messages.WAIT, params))
        other = asyncio.ensure_future(self._view.other_wish(wish))
        try:
            await asyncio.wait((answer, other), return_when=asyncio.FIRST_COMPLETED)
            return _decoded(answer.result()) if answer.done() else None
        finally:
            answer.cancel()
            other.cancel()
            await asyncio.gather(answer, other, return_exceptions=True)

    def _report(self) -> None:
        refusal = self._refusal[1] if self._refusal else None
        preview = self._preview[1] if self._preview else None
        self._offer(
            Report(
                uid=self._uid,
                status=self._status,
                unreachable=self._unreachable,
                refusal=refusal,
                preview=preview,
            )
        )


def _decoded(answer: object) -> AgentStatus:
    """The Status in an agent's answer.

    Raises:
        HostError: AgentAnswerInvalid, AgentSchemaUnknown.
    """
    try:
        status = msgspec.convert(answer, AgentStatus)
    except msgspec.ValidationError as error:
        raise HostError("AgentAnswerInvalid", detail=str(error)) from error
    if status.schema.partition(".")[0] != messages.SCHEMA.partition(".")[0]:
        raise HostError("AgentSchemaUnknown", schema=status.schema)
    return status
