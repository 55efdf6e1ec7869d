"""What each host's proxy is let in with: a token bound to its own pod on its own node, as in production.

The pods belong to a DaemonSet, so that a drain leaves them alone and the operator waits for them after a reboot. The
proxy of a virtual machine is a service of its own, its token bound to the Node itself. Roles and admission policy are
those of `deploy/`; nothing here grants anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from hostplane.api.core import DAEMON_SET, NODE, POD
from hostplane.errors import ConflictError
from hostplane.kube.session import Session
from hostplane.local.kubeconfig import write_kubeconfig

__all__ = ["NAMESPACE", "guest_token", "node_kubeconfig", "operator_kubeconfig", "proxy_daemon_set"]

NAMESPACE = "hostplane-system"
_PROXY = "hostplane-proxy"
_SECONDS = 30 * 86400


async def proxy_daemon_set(session: Session) -> str:
    """Makes the proxies' DaemonSet where it is missing; its uid."""
    labels = {"app": _PROXY}
    spec = {
        "selector": {"matchLabels": labels},
        "updateStrategy": {"type": "OnDelete"},
        "template": {"metadata": {"labels": labels}, "spec": _pod_spec({"hostplane.dev/agent": "native"})},
    }
    try:
        body = {**DAEMON_SET.manifest(_PROXY, NAMESPACE), "spec": spec}
        made = await session.create(DAEMON_SET, body, namespace=NAMESPACE)
    except ConflictError:
        made = await session.get(DAEMON_SET, _PROXY, namespace=NAMESPACE)
    return made.metadata.uid


async def node_kubeconfig(session: Session, node: str, daemon_set: str, ca: Path, path: Path) -> None:
    """Makes the proxy's pod on `node`, and writes the kubeconfig with its token to `path`."""
    name = f"{_PROXY}-{node}"
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": _PROXY, "uid": daemon_set, "controller": True}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {"app": _PROXY}, "ownerReferences": [owner]}
    body = {**POD.manifest(name), "metadata": metadata, "spec": {**_pod_spec({}), "nodeName": node}}
    try:
        pod = await session.create(POD, body, namespace=NAMESPACE)
    except ConflictError:
        pod = await session.get(POD, name, namespace=NAMESPACE)
    bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod.metadata.uid}
    token = await _token(session, _PROXY, boundObjectRef=bound)
    write_kubeconfig(path, url=session.url, ca=ca, token=token, user=_PROXY)


async def guest_token(session: Session, node: str, labels: Mapping[str, str]) -> str:
    """Registers a Node before its machine has ever run, as a token must be bound to one; the token of its proxy.

    The kubelet finds the Node and fills in the rest. A reinstalled machine keeps it; a deleted Node ends the token.
    """
    body = {**NODE.manifest(node), "metadata": {"name": node, "labels": dict(labels)}}
    made = await session.create(NODE, body)
    bound = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": made.metadata.uid}
    return await _token(session, _PROXY, boundObjectRef=bound)


async def operator_kubeconfig(session: Session, ca: Path, path: Path) -> None:
    """Writes the kubeconfig of the operator's own account to `path`."""
    token = await _token(session, "hostplane-operator")
    write_kubeconfig(path, url=session.url, ca=ca, token=token, user="hostplane-operator")


def _pod_spec(selector: dict[str, str]) -> dict[str, Any]:
    containers = [{"name": "proxy", "image": "hostplane/proxy"}]
    spec: dict[str, Any] = {
        "serviceAccountName": _PROXY,
        "containers": containers,
        "automountServiceAccountToken": False,
    }
    return {**spec, "nodeSelector": selector} if selector else spec


async def _token(session: Session, account: str, **spec: Any) -> str:
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token"
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": _SECONDS, **spec},
    }
    answer = msgspec.json.decode(await session.request("POST", path, body))
    token: str = answer["status"]["token"]
    return token
