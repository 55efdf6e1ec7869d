"""`hostplane hosts`: every node of the cluster in one table, also those nobody manages, and why. Read-only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import click
import msgspec

from hostplane.cli.options import json_option, kubeconfig_option

if TYPE_CHECKING:
    from hostplane.api.core import Node
    from hostplane.api.host import Host
    from hostplane.api.kubeos import KubeOS, OSInstance
    from hostplane.api.meta import Resource
    from hostplane.api.nodegroup import NodeGroup
    from hostplane.errors import Reason
    from hostplane.kube.session import Session
    from hostplane.planning.membership import Membership

__all__ = ["HostRow", "command", "rows"]

T = TypeVar("T")
HEADINGS = ("NODE", "GROUP", "DRIVER", "PHASE", "PROGRESS", "VERSION", "WANTED", "READY", "OS", "KERNEL", "ARCH", "WHY")


class HostRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One node. `group` is the NodeGroup's name or `os/NAMESPACE/NAME`; `reason` is a catalogue name, stable for
    scripts, and `why` its sentence in the reader's language."""

    node: str
    managed: bool
    group: str = ""
    driver: str = ""
    phase: str = ""
    progress: str = ""
    version: str = ""
    wanted: str = ""
    ready: bool = False
    cordoned: bool = False
    os: str = ""
    kernel: str = ""
    arch: str = ""
    reason: str = ""
    code: str = ""
    why: str = ""


@click.command(name="hosts", short_help="List every node, managed or not, and why not.")
@click.option("--all", "show_hidden", is_flag=True, help="Also nodes of groups whose mode is Hidden.")
@click.option("--unmanaged", is_flag=True, help="Only nodes that nobody manages.")
@json_option
@kubeconfig_option
def command(show_hidden: bool, unmanaged: bool, as_json: bool, kubeconfig: str | None) -> None:
    """List every node: its group, phase, versions, operating system, and why it is unmanaged or stuck."""
    from hostplane.cli.output import print_json, print_table

    found = asyncio.run(_read(kubeconfig))
    shown = [r for r in found if (show_hidden or r.reason != "UnmanagedHidden") and not (unmanaged and r.managed)]
    if as_json:
        print_json(shown)
    else:
        print_table(HEADINGS, [_cells(row) for row in shown])


def _cells(row: HostRow) -> list[str]:
    ready = ("yes" if row.ready else "no") + (", cordoned" if row.cordoned else "")
    why = f"{row.code}: {row.why}" if row.code else row.why
    cells = [row.node, row.group, row.driver, row.phase, row.progress, row.version, row.wanted, ready]
    return [*cells, row.os, row.kernel, row.arch, why]


async def _read(kubeconfig: str | None) -> list[HostRow]:
    from hostplane.api.core import NODE
    from hostplane.api.host import HOST
    from hostplane.api.kubeos import OS, OSINSTANCE
    from hostplane.api.nodegroup import NODEGROUP
    from hostplane.kube.session import Session
    from hostplane.planning.membership import os_key

    async with await Session.open(kubeconfig, connections=2, user_agent="hostplane-cli") as session:
        return rows(
            nodes={item.metadata.name: item for item in (await session.list(NODE)).items},
            hosts={item.metadata.name: item for item in (await _list(session, HOST))},
            instances={item.metadata.name: item for item in (await _list(session, OSINSTANCE))},
            groups={item.metadata.name: item for item in (await _list(session, NODEGROUP))},
            oses={os_key(item): item for item in (await _list(session, OS))},
        )


async def _list(session: Session, resource: Resource[T]) -> list[T]:
    """All objects; none where the cluster does not have the kind (a cluster nobody has prepared still has nodes)."""
    from hostplane.errors import NotFoundError

    try:
        return (await session.list(resource)).items
    except NotFoundError:
        return []


def rows(
    *,
    nodes: Mapping[str, Node],
    hosts: Mapping[str, Host],
    instances: Mapping[str, OSInstance],
    groups: Mapping[str, NodeGroup],
    oses: Mapping[str, KubeOS],
) -> list[HostRow]:
    """One row for each node, by name; pure."""
    from hostplane.planning.membership import membership

    sorted_nodes = membership(nodes, groups, oses)
    owner_of = {node: owner for owner, members in sorted_nodes.members.items() for node in members}
    found = []
    for name in sorted(nodes):
        node, host, instance, owner = nodes[name], hosts.get(name), instances.get(name), owner_of.get(name, "")
        info = node.status.node_info
        row = HostRow(
            node=name,
            managed=False,
            group=owner.removeprefix("group/"),
            driver="native" if host else "kubeos" if instance else "",
            phase=host.status.phase if host else instance.spec.nodestatus if instance else "",
            progress=_progress(host),
            version=host.status.active.version if host else info.os_image if instance else "",
            wanted=_wanted(host, oses.get(owner.removeprefix("os/"))),
            ready=node.ready,
            cordoned=node.spec.unschedulable,
            os=info.os_image,
            kernel=info.kernel_version,
            arch=info.architecture,
        )
        why = _unmanaged(name, owner, sorted_nodes, host, instance)
        if why is not None:
            found.append(_explained(row, why))
        else:
            found.append(_with_error(msgspec.structs.replace(row, managed=True), host))
    return found


def _progress(host: Host | None) -> str:
    """Share, rate and time left of what is being staged; empty where nothing is."""
    if host is None or host.status.progress is None or not host.status.progress.total:
        return ""
    now = host.status.progress
    left = f", {now.eta_seconds} s left" if now.eta_seconds else ""
    return f"{100 * now.bytes // now.total} %, {now.bytes_per_second / (1 << 20):.0f} MiB/s{left}"


def _wanted(host: Host | None, os: KubeOS | None) -> str:
    if host is not None:
        return host.spec.image.version if host.spec.image else ""
    return os.spec.osversion if os is not None else ""


def _unmanaged(
    name: str, owner: str, nodes: Membership, host: Host | None, instance: OSInstance | None
) -> Reason | None:
    from hostplane.errors import reason

    if name in nodes.never:
        return reason("UnmanagedNever")
    if name in nodes.hidden:
        return reason("UnmanagedHidden")
    if name in nodes.conflicts:
        return reason("UnmanagedTwoOwners", owners=", ".join(nodes.conflicts[name]))
    if not owner:
        return reason("UnmanagedNoGroup")
    if host is None and instance is None:
        return reason("UnmanagedNoAgent")
    if host is not None and host.status.never:
        return reason("UnmanagedHostNever")
    return None


def _explained(row: HostRow, why: Reason) -> HostRow:
    from hostplane.cli.language import worded

    code, text, _ = worded(why)
    return msgspec.structs.replace(row, reason=why.name, code=code, why=text)


def _with_error(row: HostRow, host: Host | None) -> HostRow:
    error = host.status.last_error if host else None
    if error is None:
        return row
    text = error.message.removeprefix(f"{error.code}: ")
    return msgspec.structs.replace(row, reason=error.name, code=error.code, why=text)
