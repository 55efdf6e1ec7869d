"""`hostplane crds`: the CustomResourceDefinitions this version works with."""

from __future__ import annotations

import asyncio

import click

from hostplane.cli.options import kubeconfig_option

__all__ = ["command"]


@click.command(name="crds", short_help="Print or apply the CustomResourceDefinitions.")
@click.option("--apply", "do_apply", is_flag=True, help="Apply them to the cluster (server-side) instead of printing.")
@kubeconfig_option
def command(do_apply: bool, kubeconfig: str | None) -> None:
    """Print the CustomResourceDefinitions as YAML, ready for kubectl apply; or apply them with --apply."""
    from hostplane.api import crds

    files = crds.render()
    if not do_apply:
        click.echo(
            "---\n".join(text if text.endswith("\n") else text + "\n" for _, text in sorted(files.items())), nl=False
        )
        return
    for name in asyncio.run(_apply(files, kubeconfig)):
        click.echo(f"customresourcedefinition/{name} applied")


async def _apply(files: dict[str, str], kubeconfig: str | None) -> list[str]:
    import yaml

    from hostplane.api.core import Bare
    from hostplane.api.meta import Resource
    from hostplane.kube.session import Session

    definition = Resource(Bare, "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
    names = []
    async with await Session.open(kubeconfig, connections=1, user_agent="hostplane-crds") as session:
        for _, text in sorted(files.items()):
            for body in yaml.safe_load_all(text):
                if body:
                    name = body["metadata"]["name"]
                    await session.patch(definition, name, body, kind="apply", field_manager="hostplane", force=True)
                    names.append(name)
    return names
