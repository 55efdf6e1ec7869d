"""A host that goes back to its old slot still joins, although its kubelet's certificate was renewed in between.

The cluster is a real one: bootstrap tokens, signing requests approved and signed by the controller manager, the Node
authorizer. Slots are booted by the initramfs's own script and /etc is merged by the agent's zipapp, on a real file
system (tests/image/test_etc_merge.py). What is played is the kubelet: joiner.py runs inside the booted slot and does
what a kubelet does with its files, by the paths that its own kubelet.conf there names. Certificates are so short-lived
that the first one is really refused when the host has gone back.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hostplane.local.controlplane import ControlPlane
from tests.image.test_etc_merge import Host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount an image")

LEAST_SECONDS = 45  # that a certificate lives: from the first boot until the renewal, and half of it until the return
BOOTS = 30  # so many boots one after the other fit into that, on a machine as busy as it is now
NAMES = ("in-var", "in-etc", "unshared")
TOKEN_ID, TOKEN_SECRET = "0123ab", "0123456789abcdef"
BINDINGS = {  # as kubeadm has them
    "join": ("system:node-bootstrapper", "system:bootstrappers"),
    "approve": ("system:certificates.k8s.io:certificatesigningrequests:nodeclient", "system:bootstrappers"),
    "renew": ("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes"),
}
JOINER = Path(__file__).with_name("joiner.py").read_text("utf-8")


@pytest.fixture(scope="module")
def lifetime(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Seconds that a certificate lives."""
    host = Host(tmp_path_factory.mktemp("pace"))
    began = time.monotonic()
    host.boot("A")
    return max(LEAST_SECONDS, int(BOOTS * (time.monotonic() - began)))


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, lifetime: int) -> Iterator[ControlPlane]:
    """A cluster that lets nodes join by themselves."""
    plane = ControlPlane(tmp_path_factory.mktemp("signer"), guests=NAMES, certificate_seconds=lifetime)
    plane.start()
    try:
        for name, (role, group) in BINDINGS.items():
            body = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding"}
            subject = {"kind": "Group", "name": group, "apiGroup": "rbac.authorization.k8s.io"}
            reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
            plane.apply([json.dumps({**body, "metadata": {"name": name}, "roleRef": reference, "subjects": [subject]})])
        secret = {"token-id": TOKEN_ID, "token-secret": TOKEN_SECRET, "usage-bootstrap-authentication": "true"}
        body = {"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token", "stringData": secret}
        body["metadata"] = {"name": f"bootstrap-token-{TOKEN_ID}"}
        plane.api.request("POST", "/api/v1/namespaces/kube-system/secrets", body)
        yield plane
    finally:
        plane.stop()


class Member:
    """One host and the directory where its kubelet keeps keys and certificates (kubelet's --cert-dir)."""

    def __init__(self, base: Path, plane: ControlPlane, name: str, directory: str) -> None:
        self.host, self.name, self._plane, self._directory = Host(base), name, plane, directory
        self.first = ""
        (self.host.root / "joiner.py").write_text(JOINER)
        self.host.pack("erofs")

    def furnish(self) -> None:
        """What an administrator who lets it join leaves in /etc of slot A."""
        files = {"ca.crt": self._plane.ca.read_text("ascii"), "bootstrap-kubelet.conf": self._config()}
        self.host.boot("A")
        for name, text in files.items():
            self.host.replace("A", f"kubernetes/{name}", text)

    def _config(self) -> str:
        cluster = {"server": self._plane.url, "certificate-authority": "/etc/kubernetes/ca.crt"}
        return json.dumps({"cluster": cluster, "user": {"token": f"{TOKEN_ID}.{TOKEN_SECRET}"}})

    def run(self, slot: str, verb: str) -> dict[str, Any]:
        """Boot `slot` and let its kubelet `start` or `renew`; what it says."""
        command = f"/usr/bin/python3 /joiner.py {verb} {self.name} {self._directory} {slot}"
        said: dict[str, Any] = json.loads(self.host.boot(slot, command).splitlines()[-1])
        return said

    def upgrade(self) -> None:
        """The merge that the switch from A to B makes."""
        self.host.run("A", "/usr/bin/python3 /work.py A B")

    def slot_of_node(self) -> str:
        """The slot that last wrote the Node's status."""
        node = self._plane.api.request("GET", f"/api/v1/nodes/{self.name}")
        image: str = node["status"]["nodeInfo"]["osImage"]
        return image


def test_a_host_that_goes_back_after_its_certificate_was_renewed_still_joins(
    plane: ControlPlane, lifetime: int, tmp_path: Path
) -> None:
    in_var = Member(tmp_path / "1", plane, "in-var", "/var/lib/kubelet/pki")
    in_etc = Member(tmp_path / "2", plane, "in-etc", "/etc/kubernetes/pki")
    unshared = Member(tmp_path / "3", plane, "unshared", "/etc/kubernetes/pki")
    for place in (unshared.host.root / "library", unshared.host.root / "usr/lib/hostplane"):
        (place / "identity").write_text("machine-id\nhostname\n")  # the proof that it is identity which does it
    members = (in_var, in_etc, unshared)

    def first_boot(member: Member) -> None:
        member.furnish()
        assert member.run("A", "start") == {"user": f"system:node:{member.name}", "joined": True, "way": "bootstrap"}

    _each(members, first_boot)
    issued = time.time()
    plane.api.request("DELETE", f"/api/v1/namespaces/kube-system/secrets/bootstrap-token-{TOKEN_ID}")

    def upgrade(member: Member) -> None:
        member.first = member.run("A", "keep")["serial"]
        member.upgrade()
        assert member.run("B", "start") == {"user": f"system:node:{member.name}", "joined": True, "way": "certificate"}
        assert member.slot_of_node() == "slot B"

    _each(members, upgrade)
    time.sleep(max(0.0, issued + lifetime / 2 - time.time()))  # when a kubelet would renew

    def renew(member: Member) -> None:
        said = member.run("B", "renew")
        assert said["user"] == f"system:node:{member.name}"
        assert said["serial"] != member.first, "the cluster has signed another one"

    _each(members, renew)
    deadline = time.monotonic() + 2 * lifetime
    while any(member.run("B", "try-first")["status"] != 401 for member in members):
        assert time.monotonic() < deadline, "the first certificate is still taken"
    for member in (in_var, in_etc):
        assert member.run("A", "start") == {"user": f"system:node:{member.name}", "joined": True, "way": "certificate"}
        assert member.slot_of_node() == "slot A"
    lost = unshared.run("A", "start")
    assert (lost["joined"], lost["way"], lost["status"]) == (False, "bootstrap", 401)
    assert unshared.slot_of_node() == "slot B"


def _each(members: tuple[Member, ...], act: Callable[[Member], None]) -> None:
    """At the same time, since certificates are short-lived."""
    with ThreadPoolExecutor(len(members)) as pool:
        list(pool.map(act, members))
