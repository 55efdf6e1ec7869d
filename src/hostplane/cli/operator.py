"""`hostplane operator`: the operator in the foreground, against any cluster."""

from __future__ import annotations

import click

from hostplane.cli.options import kubeconfig_option

__all__ = ["command"]


@click.command(name="operator", short_help="Run the operator in the foreground against any cluster.")
@kubeconfig_option
@click.option(
    "--namespace",
    envvar="HOSTPLANE_NAMESPACE",
    default="hostplane-system",
    show_default=True,
    help="Namespace of its Lease.",
)
@click.option("--identity", default="", help="Name of this replica (default: host name, process id, random part).")
@click.option(
    "--health-address", default="127.0.0.1", show_default=True, help="Address of /healthz, /readyz and /metrics."
)
@click.option("--health-port", type=click.IntRange(-1, 65535), default=0, help="Their port; 0: a free one, -1: none.")
@click.option(
    "--max-unavailable",
    envvar="HOSTPLANE_MAX_UNAVAILABLE",
    default="100%",
    show_default=True,
    help="Nodes away at once over the whole cluster: a count, or a share like 10%.",
)
@click.option(
    "--max-staging", type=click.IntRange(1, 2000), default=50, show_default=True, help="Hosts that fetch at once."
)
@click.option(
    "--kubeos-deadline",
    type=click.IntRange(60),
    default=7200,
    show_default=True,
    metavar="SECONDS",
    help="When an upgrade of a KubeOS node has failed.",
)
@click.option(
    "--connections", type=click.IntRange(1, 64), default=4, show_default=True, help="Requests to the API at once."
)
@click.option(
    "--rate", type=click.IntRange(1), default=400, show_default=True, help="Requests a second in the long run."
)
@click.option("--lease-seconds", type=click.FloatRange(1), default=15, show_default=True, help="Life of the Lease.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="How much to log, on standard error.",
)
def command(
    kubeconfig: str | None,
    namespace: str,
    identity: str,
    health_address: str,
    health_port: int,
    max_unavailable: str,
    max_staging: int,
    kubeos_deadline: int,
    connections: int,
    rate: int,
    lease_seconds: float,
    log_level: str,
) -> None:
    """Decide which hosts change when, until told to stop (SIGTERM, Ctrl-C). Replicas agree by a Lease who acts."""
    from hostplane.operator.config import OperatorConfig
    from hostplane.operator.main import run
    from hostplane.planning.budget import parse_count
    from hostplane.planning.snapshot import Options

    limit: int | str = int(max_unavailable) if max_unavailable.isdecimal() else max_unavailable
    parse_count(limit, 1)
    run(
        OperatorConfig(
            kubeconfig=kubeconfig,
            namespace=namespace,
            identity=identity,
            health_address=health_address,
            health_port=health_port,
            connections=connections,
            rate=rate,
            lease_seconds=lease_seconds,
            log_level=log_level,
            options=Options(cluster_max_unavailable=limit, max_staging=max_staging, kubeos_deadline=kubeos_deadline),
        )
    )
