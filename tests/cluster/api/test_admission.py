"""A node's credentials change that node's Host status and nothing else; tried with real bound tokens of two nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hostplane.api.crds import DEFINITIONS
from hostplane.errors import ClusterError
from hostplane.local.apiserver import ApiServer
from hostplane.local.controlplane import ControlPlane
from tests.cluster.policy import until_in_force

_DEPLOY = Path(__file__).parents[3] / "deploy"
_SYSTEM = "hostplane-system"
_HOSTS = "/apis/hostplane.dev/v1alpha1/hosts"
_MERGE = "merge-patch+json"
_STATUS = {"status": {"phase": "Idle", "agentVersion": "mine"}}


class Nodes(msgspec.Struct):
    """The administrator's way in, and that of each node's proxy."""

    admin: ApiServer
    a: ApiServer
    b: ApiServer


@pytest.fixture(scope="module")
def policies(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane with our accounts, roles and admission policy in force; without them afterwards."""
    files = ["rbac/namespace.yaml", "rbac/proxy.yaml", "rbac/operator.yaml", "admission"]
    control_plane.kubectl("apply", *(f"--filename={_DEPLOY / name}" for name in files))
    yield control_plane
    _empty(control_plane.api)
    control_plane.kubectl("delete", "--ignore-not-found", *(f"--filename={_DEPLOY / name}" for name in files[1:]))


@pytest.fixture(scope="module")
def nodes(policies: ControlPlane) -> Nodes:
    """Two nodes, each with its Host, its proxy pod and a token bound to that pod."""
    admin = policies.api
    _empty(admin)
    ways = {name: msgspec.structs.replace(admin, token=_token(admin, f"node-{name}")) for name in ("a", "b")}
    for name in ways:
        admin.request("POST", "/api/v1/nodes", _object("v1", "Node", f"node-{name}"))
        host = _object("hostplane.dev/v1alpha1", "Host", f"node-{name}", spec={"nodeUid": f"uid-{name}"})
        admin.request("POST", _HOSTS, host)
    until_in_force(ways["a"], "node-b")
    return Nodes(admin=admin, a=ways["a"], b=ways["b"])


def test_a_node_writes_the_status_of_its_own_host(nodes: Nodes) -> None:
    for way, name in ((nodes.a, "node-a"), (nodes.b, "node-b")):
        answer = way.request("PATCH", f"{_HOSTS}/{name}/status", _STATUS, kind=_MERGE)
        assert answer["status"] == _STATUS["status"]


def test_a_node_reads_hosts_and_watches_its_own(nodes: Nodes) -> None:
    assert nodes.a.request("GET", f"{_HOSTS}/node-a")["spec"]["nodeUid"] == "uid-a"
    assert len(nodes.a.request("GET", f"{_HOSTS}?fieldSelector=metadata.name%3Dnode-a")["items"]) == 1
    nodes.a.request("GET", f"{_HOSTS}?watch=1&fieldSelector=metadata.name%3Dnode-a&timeoutSeconds=1")


def test_a_spec_sent_along_with_the_status_is_ignored(nodes: Nodes) -> None:
    before = nodes.admin.request("GET", f"{_HOSTS}/node-a")
    smuggled = {**_STATUS, "spec": {"nodeUid": "another"}, "metadata": {"labels": {"hostplane.dev/never": ""}}}
    nodes.a.request("PATCH", f"{_HOSTS}/node-a/status", smuggled, kind=_MERGE)
    after = nodes.admin.request("GET", f"{_HOSTS}/node-a")
    assert after["spec"] == before["spec"]
    assert "labels" not in after["metadata"]


_POD = {"spec": {"containers": [{"name": "c", "image": "i"}]}}
_NODES_PODS = f"/api/v1/namespaces/{_SYSTEM}/pods"
_ATTACKS: dict[str, tuple[str, str, dict[str, Any] | None, str]] = {
    "another host's status": ("PATCH", f"{_HOSTS}/node-b/status", _STATUS, _MERGE),
    "another host's status by apply": (
        "PATCH",
        f"{_HOSTS}/node-b/status?fieldManager=x&force=true",
        {"apiVersion": "hostplane.dev/v1alpha1", "kind": "Host", "metadata": {"name": "node-b"}, **_STATUS},
        "apply-patch+yaml",
    ),
    "another host's status, only tried": ("PATCH", f"{_HOSTS}/node-b/status?dryRun=All", _STATUS, _MERGE),
    "its own host's spec": ("PATCH", f"{_HOSTS}/node-a", {"spec": {"nodeUid": "x"}}, _MERGE),
    "its own host's labels": ("PATCH", f"{_HOSTS}/node-a", {"metadata": {"labels": {"x": "y"}}}, _MERGE),
    "its own host away": ("DELETE", f"{_HOSTS}/node-a", None, "json"),
    "every host away": ("DELETE", _HOSTS, None, "json"),
    "a new host": ("POST", _HOSTS, {"apiVersion": "hostplane.dev/v1alpha1", "kind": "Host"}, "json"),
    "the ledger": ("PATCH", "/apis/hostplane.dev/v1alpha1/ledgers/cluster", {"spec": {"nextSeq": 1}}, _MERGE),
    "the ledger's content": ("GET", "/apis/hostplane.dev/v1alpha1/ledgers", None, "json"),
    "a rollout": ("POST", "/apis/hostplane.dev/v1alpha1/rollouts", {}, "json"),
    "a group": ("PATCH", "/apis/hostplane.dev/v1alpha1/nodegroups/g", {"spec": {}}, _MERGE),
    "an image": ("POST", "/apis/hostplane.dev/v1alpha1/osimages", {}, "json"),
    "KubeOS's wish": ("POST", "/apis/upgrade.openeuler.org/v1alpha1/namespaces/default/os", {}, "json"),
    "KubeOS's node object": (
        "PATCH",
        "/apis/upgrade.openeuler.org/v1alpha1/namespaces/default/osinstances/node-b",
        {},
        _MERGE,
    ),
    "its node": ("PATCH", "/api/v1/nodes/node-a", {"spec": {"unschedulable": True}}, _MERGE),
    "another node's status": ("PATCH", "/api/v1/nodes/node-b/status", {"status": {}}, _MERGE),
    "the list of nodes": ("GET", "/api/v1/nodes", None, "json"),
    "the list of pods": ("GET", "/api/v1/pods", None, "json"),
    "a pod": ("POST", _NODES_PODS, _POD, "json"),
    "a pod away": ("DELETE", f"{_NODES_PODS}/proxy-node-b", None, "json"),
    "an eviction": (
        "POST",
        f"{_NODES_PODS}/proxy-node-b/eviction",
        {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "proxy-node-b"}},
        "json",
    ),
    "a shell in a pod": ("POST", f"{_NODES_PODS}/proxy-node-b/exec?command=sh", None, "json"),
    "a pod's log": ("GET", f"{_NODES_PODS}/proxy-node-b/log", None, "json"),
    "the lease": ("PATCH", f"/apis/coordination.k8s.io/v1/namespaces/{_SYSTEM}/leases/l", {"spec": {}}, _MERGE),
    "a new lease": ("POST", f"/apis/coordination.k8s.io/v1/namespaces/{_SYSTEM}/leases", {}, "json"),
    "secrets": ("GET", "/api/v1/secrets", None, "json"),
    "one secret": ("GET", f"/api/v1/namespaces/{_SYSTEM}/secrets/x", None, "json"),
    "config maps": ("GET", "/api/v1/configmaps", None, "json"),
    "another token": ("POST", f"/api/v1/namespaces/{_SYSTEM}/serviceaccounts/hostplane-operator/token", {}, "json"),
    "an event": ("POST", "/api/v1/namespaces/default/events", {}, "json"),
    "more rights": (
        "PATCH",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/hostplane-proxy",
        {"rules": []},
        _MERGE,
    ),
    "the policy itself": (
        "DELETE",
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/hostplane-proxy-own-host",
        None,
        "json",
    ),
    "the schema": (
        "DELETE",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/hosts.hostplane.dev",
        None,
        "json",
    ),
}


@pytest.mark.parametrize("attack", _ATTACKS)
def test_a_node_is_refused(nodes: Nodes, attack: str) -> None:
    method, path, body, kind = _ATTACKS[attack]
    before = nodes.admin.request("GET", f"{_HOSTS}/node-b")
    assert _refused(nodes.a, method, path, body, kind)
    assert nodes.admin.request("GET", f"{_HOSTS}/node-b") == before


def test_the_refusal_names_both_nodes(nodes: Nodes) -> None:
    answer = _refused(nodes.a, "PATCH", f"{_HOSTS}/node-b/status", _STATUS, _MERGE)
    assert "node node-a may not write the status of Host node-b" in answer


def test_roles_alone_would_not_have_stopped_it(nodes: Nodes) -> None:
    """The attack on another host's status passes authorization, so its refusal proves the policy."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {
            "resourceAttributes": {
                "group": "hostplane.dev",
                "resource": "hosts",
                "subresource": "status",
                "verb": "patch",
                "name": "node-b",
            }
        },
    }
    answer = nodes.a.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    assert answer["status"]["allowed"]


@pytest.mark.parametrize("bound", [None, "pending"], ids=["to nothing", "to a pod without a node"])
def test_a_token_that_names_no_node_writes_nothing(nodes: Nodes, bound: str | None) -> None:
    way = msgspec.structs.replace(nodes.admin, token=_token(nodes.admin, "", pod=bound))
    answer = _refused(way, "PATCH", f"{_HOSTS}/node-a/status", _STATUS, _MERGE)
    assert "does not say which node" in answer


def test_another_account_on_the_same_node_writes_nothing(nodes: Nodes) -> None:
    way = msgspec.structs.replace(nodes.admin, token=_token(nodes.admin, "node-a", account="default", pod="other"))
    _refused(way, "PATCH", f"{_HOSTS}/node-a/status", _STATUS, _MERGE)


def test_the_policy_is_nobody_elses_business(nodes: Nodes) -> None:
    nodes.admin.request("PATCH", f"{_HOSTS}/node-b/status?dryRun=All", _STATUS, kind=_MERGE)
    nodes.admin.request("PATCH", f"{_HOSTS}/node-b?dryRun=All", {"spec": {"nodeUid": "n"}}, kind=_MERGE)


def _object(version: str, kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields}


def _token(admin: ApiServer, node: str, *, account: str = "hostplane-proxy", pod: str | None = "") -> str:
    """A token of the proxy's account, bound to a pod on `node`; `pod` None binds it to nothing."""
    spec: dict[str, Any] = {"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": 3600}
    if pod is not None:
        name = pod or f"proxy-{node}"
        placed = {"serviceAccountName": account, **_POD["spec"], **({"nodeName": node} if node else {})}
        made = admin.request("POST", _NODES_PODS, _object("v1", "Pod", name, spec=placed))
        spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": made["metadata"]["uid"]}
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    path = f"/api/v1/namespaces/{_SYSTEM}/serviceaccounts/{account}"
    if account == "default":
        admin.request("POST", path.rpartition("/")[0], _object("v1", "ServiceAccount", account))
    return str(admin.request("POST", f"{path}/token", request)["status"]["token"])


def _refused(way: ApiServer, method: str, path: str, body: dict[str, Any] | None, kind: str) -> str:
    """The text of the 403 that the request is answered with; anything else fails."""
    with pytest.raises(ClusterError) as caught:
        way.request(method, path, body, kind=kind)
    assert caught.value.reason.params["status"] == 403, str(caught.value)
    return str(caught.value)


def _empty(admin: ApiServer) -> None:
    collections = [d.resource.path() for d in DEFINITIONS] + ["/api/v1/nodes", "/api/v1/pods"]
    for collection in collections:
        for item in admin.request("GET", collection)["items"]:
            namespace = item["metadata"].get("namespace")
            root, _, plural = collection.rpartition("/")
            where = f"{root}/namespaces/{namespace}/{plural}" if namespace else collection
            admin.request("DELETE", f"{where}/{item['metadata']['name']}", {"gracePeriodSeconds": 0})
    for account in admin.request("GET", f"/api/v1/namespaces/{_SYSTEM}/serviceaccounts")["items"]:
        if account["metadata"]["name"] == "default":
            admin.request("DELETE", f"/api/v1/namespaces/{_SYSTEM}/serviceaccounts/default")
