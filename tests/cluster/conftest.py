"""One real control plane for the whole session, empty again before each test that asks for `clean_cluster`.

    def test_x(clean_cluster: ControlPlane) -> None:
        clean_cluster.kubeconfig, .url, .token, .ca     how to reach it
        clean_cluster.kubectl("get", "nodes")           as the administrator; stdin= for manifests
        clean_cluster.api.request("GET", "/api/v1/nodes")
        clean_cluster.restart(kill=True)                the API server dies and comes back on the same port
        clean_cluster.stop_apiserver(); .start_apiserver()   an outage in between

A missing program fails the test with the line that says what to install; nothing is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostplane.errors import NotFoundError
from hostplane.local.controlplane import ControlPlane

_CRDS = Path(__file__).parents[2] / "deploy" / "crds"
_GROUPS = ("hostplane.dev", "upgrade.openeuler.org")
_BUILT_IN = (
    "/api/v1/nodes",
    "/api/v1/pods",
    "/api/v1/events",
    "/apis/events.k8s.io/v1/events",
    "/apis/policy/v1/poddisruptionbudgets",
    "/apis/apps/v1/daemonsets",
    "/apis/coordination.k8s.io/v1/leases",
)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running control plane with the CRDs of deploy/crds; `.restart()` gives it back on the same port."""
    plane = ControlPlane(tmp_path_factory.mktemp("cp"))
    plane.start()
    try:
        plane.install_crds(file.read_text("utf-8") for file in sorted(_CRDS.glob("*.yaml")))
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def clean_cluster(control_plane: ControlPlane) -> ControlPlane:
    """The control plane without any object of ours or KubeOS's, nodes, pods, budgets, leases or events."""
    empty(control_plane)
    return control_plane


@pytest.fixture(scope="session")
def control_plane_with_controllers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Another one that also runs kube-controller-manager, where PDB status or garbage collection matter."""
    plane = ControlPlane(tmp_path_factory.mktemp("kcm"), controller_manager=True)
    plane.start()
    try:
        plane.install_crds(file.read_text("utf-8") for file in sorted(_CRDS.glob("*.yaml")))
        yield plane
    finally:
        plane.stop()


def empty(plane: ControlPlane) -> None:
    """Deletes what tests make, at once and without grace; finalizers are removed first."""
    plane.await_crds()
    collections = list(_BUILT_IN)
    for crd in plane.api.request("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]:
        spec = crd["spec"]
        if spec["group"] in _GROUPS:
            stored = next(version["name"] for version in spec["versions"] if version["storage"])
            collections.append(f"/apis/{spec['group']}/{stored}/{spec['names']['plural']}")
    for collection in collections:
        for item in plane.api.request("GET", collection)["items"]:
            _delete(plane, collection, item["metadata"])


def _delete(plane: ControlPlane, collection: str, metadata: dict[str, Any]) -> None:
    namespace = metadata.get("namespace")
    if namespace in ("kube-system", "kube-node-lease") and metadata["name"].startswith("apiserver-"):
        return  # the API server's own identity
    root, plural = collection.rsplit("/", 1)
    path = f"{root}/namespaces/{namespace}/{plural}" if namespace else collection
    path = f"{path}/{metadata['name']}"
    try:
        if metadata.get("finalizers"):
            plane.api.request("PATCH", path, {"metadata": {"finalizers": None}}, kind="merge-patch+json")
        plane.api.request("DELETE", path, {"gracePeriodSeconds": 0, "propagationPolicy": "Background"})
    except NotFoundError:
        pass


@pytest.fixture(scope="session", autouse=True)
def _no_inherited_cluster() -> Iterator[None]:
    """No test may reach a cluster of the person who runs it."""
    inherited = os.environ.pop("KUBECONFIG", None)
    yield
    if inherited is not None:
        os.environ["KUBECONFIG"] = inherited
