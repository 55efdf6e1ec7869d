"""How the operator is told to work. Flags and environment fill it in one place (cli/operator.py)."""

from __future__ import annotations

import msgspec

from hostplane.planning.snapshot import Options

__all__ = ["OperatorConfig"]


class OperatorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one operator process."""

    kubeconfig: str | None = None
    """Path of a kubeconfig; None: KUBECONFIG, the pod's own account, or the user's default."""
    namespace: str = "hostplane-system"
    """Where its Lease lives."""
    identity: str = ""
    """Unlike any other process's; empty: host name, process id and a random part."""
    health_address: str = "127.0.0.1"
    """Address of /healthz, /readyz and /metrics."""
    health_port: int = 0
    """Its port; 0: a free one, -1: no pages at all."""
    connections: int = 4
    """Requests to the API server at the same time; watches have connections of their own."""
    rate: float = 400
    """Requests a second in the long run."""
    lease_seconds: float = 15
    """How long a silent leader is waited for."""
    coalesce_seconds: float = 0.1
    """While busy, changes are gathered so long before the next pass."""
    options: Options = Options()
    """What the planner is told."""
    log_level: str = "info"
    """debug, info, warning or error."""
