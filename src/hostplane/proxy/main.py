"""The proxy's process: one watch on its own Host, the courier to the agent and the reporter, until it is told to stop.

It holds no state and no right but to read Hosts and to write this one's status; that it stays within 40 MiB is why it
imports neither a log nor a configuration library.
"""

from __future__ import annotations

import asyncio
import logging
import signal

import msgspec

from hostplane import __version__
from hostplane.api.host import HOST
from hostplane.errors import ClusterError
from hostplane.kube.informer import Informer
from hostplane.kube.session import Session
from hostplane.proxy.courier import Courier
from hostplane.proxy.reporter import Reporter
from hostplane.proxy.view import HostView

__all__ = ["DEFAULT_SOCKET", "ProxyConfig", "run", "serve"]

DEFAULT_SOCKET = "/run/hostplane/agent.sock"
_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_log = logging.getLogger("hostplane.proxy")


class ProxyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the proxy was told to work; durations in seconds."""

    node: str
    """Name of the node and of its Host."""
    socket: str = DEFAULT_SOCKET
    """The agent's unix socket."""
    kubeconfig: str | None = None
    """Default: as kubectl's, or the pod's own account inside a cluster."""
    answer_seconds: float = 10.0
    """How long the agent may take for one answer."""
    patience_seconds: float = 10.0
    """How long the agent may be out of reach before the Host says so."""
    log_level: str = "info"


def run(config: ProxyConfig) -> int:
    """Run until SIGTERM or SIGINT; the exit code.

    Raises:
        LocalError: KubeconfigMissing, KubeconfigInvalid.
    """
    logging.basicConfig(level=config.log_level.upper(), format=_LOG_FORMAT)
    asyncio.run(_until_signal(config))
    return 0


async def serve(config: ProxyConfig) -> None:
    """Serve one node until cancelled.

    Raises:
        LocalError: as `run`.
    """
    _log.info("proxy_started version=%s %r", __version__, config)
    agent_name = f"hostplane-proxy/{__version__}"
    async with await Session.open(config.kubeconfig, connections=1, user_agent=agent_name) as session:
        view = HostView()
        informer = Informer(
            session,
            HOST,
            field_selector=f"metadata.name={config.node}",
            on_change=lambda _, host: view.see(host),
            on_failure=_note,
        )
        reporter = Reporter(session, view, informer.put)
        courier = Courier(
            view,
            reporter.offer,
            config.socket,
            name=agent_name,
            answer_seconds=config.answer_seconds,
            patience_seconds=config.patience_seconds,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(informer.run())
            group.create_task(reporter.run())
            group.create_task(courier.run())


async def _until_signal(config: ProxyConfig) -> None:
    serving = asyncio.current_task()
    assert serving is not None
    loop = asyncio.get_running_loop()
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        serving.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await serve(config)
    except asyncio.CancelledError:
        if not stopped:
            raise
        _log.info("proxy_stopped")


def _note(error: ClusterError) -> None:
    _log.warning("watch_failed error=%r", str(error))
