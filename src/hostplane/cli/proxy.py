"""`hostplane proxy`: one node's proxy in the foreground, as its pod runs it."""

from __future__ import annotations

import click

from hostplane.cli.options import kubeconfig_option

__all__ = ["command"]


@click.command(name="proxy", short_help="Run one node's proxy in the foreground.")
@click.option("--node", envvar="NODE_NAME", required=True, help="Name of the node and of its Host (NODE_NAME).")
@click.option(
    "--socket",
    type=click.Path(),
    default="/run/hostplane/agent.sock",
    show_default=True,
    help="The agent's unix socket.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="How much to log, on standard error.",
)
@kubeconfig_option
def command(node: str, socket: str, log_level: str, kubeconfig: str | None) -> int:
    """Carry the Host of one node to its agent and the agent's report back, until told to stop (SIGTERM)."""
    from hostplane.proxy import main

    return main.run(main.ProxyConfig(node=node, socket=socket, kubeconfig=kubeconfig, log_level=log_level))
