"""The optional controller-manager really controls."""

from __future__ import annotations

import time

from hostplane.errors import NotFoundError
from hostplane.local.controlplane import ControlPlane


def test_collects_what_an_owner_leaves_behind(control_plane_with_controllers: ControlPlane) -> None:
    api = control_plane_with_controllers.api
    path = "/api/v1/namespaces/default/configmaps"
    owner = api.request("POST", path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}})
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    owned = {"name": "owned", "ownerReferences": [reference]}
    api.request("POST", path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": owned})
    api.request("DELETE", f"{path}/owner")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            api.request("GET", f"{path}/owned")
        except NotFoundError:
            return
        time.sleep(0.1)
    raise AssertionError("the owned object is still there after 60 s")
