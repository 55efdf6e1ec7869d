"""Keeps Host.status true: compares what the Host shows with what the proxy knows, and writes the difference.

Level-triggered: a write that failed, came too late or was overwritten by somebody is simply still a difference. An
outage of the API server costs attempts that grow rarer, never the conversation with the agent, which goes on meanwhile.
What a server with older CRDs drops from a write is not written again and again.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import Callable

import msgspec

from hostplane.api.host import HOST, Host, HostStatus
from hostplane.errors import ClusterError
from hostplane.kube.pace import Backoff, TokenBucket
from hostplane.kube.session import Session
from hostplane.proxy import report
from hostplane.proxy.view import HostView

__all__ = ["Reporter"]

_FIELD_MANAGER = "hostplane-proxy"
_EDGES_PER_SECOND = 0.5
_EDGES_AT_ONCE = 12  # an upgrade has six edges
_log = logging.getLogger("hostplane.proxy")


class _Draft(msgspec.Struct, frozen=True):
    name: str
    uid: str
    wanted: HostStatus
    delay: float


class Reporter:
    """Writes the last report it was offered; `told` gets the Host that each write answers with.

    Who is told must know an answer that the watch has overtaken: it would hide what somebody wrote since.
    """

    def __init__(
        self,
        session: Session,
        view: HostView,
        told: Callable[[Host], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._view, self._told, self._clock = session, view, told, clock
        self._report: report.Report | None = None
        self._bucket = TokenBucket(_EDGES_PER_SECOND, _EDGES_AT_ONCE, clock)
        self._written_at = float("-inf")
        self._settled: tuple[HostStatus, HostStatus] | None = None  # the last write: what it said, what was kept of it

    def offer(self, latest: report.Report) -> None:
        """Replace what is to be reported."""
        if latest != self._report:
            self._report = latest
            self._view.changed.fire()

    async def run(self) -> None:
        """Write for ever; ends by cancellation."""
        backoff = Backoff(first=0.5, most=60.0)
        while True:
            draft = self._draft()
            if draft is None or draft.delay > 0:
                await self._view.changed.wait(draft.delay if draft else None)
                continue
            await self._bucket.take()
            try:
                await self._write(self._draft())  # meanwhile there may be better to say, or nothing
                backoff.reset()
            except ClusterError as error:
                pause = backoff.wait(getattr(error, "retry_after", None))
                _log.warning("report_failed retry_seconds=%.1f error=%r", pause, str(error))
                await asyncio.sleep(pause)

    def _draft(self) -> _Draft | None:
        """What to write, and after how many seconds; None while the Host is as it should be."""
        host, latest = self._view.host, self._report
        if host is None or latest is None or latest.uid != host.metadata.uid:
            return None
        wanted = report.compose(latest, host.status, _now())
        if (wanted, host.status) == self._settled:
            return None
        delay = report.delay(host.status, wanted, self._clock() - self._written_at)
        return None if delay is None else _Draft(host.metadata.name, latest.uid, wanted, delay)

    async def _write(self, draft: _Draft | None) -> None:
        if draft is None:
            return
        body = report.patch(draft.uid, draft.wanted)
        answer = await self._session.patch(
            HOST, draft.name, body, subresource="status", kind="json", field_manager=_FIELD_MANAGER
        )
        self._written_at = self._clock()
        self._settled = (draft.wanted, answer.status)
        self._told(answer)
        _log.info("report_written phase=%s seq=%d", draft.wanted.phase, draft.wanted.seq)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
