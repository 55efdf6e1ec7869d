"""The control plane that every other cluster test stands on."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path

import pytest

from hostplane.errors import LocalError
from hostplane.local import processes, state
from hostplane.local.controlplane import ControlPlane


def test_answers_as_the_pinned_version(control_plane: ControlPlane) -> None:
    assert control_plane.api.request("GET", "/version")["gitVersion"].startswith("v1.")
    assert "default" in control_plane.kubectl("get", "namespaces")


def test_only_its_user_can_read_the_credentials(control_plane: ControlPlane) -> None:
    assert stat.S_IMODE(control_plane.kubeconfig.stat().st_mode) == 0o600
    assert stat.S_IMODE(control_plane.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(control_plane.token_file.stat().st_mode) == 0o600


def test_bound_tokens_carry_the_node_name(clean_cluster: ControlPlane) -> None:
    api = clean_cluster.api
    api.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
    clean_cluster.kubectl("delete", "serviceaccount", "proxy", "--ignore-not-found")
    clean_cluster.kubectl("create", "serviceaccount", "proxy")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "proxy-n1"},
        "spec": {"nodeName": "n1", "serviceAccountName": "proxy", "containers": [{"name": "c", "image": "i"}]},
    }
    uid = api.request("POST", "/api/v1/namespaces/default/pods", pod)["metadata"]["uid"]
    token = clean_cluster.kubectl(
        "create",
        "token",
        "proxy",
        "--bound-object-kind=Pod",
        "--bound-object-name=proxy-n1",
        f"--bound-object-uid={uid}",
    ).strip()
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    answer = api.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)
    assert answer["status"]["user"]["extra"]["authentication.kubernetes.io/node-name"] == ["n1"]


def test_objects_survive_a_killed_api_server(clean_cluster: ControlPlane) -> None:
    clean_cluster.api.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
    url = clean_cluster.url
    clean_cluster.restart(kill=True)
    assert clean_cluster.url == url
    assert clean_cluster.api.request("GET", "/api/v1/nodes/n1")["metadata"]["name"] == "n1"


def test_clean_cluster_holds_no_node(clean_cluster: ControlPlane) -> None:
    assert clean_cluster.api.request("GET", "/api/v1/nodes")["items"] == []


def test_refuses_to_start_twice(control_plane: ControlPlane) -> None:
    with pytest.raises(LocalError) as caught:
        ControlPlane(control_plane.directory).start()
    assert caught.value.name == "LocalClusterRuns"
    assert control_plane.api.is_ready()


def test_a_taken_port_is_named_and_nothing_is_left_running(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(LocalError) as caught:
            ControlPlane(tmp_path / "D", port).start()
    assert caught.value.name == "PortTaken"
    assert str(port) in str(caught.value)
    assert state.load(tmp_path / "D").processes == []


def test_a_failed_start_says_what_the_program_said_and_ends_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    fake = assets / "kube-apiserver"
    fake.write_text("#!/bin/sh\necho 'Error: no such flag: --made-up' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("HOSTPLANE_ASSETS", str(assets))
    with pytest.raises(LocalError) as caught:
        ControlPlane(tmp_path / "D").start()
    assert caught.value.name == "ProgramEnded"
    assert "no such flag: --made-up" in str(caught.value)
    assert state.load(tmp_path / "D").processes == []
    assert not _running_below(tmp_path / "D")


def test_data_and_port_survive_a_stop_and_a_start(tmp_path: Path) -> None:
    first = ControlPlane(tmp_path / "D")
    first.start()
    try:
        first.kubectl("create", "configmap", "kept")
        recorded = state.load(first.directory).processes
        assert all(processes.is_alive(process) for process in recorded)
        assert set(first.stop()) == {"etcd", "kube-apiserver"}
        assert not any(processes.is_alive(process) for process in recorded)
        second = ControlPlane(tmp_path / "D")
        second.start()
        assert second.url == first.url
        assert json.loads(second.kubectl("get", "configmap", "kept", "-ojson"))["metadata"]["name"] == "kept"
    finally:
        first.stop()


def _running_below(directory: Path) -> list[str]:
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                command = Path(entry.path, "cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
            if str(directory) in command:
                found.append(command)
    return found
