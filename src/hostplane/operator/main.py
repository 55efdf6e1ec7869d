"""The operator's process: one session, one Lease, live copies, passes while it leads, and pages for the kubelet.

Replicas that do not lead keep their copies warm and wait. A process that loses the Lease stops writing at once (every
write is fenced) and waits for its next turn. SIGTERM and SIGINT end it cleanly: the Lease is given back, so the next
replica need not wait for it to expire.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import secrets
import signal
import socket
import sys
from datetime import UTC, datetime

import structlog

from hostplane.api.ledger import LEDGER
from hostplane.errors import ClusterError, ConflictError, LocalError, NotFoundError, Reason, UnreachableError, reason
from hostplane.kube.events import EventRecorder
from hostplane.kube.lease import Leader
from hostplane.kube.session import Session

from .config import OperatorConfig
from .drain import Drains
from .effects import Effects
from .health import HealthServer
from .metrics import Metrics
from .passes import Passes
from .report import Reporter
from .world import World

__all__ = ["Operator", "run"]

_log = structlog.get_logger(__name__)
_STALE_SECONDS = 120.0
_DRAIN_CONNECTIONS = 16
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Operator:
    """One operator in this event loop; `run` ends by cancellation.

    `drain_session`: for evictions, which the API server may take a while over, so that no grant waits behind them.
    """

    def __init__(self, session: Session, config: OperatorConfig, drain_session: Session | None = None) -> None:
        self.config = config
        self.metrics = Metrics()
        identity = config.identity or f"{socket.gethostname()}_{os.getpid()}_{secrets.token_hex(4)}"
        lease = config.lease_seconds
        self.leader = Leader(
            session, config.namespace, "hostplane-operator", identity, lease, lease * 2 / 3, lease * 2 / 15
        )
        self.world = World(session, self._wake)
        self.recorder = EventRecorder(session, "hostplane-operator")
        self.drains = Drains(drain_session or session, self.recorder, lambda _: self._wake(), fence=self.leader.fence)
        effects = Effects(session, self.world, self.leader, self.drains)
        self.reporter = Reporter(session, self.world, self.leader, self.recorder, self.metrics)
        self.passes = Passes(
            session,
            self.world,
            self.leader,
            effects,
            self.reporter,
            self.metrics,
            config.options,
            config.coalesce_seconds,
            lambda: datetime.now(UTC),
            datetime.now().astimezone().tzinfo or UTC,
        )
        self._session = session
        self.health = HealthServer(
            config.health_address,
            max(0, config.health_port),
            live=self._why_dead,
            ready=self._why_not_ready,
            metrics=(self._metrics_page, self.metrics.content_type),
        )

    def _wake(self) -> None:
        self.passes.wake()

    def _why_dead(self) -> Reason | None:
        stale = self.world.stale_seconds
        return reason("WorldStale", seconds=int(stale)) if self.world.is_synced and stale > _STALE_SECONDS * 5 else None

    def _why_not_ready(self) -> Reason | None:
        if not self.world.is_synced:
            return reason("NotSynced")
        stale = self.world.stale_seconds
        return reason("WorldStale", seconds=int(stale)) if stale > _STALE_SECONDS else None

    def _metrics_page(self) -> bytes:
        self.metrics.leader.set(int(self.leader.is_leader))
        self.metrics.drains_blocked.set(self.drains.blocked)
        return self.metrics.render()

    async def run(self) -> None:
        """Follow the cluster for ever, and act whenever this process leads."""
        await self._check_cluster()
        async with asyncio.TaskGroup() as group:
            if self.config.health_port >= 0:
                group.create_task(self.health.run())
            group.create_task(self.world.run())
            await self.world.synced()
            gc.collect()
            gc.freeze()
            _log.info("world_read", nodes=len(self.world.nodes.items()), hosts=len(self.world.hosts.items()))
            try:
                while True:
                    await self._lead()
            finally:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(3):
                        await self.recorder.flush(1)
                        await self.leader.release()

    async def _lead(self) -> None:
        await self.leader.acquire()
        _log.info("leadership_gained", identity=self.leader.identity)
        lost = asyncio.create_task(self.leader.lost())
        work = asyncio.create_task(self._work())
        try:
            done, _ = await asyncio.wait({lost, work}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (lost, work):
                task.cancel()
            await asyncio.wait({lost, work})
            for task in (lost, work):
                if not task.cancelled() and task.exception() is not None:
                    _log.error("leading_ended", error=repr(task.exception()))
        _log.warning("leadership_lost", identity=self.leader.identity)

    async def _work(self) -> None:
        with contextlib.suppress(ClusterError):  # a fence that did not hold: the lease says the rest
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part.run()) for part in (self.recorder, self.reporter, self.drains)]
                await self.passes.run()
                for task in tasks:
                    task.cancel()

    async def _check_cluster(self) -> None:
        """Say at once what would otherwise only be seen as nothing happening."""
        try:
            await self._session.list(LEDGER, limit=1)
        except NotFoundError as error:
            raise LocalError("ResourcesMissing") from error
        namespace = self.config.namespace
        try:
            await self._session.request("GET", f"/api/v1/namespaces/{namespace}")
        except NotFoundError:
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
            with contextlib.suppress(ConflictError):  # the other replica was first
                await self._session.request("POST", "/api/v1/namespaces", body)
            _log.info("namespace_created", namespace=namespace)
        except ClusterError as error:
            if isinstance(error, UnreachableError):
                raise
            _log.debug("namespace_not_readable", error=str(error))  # in the cluster its account need not see it


async def _main(config: OperatorConfig) -> None:
    open_session = functools.partial(Session.open, config.kubeconfig, rate=config.rate, burst=int(config.rate * 2))
    async with (
        await open_session(config.connections, "hostplane-operator") as session,
        await open_session(_DRAIN_CONNECTIONS, "hostplane-operator-drain") as drain_session,
    ):
        operator = Operator(session, config, drain_session)
        task = asyncio.ensure_future(operator.run())
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task


def run(config: OperatorConfig) -> None:
    """Run the operator in this process until a signal ends it.

    Raises:
        LocalError: the kubeconfig is missing or wrong, or our resources are not installed.
        ClusterError: the API server cannot be reached or refuses us at the start.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[config.log_level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    asyncio.run(_main(config))
