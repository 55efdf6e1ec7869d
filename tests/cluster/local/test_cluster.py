"""`hostplane local` as a user runs it; operator and proxies work under their own accounts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostplane.local import processes, state
from hostplane.local.apiserver import ApiServer
from hostplane.local.controlplane import ControlPlane


def hostplane(*arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hostplane.cli", *arguments]
    environment = {**os.environ, "HOSTPLANE_LANG": "en"}
    answer = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert answer.returncode == expect, answer.stdout + answer.stderr
    return answer


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where a local cluster may live; whatever runs there is ended."""
    yield tmp_path / "D"
    if (tmp_path / "D" / "state.json").exists():
        known = state.load(tmp_path / "D").processes
        processes.end(list(reversed(known)), grace=3)
        for process in known:
            processes.end_session(process)


def test_up_leaves_a_working_cluster_and_down_ends_it(directory: Path) -> None:
    answer: dict[str, Any] = json.loads(
        hostplane("local", "up", "--dir", str(directory), "--hosts", "2", "--json").stdout
    )
    assert answer["ready"] is True
    assert [process["name"] for process in answer["processes"]] == ["etcd", "kube-apiserver", "machines", "operator"]
    kubeconfig = answer["kubeconfig"]
    rows = json.loads(hostplane("hosts", "--kubeconfig", kubeconfig, "--json").stdout)
    assert [(row["node"], row["ready"], row["reason"]) for row in rows] == [
        ("host-01", True, "UnmanagedNoGroup"),
        ("host-02", True, "UnmanagedNoGroup"),
    ]
    assert json.loads(hostplane("local", "status", "--dir", str(directory), "--json").stdout) == answer
    again = hostplane("local", "up", "--dir", str(directory), expect=3)
    assert "HP-7007" in again.stderr
    _proxies_write_their_own_host_only(directory)
    ended = json.loads(hostplane("local", "down", "--dir", str(directory), "--json").stdout)["ended"]
    assert ended == ["operator", "machines", "kube-apiserver", "etcd"]
    assert json.loads(hostplane("local", "down", "--dir", str(directory), "--json").stdout)["ended"] == []
    assert not _running_below(directory)
    hostplane("local", "status", "--dir", str(directory), expect=1)
    hostplane("local", "down", "--dir", str(directory), "--delete")
    assert not directory.exists()


def _proxies_write_their_own_host_only(directory: Path) -> None:
    plane = ControlPlane(directory)
    admin = ApiServer(url=state.load(directory).url, token=plane.token, ca=str(plane.ca))
    host = {"apiVersion": "hostplane.dev/v1alpha1", "kind": "Host", "spec": {"schemaVersion": "1.0"}}
    for node in ("host-01", "elsewhere"):
        admin.request("POST", "/apis/hostplane.dev/v1alpha1/hosts", {**host, "metadata": {"name": node}})
    kubeconfig = directory / "hosts" / "host-01.kubeconfig"
    assert kubeconfig.stat().st_mode & 0o777 == 0o600
    token = kubeconfig.read_text().partition('token: "')[2].partition('"')[0]
    own = ApiServer(url=admin.url, token=token, ca=admin.ca)
    status = {"status": {"phase": "Idle"}}
    path = "/apis/hostplane.dev/v1alpha1/hosts/{}/status"
    own.request("PATCH", path.format("host-01"), status, kind="merge-patch+json")
    with pytest.raises(Exception, match="may not write the status of Host elsewhere"):
        own.request("PATCH", path.format("elsewhere"), status, kind="merge-patch+json")


def test_a_bare_control_plane_has_the_kinds_and_nothing_else(directory: Path) -> None:
    answer = json.loads(hostplane("local", "up", "--dir", str(directory), "--no-operator", "--json").stdout)
    assert [process["name"] for process in answer["processes"]] == ["etcd", "kube-apiserver"]
    plane = ControlPlane(directory)
    api = ApiServer(url=answer["url"], token=plane.token, ca=str(plane.ca))
    assert api.request("GET", "/apis/hostplane.dev/v1alpha1/rollouts")["items"] == []
    assert api.request("GET", "/apis/upgrade.openeuler.org/v1alpha1/os")["items"] == []


def test_hosts_that_do_not_come_up_end_everything(directory: Path) -> None:
    directory.mkdir()
    (directory / "state.json").write_text('{"schema": "1.0"}')
    (directory / "hosts").write_text("a file where a directory must be")
    answer = hostplane("local", "up", "--dir", str(directory), "--hosts", "1", "--no-operator", expect=3)
    assert "HP-7005: machines ended before it was ready" in answer.stderr
    assert state.load(directory).processes == []
    assert not _running_below(directory)


def _running_below(directory: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(directory) in command:
            found.append(command)
    return found
