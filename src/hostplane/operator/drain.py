"""Empties nodes through the eviction API, hundreds side by side, each with a deadline and a reason for every wait.

One task per node repeats a round until nothing is left: list the node's pods, decide (planning/eviction.py), evict what
is due, look again after a pause that grows while nothing moves. Each round begins from what the API server says, so a
drain may be abandoned at any instruction and started again by anybody; that changes its timing, never its outcome.

What it refuses: to call a node drained that it could not list, to evict anything while one pod's class is refused, to
delete a pod past its budget, to wait without a deadline. At most `concurrency` requests and as many rounds run at once;
only rounds hold pod lists in memory, between them a drain keeps names and numbers.

Give it a Session of its own, with `concurrency` connections: an API server takes up to 100 ms for an eviction (it waits
until its copy of the budgets is fresh), and hundreds of them would hold up the operator's other requests.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Callable, Sequence

import msgspec
import structlog

from hostplane.api.core import NODE, POD_DISRUPTION_BUDGET, PodDisruptionBudget
from hostplane.api.nodegroup import Drain
from hostplane.errors import ClusterError, ConflictError, HostplaneError, NotFoundError, Reason, reason
from hostplane.kube.events import EventRecorder
from hostplane.kube.pace import Backoff
from hostplane.kube.session import Session
from hostplane.planning.eviction import TENANT, Tenant, blocking_budgets, plan_drain, pod_name, selecting_budgets

__all__ = ["DrainPace", "DrainPhase", "DrainState", "Drains"]

_log = structlog.get_logger(__name__)
_REFUSALS = ("RequestForbidden", "RequestInvalid", "ServerFailed")  # an answer, not the lack of one
_SIDE_BY_SIDE = 4  # evictions of one node
_NAMED = 5  # pods or budgets in one message; the rest is counted


class DrainPhase(enum.StrEnum):
    """Where a drain is; the last two are final."""

    RUNNING = "Running"
    DONE = "Done"
    FAILED = "Failed"


class DrainState(msgspec.Struct, frozen=True, kw_only=True):
    """What a drain can say of itself. `reason`: why it failed, or what it waits for now."""

    phase: DrainPhase = DrainPhase.RUNNING
    seq: int
    reason: Reason | None = None
    evicted: int = 0
    remaining: int = 0
    blocking: tuple[str, ...] = ()


class DrainPace(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a drain looks again; all in seconds but `attempts`. Tests shorten it."""

    look_first: float = 0.5
    """Before the first look after a round; doubles while nothing moves."""
    look_most: float = 5.0
    retry_first: float = 1.0
    """Before a refused eviction is tried again; doubles, and never less than the server's Retry-After."""
    retry_most: float = 10.0
    attempts: int = 12
    """Refusals other than a budget's of one pod, until the drain fails."""
    budgets_fresh: float = 3.0
    """How long the budgets of a namespace are taken as read."""


class _Retry:
    """One pod whose eviction was refused."""

    def __init__(self, pace: DrainPace) -> None:
        self.backoff = Backoff(pace.retry_first, pace.retry_most)
        self.not_before = 0.0
        self.failures = 0
        self.budgets: tuple[str, ...] = ()
        self.pod = ""
        self.trouble: Reason | None = None


class _Drain:
    """One node's drain, between its rounds: no pod is kept here, only names and numbers."""

    def __init__(self, node: str, policy: Drain, seq: int, until: float) -> None:
        self.node, self.policy, self.until = node, policy, until
        self.state = DrainState(seq=seq)
        self.task: asyncio.Task[None] | None = None
        self.retries: dict[str, _Retry] = {}
        self.first: frozenset[str] | None = None
        self.left = "?"
        self.evicted = 0
        self.trouble: Reason | None = None

    @property
    def is_running(self) -> bool:
        return self.state.phase is DrainPhase.RUNNING

    def interrupted(self, error: ClusterError) -> Reason:
        return reason("DrainInterrupted", node=self.node, why=str(error))


class _Budgets:
    """The PodDisruptionBudgets of a namespace, read once for all drains that ask within a few seconds."""

    def __init__(self, session: Session, fresh: float, clock: Callable[[], float]) -> None:
        self._session, self._fresh, self._clock = session, fresh, clock
        self._read: dict[str, tuple[float, list[PodDisruptionBudget]]] = {}
        self._lock = asyncio.Lock()

    async def of(self, namespace: str) -> list[PodDisruptionBudget]:
        """Empty where they cannot be read: they only give a name to what the API server has decided already."""
        async with self._lock:
            oldest = self._clock() - self._fresh
            self._read = {name: read for name, read in self._read.items() if read[0] > oldest}
            if namespace not in self._read:
                try:
                    budgets = (await self._session.list(POD_DISRUPTION_BUDGET, namespace)).items
                except ClusterError as error:
                    _log.warning("budgets_unreadable", namespace=namespace, error=str(error))
                    budgets = []
                self._read[namespace] = (self._clock(), budgets)
            return self._read[namespace][1]


class Drains:
    """All drains of one operator. Everything runs in `run()`; the rest may be called at any time from the same loop.

    `fence` is called right before each eviction; it raises a ClusterError where this process may not write any more.
    """

    def __init__(
        self,
        session: Session,
        recorder: EventRecorder | None = None,
        on_change: Callable[[str], None] | None = None,
        *,
        fence: Callable[[], None] = lambda: None,
        concurrency: int = 16,
        pace: DrainPace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._recorder, self._on_change, self._fence = session, recorder, on_change, fence
        self._pace, self._clock = pace or DrainPace(), clock
        self._drains: dict[str, _Drain] = {}
        self._rounds, self._requests = asyncio.Semaphore(concurrency), asyncio.Semaphore(concurrency)
        self._wake = asyncio.Event()
        self._budgets = _Budgets(session, self._pace.budgets_fresh, clock)

    def start(self, node_name: str, policy: Drain, seq: int, *, spent_seconds: float = 0.0) -> None:
        """Begins to drain a node, or goes on; the same seq again changes nothing, another one begins anew.

        `spent_seconds` of the deadline count as used, for an operator that takes over. With policy.skip the state is
        Done at once. `on_change` is not called from here.
        """
        current = self._drains.get(node_name)
        if current is not None and current.state.seq == seq:
            return
        self.cancel(node_name)
        drain = _Drain(node_name, policy, seq, self._clock() + policy.deadline_seconds - spent_seconds)
        if policy.skip:
            drain.state = DrainState(phase=DrainPhase.DONE, seq=seq, reason=reason("DrainSkipped", node=node_name))
        self._drains[node_name] = drain
        self._wake.set()

    def cancel(self, node_name: str) -> None:
        """Stops a node's drain and forgets its state; evictions already accepted stay. Safe to repeat."""
        drain = self._drains.pop(node_name, None)
        if drain is not None and drain.task is not None:
            drain.task.cancel()

    def state(self, node_name: str) -> DrainState | None:
        """How far the node's drain is; None if none was started."""
        drain = self._drains.get(node_name)
        return drain.state if drain else None

    def nodes(self) -> tuple[str, ...]:
        """The nodes whose drain was started and not cancelled, finished ones included."""
        return tuple(self._drains)

    @property
    def blocked(self) -> int:
        """How many drains wait for a PodDisruptionBudget now."""
        return sum(1 for drain in self._drains.values() if drain.is_running and drain.state.blocking)

    async def run(self) -> None:
        """Works on every drain until cancelled; one node's error fails that node's drain only.

        When it ends it forgets all drains: whoever leads next may have released their nodes. May be run again.
        """
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._wake.clear()
                    for drain in self._drains.values():
                        if drain.is_running and drain.task is None:
                            drain.task = group.create_task(self._drain(drain), name=f"drain {drain.node}")
                    await self._wake.wait()
        finally:
            self._drains.clear()

    async def _drain(self, drain: _Drain) -> None:
        try:
            async with asyncio.timeout(drain.until - self._clock()) as limit:
                await self._empty(drain)
            self._end(drain, DrainPhase.DONE, reason("Drained", node=drain.node, evicted=drain.state.evicted))
        except HostplaneError as error:
            self._end(drain, DrainPhase.FAILED, error.reason)
        except Exception as error:  # the one place that must outlive any node's trouble
            if isinstance(error, TimeoutError) and limit.expired():
                self._end(drain, DrainPhase.FAILED, self._overdue(drain))
            else:
                _log.exception("drain_broke", node=drain.node)
                cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
                why = f"{type(cause).__name__}: {cause}"[:300]
                self._end(drain, DrainPhase.FAILED, reason("DrainBroken", node=drain.node, why=why))

    async def _empty(self, drain: _Drain) -> None:
        """Rounds until nothing is left, or until the deadline above cancels them."""
        pause = Backoff(self._pace.look_first, self._pace.look_most)
        while True:
            before = (drain.state.remaining, drain.state.evicted)
            async with self._rounds:
                if await self._round(drain):
                    return
            if (drain.state.remaining, drain.state.evicted) != before:
                pause.reset()
            await asyncio.sleep(pause.wait())

    async def _round(self, drain: _Drain) -> bool:
        """Looks once at the node and evicts what is due; True when nothing is left that has to leave.

        Raises:
            ClusterError: DrainRefused or DrainEvictionFailed, both final.
        """
        pods = await self._list(drain)
        if pods is None:
            self._report(drain)
            return False
        if drain.first is None:
            drain.first = frozenset(pod.metadata.uid for pod in pods)
        plan = plan_drain(pods, drain.policy, drain.first)
        if plan.refused:
            names, why = _named([pod_name(pod) for pod, _ in plan.refused]), plan.refused[0][1]
            raise ClusterError("DrainRefused", node=drain.node, count=len(plan.refused), pods=names, why=str(why))
        drain.left = _named([pod_name(pod) for pod in (*plan.evict, *plan.wait)])
        uids = {pod.metadata.uid for pod in plan.evict}
        drain.retries = {uid: retry for uid, retry in drain.retries.items() if uid in uids}
        self._set(drain, msgspec.structs.replace(drain.state, remaining=len(plan.evict) + len(plan.wait)))
        await self._evict_due(drain, plan.evict)
        self._report(drain)
        return plan.is_done

    async def _evict_due(self, drain: _Drain, pods: Sequence[Tenant]) -> None:
        """Asks for every pod whose time has come, a few side by side, until one meets what the others would meet too.

        Raises:
            ClusterError: DrainEvictionFailed.
        """
        now, retries = self._clock(), drain.retries
        due = [pod for pod in pods if pod.metadata.uid not in retries or retries[pod.metadata.uid].not_before <= now]
        due.sort(key=lambda pod: pod.metadata.uid in retries)  # nobody waits behind a stubborn one
        queue, failures = iter(due), list[ClusterError]()

        async def work() -> None:
            for pod in queue:
                try:
                    if not await self._evict(drain, pod):
                        break
                except ClusterError as error:
                    failures.append(error)
                    break

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_SIDE_BY_SIDE, len(due))):
                group.create_task(work())
        if failures:
            raise failures[0]

    async def _list(self, drain: _Drain) -> list[Tenant] | None:
        """The node's pods, or None with the trouble noted: what could not be read is never taken for empty."""
        try:
            async with self._requests:
                listing = await self._session.list(TENANT, field_selector=f"spec.nodeName={drain.node}")
            if listing.undecodable:
                first = listing.undecodable[0]
                raise ClusterError("AnswerUndecodable", what=f"Pod {first.key}", why=first.why)
        except ClusterError as error:
            drain.trouble = drain.interrupted(error)
            return None
        drain.trouble = None
        return listing.items

    async def _evict(self, drain: _Drain, pod: Tenant) -> bool:
        """Asks once for one pod; False when the rest of this round would meet the same trouble.

        Raises:
            ClusterError: DrainEvictionFailed after too many refusals that are no budget's.
        """
        metadata = pod.metadata
        try:
            async with self._requests:
                self._fence()
                await self._session.evict(
                    metadata.namespace, metadata.name, metadata.uid, drain.policy.grace_period_seconds
                )
        except (NotFoundError, ConflictError):
            return True  # gone, or another pod by that name: the next listing tells
        except ClusterError as error:
            retry = drain.retries.setdefault(metadata.uid, _Retry(self._pace))
            retry.pod, retry.budgets = pod_name(pod), await self._in_the_way(pod, error)
            retry.not_before = self._clock() + retry.backoff.wait(getattr(error, "retry_after", None))
            retry.trouble = None if retry.budgets else drain.interrupted(error)
            if retry.budgets:
                return True
            if error.name in _REFUSALS:
                retry.failures += 1
                if retry.failures >= self._pace.attempts:
                    raise ClusterError(
                        "DrainEvictionFailed",
                        node=drain.node,
                        pod=retry.pod,
                        attempts=retry.failures,
                        why=str(error),
                    ) from error
            return False
        drain.retries.pop(metadata.uid, None)
        drain.evicted += 1
        return True

    async def _in_the_way(self, pod: Tenant, error: ClusterError) -> tuple[str, ...]:
        """The budgets that stand behind a refused eviction; none if it was refused for something else."""
        if error.name not in ("EvictionBlocked", "ServerFailed"):
            return ()
        budgets = await self._budgets.of(pod.metadata.namespace)
        selecting = selecting_budgets(pod, budgets)
        if error.name == "ServerFailed":  # how the API server says that several budgets select one pod
            return selecting if len(selecting) > 1 else ()
        return blocking_budgets(pod, budgets) or selecting or (f"{pod.metadata.namespace}/?",)

    def _report(self, drain: _Drain) -> None:
        blocked = [retry for retry in drain.retries.values() if retry.budgets]
        blocking = tuple(sorted({name for retry in blocked for name in retry.budgets}))
        why = _trouble(drain)
        if blocking:
            pods = _named([retry.pod for retry in blocked])
            why = reason("DrainBlocked", node=drain.node, budgets=_named(blocking), pods=pods)
            if blocking != drain.state.blocking:
                self._emit(drain, why, failed=True)
        self._set(drain, msgspec.structs.replace(drain.state, reason=why, blocking=blocking, evicted=drain.evicted))

    def _overdue(self, drain: _Drain) -> Reason:
        return reason(
            "DrainDeadline",
            node=drain.node,
            count=drain.state.remaining if drain.first is not None else "?",
            seconds=drain.policy.deadline_seconds,
            pods=drain.left,
            budgets=_named(drain.state.blocking) or "-",
            why=_trouble(drain) or "-",
        )

    def _end(self, drain: _Drain, phase: DrainPhase, why: Reason) -> None:
        failed = phase is DrainPhase.FAILED
        _log.info("drain_ended", node=drain.node, phase=str(phase), reason=why.name, evicted=drain.state.evicted)
        self._emit(drain, why, failed=failed)
        drain.retries.clear()
        drain.first = frozenset()
        self._set(drain, msgspec.structs.replace(drain.state, phase=phase, reason=why))

    def _emit(self, drain: _Drain, why: Reason, *, failed: bool) -> None:
        if self._recorder is not None:
            self._recorder.emit(NODE, drain.node, why, type="Warning" if failed else "Normal")

    def _set(self, drain: _Drain, state: DrainState) -> None:
        changed, drain.state = state != drain.state, state
        if changed and self._on_change is not None and self._drains.get(drain.node) is drain:
            self._on_change(drain.node)


def _trouble(drain: _Drain) -> Reason | None:
    """What keeps the drain from being answered at all, the listing first."""
    return drain.trouble or next((retry.trouble for retry in drain.retries.values() if retry.trouble), None)


def _named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" (+{len(names) - _NAMED})" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
