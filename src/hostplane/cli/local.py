"""`hostplane local`: a control plane and simulated hosts on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from hostplane.cli.options import directory_option, json_option

__all__ = ["command"]


@click.group(name="local", short_help="A real control plane and simulated hosts on this machine.")
def command() -> None:
    """Run a real Kubernetes control plane, and simulated hosts, on this machine."""


@command.command(name="up", short_help="Start a local cluster and return when it is ready.")
@directory_option
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of the API server (default: a free one).")
@click.option("--hosts", type=click.IntRange(0, 500), default=0, show_default=True, help="Simulated hosts to start.")
@click.option("--no-operator", is_flag=True, help="Do not start the operator.")
@click.option("--controller-manager", is_flag=True, help="Also run kube-controller-manager.")
@json_option
def up(directory: Path, port: int, hosts: int, no_operator: bool, controller_manager: bool, as_json: bool) -> None:
    """Start etcd and kube-apiserver below D, apply the CRDs, start the operator and the hosts; return when ready.

    D/kubeconfig is the administrator's. Data stay in D until `hostplane local down --delete`.
    """
    from hostplane.cli.language import phrase
    from hostplane.cli.output import print_json
    from hostplane.local import cluster

    status = cluster.up(
        directory, port=port, hosts=hosts, operator=not no_operator, controller_manager=controller_manager
    )
    if as_json:
        print_json(status)
    else:
        click.echo(phrase("LocalClusterReady", url=status.url, kubeconfig=status.kubeconfig))


@command.command(name="down", short_help="End exactly what `up` started.")
@directory_option
@click.option("--delete", is_flag=True, help="Also delete D.")
@json_option
def down(directory: Path, delete: bool, as_json: bool) -> None:
    """End the processes of the local cluster in D; safe to repeat."""
    from hostplane.cli.language import phrase
    from hostplane.cli.output import print_json
    from hostplane.local import cluster

    ended = cluster.down(directory, delete=delete)
    if as_json:
        print_json({"ended": ended})
    else:
        click.echo(phrase("LocalClusterEnded", processes=", ".join(ended) or "-"))


@command.command(name="status", short_help="Say what runs.")
@directory_option
@json_option
def status(directory: Path, as_json: bool) -> int:
    """Say which processes of the local cluster in D run; exit code 1 when the API server is not ready."""
    from hostplane.cli.output import print_json, print_table
    from hostplane.local import cluster

    found = cluster.status(directory)
    if as_json:
        print_json(found)
    else:
        rows = [[p.name, "running" if p.running else "ended", str(p.pid), p.log] for p in found.processes]
        print_table(["PROCESS", "STATE", "PID", "LOG"], rows)
        click.echo(f"{found.url}  {'ready' if found.ready else 'not ready'}  KUBECONFIG={found.kubeconfig}")
    return 0 if found.ready else 1


@command.command(name="machines", hidden=True, short_help="Run the simulated hosts in the foreground.")
@directory_option
@click.option("--hosts", type=click.IntRange(1, 500), required=True)
def machines(directory: Path, hosts: int) -> None:
    """Run the simulated hosts of the local cluster in D in the foreground; `up` starts this."""
    import asyncio

    import hostplane.local.supervisor as supervisor

    asyncio.run(supervisor.run(directory, hosts))
