"""What a control plane gives to virtual machines: a certificate good for them, and credentials that end at one Node."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator

import pytest

from hostplane.api import crds
from hostplane.errors import ClusterError
from hostplane.kube.session import Session
from hostplane.local import cluster, credentials
from hostplane.local.apiserver import ApiServer
from hostplane.local.controlplane import GUESTS_GATEWAY, ControlPlane
from tests.cluster.policy import until_in_force, until_refused

NODES = ("vm-1", "vm-2")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    made = ControlPlane(tmp_path_factory.mktemp("guests") / "d", guests=NODES)
    made.start()
    try:
        made.apply(text for _, text in sorted(crds.render().items()))
        made.apply(cluster.manifests("rbac") + cluster.manifests("admission"))
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def proxies(plane: ControlPlane) -> dict[str, str]:
    """The proxies' tokens, by node; each Node has a Host."""

    async def register() -> dict[str, str]:
        async with await Session.open(str(plane.kubeconfig), connections=1) as session:
            return {
                node: await credentials.guest_token(session, node, {"hostplane.dev/agent": "native"}) for node in NODES
            }

    tokens = asyncio.run(register())
    for node in NODES:
        body = {"apiVersion": "hostplane.dev/v1alpha1", "kind": "Host", "metadata": {"name": node}, "spec": {}}
        plane.api.request("POST", "/apis/hostplane.dev/v1alpha1/hosts", body)
    until_in_force(as_holder_of(tokens["vm-1"], plane), "vm-2")
    return tokens


def as_holder_of(token: str, plane: ControlPlane) -> ApiServer:
    return ApiServer(url=plane.url, token=token, ca=str(plane.ca))


def write(api: ApiServer, path: str, status: dict[str, object]) -> None:
    api.request("PATCH", f"{path}/status", {"status": status}, kind="merge-patch+json")


@pytest.mark.parametrize("name", [GUESTS_GATEWAY, "127.0.0.1"])
def test_the_certificate_is_good_for_guests_and_for_this_machine(plane: ControlPlane, name: str) -> None:
    context = ssl.create_default_context(cafile=str(plane.ca))
    port = int(plane.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain, server_hostname=name):
        assert plane.guests_url == f"https://{GUESTS_GATEWAY}:{port}"


def test_a_kubelet_writes_its_own_node_and_no_other(plane: ControlPlane, proxies: dict[str, str]) -> None:
    kubelet = as_holder_of(plane.kubelet_token("vm-1"), plane)
    write(kubelet, "/api/v1/nodes/vm-1", {"nodeInfo": {"osImage": "seen"}})
    assert plane.api.request("GET", "/api/v1/nodes/vm-1")["status"]["nodeInfo"]["osImage"] == "seen"
    with pytest.raises(ClusterError, match="403"):
        write(kubelet, "/api/v1/nodes/vm-2", {"nodeInfo": {"osImage": "seen"}})
    with pytest.raises(ClusterError, match="403"):
        kubelet.request("GET", "/api/v1/secrets")


def test_a_proxy_writes_its_own_host_and_no_other(plane: ControlPlane, proxies: dict[str, str]) -> None:
    proxy = as_holder_of(proxies["vm-1"], plane)
    write(proxy, "/apis/hostplane.dev/v1alpha1/hosts/vm-1", {"phase": "Idle"})
    with pytest.raises(ClusterError, match="403"):
        write(proxy, "/apis/hostplane.dev/v1alpha1/hosts/vm-2", {"phase": "Idle"})
    with pytest.raises(ClusterError, match="403"):
        write(proxy, "/api/v1/nodes/vm-1", {"phase": "Running"})


def test_a_token_ends_with_its_node(plane: ControlPlane, proxies: dict[str, str]) -> None:
    plane.api.request("DELETE", "/api/v1/nodes/vm-2")
    until_refused(as_holder_of(proxies["vm-2"], plane), "GET", "/apis/hostplane.dev/v1alpha1/hosts/vm-2", "401")
