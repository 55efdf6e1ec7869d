"""One leader among replicas, by a Lease, safe under skewed clocks and paused processes.

No time written by another machine is ever compared with ours. A follower starts its own clock when it sees the record
change, and takes over when it has not changed for the whole duration. The leader counts from *before* it sent its last
successful renewal, and only for the shorter renew deadline: so its own answer turns to False before anybody else may
begin, however long it was stopped meanwhile, because the clock is looked at on every question.

    leader:    sent ├──── renew deadline ────┤ is_leader False
    follower:    seen ├────────── duration ──────────┤ may take over

The clock is CLOCK_BOOTTIME: it goes on while the machine sleeps. What this cannot stop is a write that was already on
its way when the process was stopped; such writes carry a resource version (the operator's part).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import time
from collections.abc import Awaitable, Callable
from typing import Any

from hostplane.api.meta import ApiStruct, ObjectMeta, Resource
from hostplane.errors import ClusterError, ConflictError, NotFoundError
from hostplane.kube.session import Session

__all__ = ["LEASE", "Leader", "Lease"]

_NEVER = float("-inf")
_RECORD_LIMIT = 600  # seconds; a record that claims a longer duration is not believed


class LeaseSpec(ApiStruct, frozen=True, kw_only=True, gc=False):
    """Who holds it, for how many seconds; the times are for people."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(ApiStruct, frozen=True, kw_only=True, gc=False):
    """coordination.k8s.io/v1 Lease."""

    metadata: ObjectMeta = ObjectMeta()
    spec: LeaseSpec = LeaseSpec()


LEASE = Resource(Lease, "coordination.k8s.io", "v1", "Lease", "leases", namespaced=True)


def boot_clock() -> float:
    """Seconds since boot, sleep included; the machine's monotonic clock where there is no such thing."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Leader:
    """A candidate for one Lease. `acquire`, then keep `lost` running: it renews, and returns when it is over."""

    def __init__(
        self,
        session: Session,
        namespace: str,
        name: str,
        identity: str,
        duration: float = 15,
        renew: float = 10,
        retry: float = 2,
        *,
        clock: Callable[[], float] = boot_clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare; nothing happens before `acquire`.

        Args:
            identity: unlike any other process's, also this one's predecessor (pod name and a random part).
            duration: seconds without a sign of the leader after which others may take over.
            renew: seconds for which the leader believes in itself after it sent a renewal; less than `duration`.
            retry: seconds between renewals and between looks.
        """
        if not 0 < retry < renew < duration:
            raise ValueError("retry < renew < duration, or two leaders are possible")
        self._session, self._namespace, self._name = session, namespace, name
        self.identity = identity
        self._duration, self._renew, self._retry = duration, renew, retry
        self._clock, self._sleep = clock, sleep
        self._deadline = _NEVER
        self._version = ""
        self._writing = asyncio.Lock()  # a release must not be overtaken by a renewal under way
        self._seen: tuple[str, float] | None = None  # the record's version, and when we first saw it

    @property
    def is_leader(self) -> bool:
        """Whether this process may act, at this very moment."""
        return self._clock() < self._deadline

    @property
    def remaining(self) -> float:
        """Seconds for which `is_leader` stays true without another renewal; never negative."""
        return max(0.0, self._deadline - self._clock())

    def fence(self) -> None:
        """Pass only for the leader; call it right before a write.

        Raises:
            ClusterError: LeadershipLost.
        """
        if not self.is_leader:
            raise ClusterError("LeadershipLost", identity=self.identity)

    async def acquire(self) -> None:
        """Wait until this process is the leader. API errors are waited out; losing a race is one of them."""
        while not self.is_leader:
            with contextlib.suppress(ClusterError, TimeoutError):
                async with asyncio.timeout(self._renew):
                    await self._try_to_take()
            if not self.is_leader:
                await self._sleep(self._retry)

    async def lost(self) -> None:
        """Renew until leadership is lost, then return; at once if it never was held. Run it in a TaskGroup."""
        while self.is_leader:
            await self._sleep(min(self._retry, self.remaining))
            with contextlib.suppress(ClusterError, TimeoutError):  # the deadline decides
                async with asyncio.timeout(min(self.remaining, self._renew / 2)), self._writing:
                    await self._renew_once()
        self._deadline = _NEVER

    async def release(self) -> None:
        """Stop being the leader at once and let the next one begin; API errors only make the next one wait."""
        held = self.is_leader
        self._deadline = _NEVER
        if held:
            with contextlib.suppress(ClusterError, TimeoutError):
                async with asyncio.timeout(self._retry), self._writing:
                    self._deadline = _NEVER
                    await self._write({"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()})

    async def _try_to_take(self) -> None:
        sent = self._clock()
        try:
            lease = await self._session.get(LEASE, self._name, self._namespace, urgent=True)
        except NotFoundError:
            if self._seen is not None and not self._has_been("", self._duration):
                return  # deleted under a leader: it has to notice first
            body = LEASE.manifest(self._name, self._namespace, spec=self._claim(0))
            self._won(sent, await self._session.create(LEASE, body, self._namespace, urgent=True))
            return
        spec = lease.spec
        if spec.holder_identity and spec.holder_identity != self.identity:
            duration = max(self._duration, min(spec.lease_duration_seconds or 0, _RECORD_LIMIT))
            if not self._has_been(lease.metadata.resource_version, duration):
                return
        self._version = lease.metadata.resource_version
        sent = self._clock()
        self._won(sent, await self._write(self._claim((spec.lease_transitions or 0) + 1)))

    def _has_been(self, version: str, seconds: float) -> bool:
        """Whether we have seen the record in this version, and in no other, for so long."""
        now = self._clock()
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, now)
        return now - self._seen[1] >= seconds

    async def _renew_once(self) -> None:
        if not self.is_leader:
            return
        sent = self._clock()
        try:
            self._won(sent, await self._write({"renewTime": _now()}))
        except NotFoundError:  # somebody deleted it: the next one may come at any moment
            self._deadline = _NEVER
        except ConflictError:
            lease = await self._session.get(LEASE, self._name, self._namespace, urgent=True)
            if lease.spec.holder_identity == self.identity:  # it was labelled, or our own lost write arrived after all
                self._version = lease.metadata.resource_version
            else:
                self._deadline = _NEVER

    def _won(self, sent: float, lease: Lease) -> None:
        self._version = lease.metadata.resource_version
        self._deadline = sent + self._renew
        self._seen = None

    def _claim(self, transitions: int) -> dict[str, Any]:
        now = _now()
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._duration)),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }

    async def _write(self, spec: dict[str, Any]) -> Lease:
        body = {"metadata": {"resourceVersion": self._version}, "spec": spec}
        return await self._session.patch(LEASE, self._name, body, self._namespace, urgent=True)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
