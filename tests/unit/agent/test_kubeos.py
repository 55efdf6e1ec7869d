"""KubeOS's socket, spoken to as its proxy does: one object, no line feed, the side kept open, one answer line."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
from collections.abc import Callable
from typing import Any

import pytest

Raw = Callable[[str], socket.socket]


class Kubeos:
    """KubeOS's proxy, and the agent it talks to."""

    def __init__(self, host: Any, connect: Raw) -> None:
        self.host, self.connect = host, connect
        self.path = str(host.root / "run/os-agent/os-agent.sock")
        self.process = self.start()

    def start(self) -> Any:
        self.process = self.host.start("--kubeos-socket", self.path)
        self.host.client().close()
        return self.process

    def raw(self, method: str, params: list[Any], ident: int = 1) -> bytes:
        sock = self.connect(self.path)
        sock.sendall(json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": ident}).encode())
        return self.read(sock)

    def read(self, sock: socket.socket) -> bytes:
        data = b""
        while not data.endswith(b"\n"):
            piece = sock.recv(65536)
            if not piece:
                break
            data += piece
        return data

    def call(self, method: str, *params: Any) -> dict[str, Any]:
        return dict(json.loads(self.raw(method, list(params))))

    def prepare(self, url: str, **changes: Any) -> dict[str, Any]:
        request = {
            "version": "KubeOS v2",
            "check_sum": self.host.image["digest"][len("sha256:") :].upper(),
            "image_type": "disk",
            "container_image": "",
            "image_url": url,
            "flag_safe": True,
            "mtls": False,
            "certs": {"ca_cert": "", "client_cert": "", "client_key": ""},
        }
        return self.call("prepare_upgrade", {**request, **changes})


@pytest.fixture
def kubeos(host: Any, raw_socket: Raw) -> Kubeos:
    return Kubeos(host, raw_socket)


def test_the_socket_has_kubeos_modes(kubeos: Kubeos) -> None:
    assert stat.S_IMODE(os.stat(kubeos.path).st_mode) == 0o640
    assert stat.S_IMODE(os.stat(os.path.dirname(kubeos.path)).st_mode) == 0o750


def test_an_upgrade_is_committed_by_the_hosts_own_checks(kubeos: Kubeos, web: Any) -> None:
    host = kubeos.host
    host.check('test "$HOSTPLANE_SLOT" = B')
    web.serve(host.NEW)
    assert kubeos.prepare(web.url) == {"jsonrpc": "2.0", "result": {"status": "UpgradeReady"}, "id": 1}
    assert kubeos.prepare(web.url)["result"] == {"status": "UpgradeReady"}
    assert len(web.ranges) == 1
    assert kubeos.raw("upgrade", [], 2) == b'{"jsonrpc":"2.0","result":{"status":"Upgraded"},"id":2}\n'
    assert host.restarted(kubeos.process) == "B"
    kubeos.start()
    with host.client() as client:
        status = host.until(client, lambda status: status["phase"] == "Idle")
        assert status["slots"]["B"]["version"] == "KubeOS v2"
    assert host.boot_state().is_ok("B")
    assert kubeos.call("rollback")["result"] == {"status": "Rollbacked"}
    assert host.restarted(kubeos.process) == "A"


def test_an_upgrade_whose_checks_fail_goes_back_and_is_not_repeated(kubeos: Kubeos, web: Any) -> None:
    host = kubeos.host
    host.check('test "$HOSTPLANE_SLOT" = A')
    web.serve(host.NEW)
    kubeos.prepare(web.url)
    kubeos.call("upgrade")
    assert host.restarted(kubeos.process) == "B"
    assert host.restarted(host.start("--kubeos-socket", kubeos.path)) == "A"
    kubeos.start()
    error = kubeos.prepare(web.url)["error"]
    assert error["code"] == -1
    assert "HP-6023" in error["message"]


def test_a_rollback_needs_a_proven_slot_and_not_a_prepared_one(kubeos: Kubeos, web: Any) -> None:
    web.serve(kubeos.host.NEW)
    kubeos.prepare(web.url)
    assert "HP-6025" in kubeos.call("rollback")["error"]["message"]
    assert kubeos.process.poll() is None


def test_nothing_is_switched_to_that_was_not_prepared(kubeos: Kubeos) -> None:
    for method in ("upgrade", "rollback"):
        error = kubeos.call(method)["error"]
        assert error["code"] == -1
        assert "HP-6025" in error["message"]
    assert kubeos.process.poll() is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_type": "podman"}, "podman"),
        ({"image_type": "containerd", "container_image": ""}, "container_image"),
        ({"image_type": "docker", "container_image": "https://registry.test/os"}, "container_image"),
        ({"image_type": "docker", "container_image": "registry.test/os:1@sha256:" + "0" * 64}, "container_image"),
        ({"image_type": "containerd", "container_image": "registry.test/OS:1"}, "repository"),
        ({"check_sum": "0" * 64}, "digest"),
        ({"check_sum": "x"}, "check_sum"),
        ({"flag_safe": False}, "flagSafe"),
        ({"image_url": "https://localhost/x"}, "cacert"),
        (
            {"image_url": "https://localhost/x", "certs": {"ca_cert": "../x", "client_cert": "", "client_key": ""}},
            "..",
        ),
        (
            {
                "image_url": "https://localhost/x",
                "mtls": True,
                "certs": {"ca_cert": "ca.pem", "client_cert": "client.pem", "client_key": ""},
            },
            "clientkey",
        ),
        ({"image_url": "HTTPS://localhost/x"}, "cacert"),
        ({"version": None}, "version"),
    ],
)
def test_what_cannot_be_prepared_is_one_sentence(kubeos: Kubeos, web: Any, changes: Any, words: str) -> None:
    web.serve(kubeos.host.NEW)
    error = kubeos.prepare(web.url, **changes)["error"]
    assert words in error["message"]


def test_settings_come_as_an_object_keyed_by_name(kubeos: Kubeos) -> None:
    path = kubeos.host.write("etc/sysctl.conf", "a=1\nb=2\n")
    contents = {"a": {"value": "5", "operation": ""}, "b": {"value": "2", "operation": "delete"}, "c": {"value": None}}
    config = {"model": "kernel.sysctl.persist", "config_path": "", "contents": contents}
    assert kubeos.call("configure", {"configs": [config]})["result"] == {"status": "Configured"}
    assert path.read_text() == "a=5\n"
    error = kubeos.call("configure", {"configs": [{**config, "model": "kuberntes.kubelet"}]})["error"]
    assert "HP-6060" in error["message"]


def test_a_second_request_is_told_that_one_is_under_way_and_later_ones_are_served(kubeos: Kubeos, web: Any) -> None:
    is_asked, may_go_on = threading.Event(), threading.Event()

    def behave(handler: Any, number: int) -> None:
        is_asked.set()
        may_go_on.wait(kubeos.host.DEADLINE)
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(kubeos.host.NEW)

    web.behave = behave
    first: list[Any] = []
    thread = threading.Thread(target=lambda: first.append(kubeos.prepare(web.url)))
    thread.start()
    assert is_asked.wait(kubeos.host.DEADLINE)
    error = kubeos.call("upgrade")["error"]
    assert error == {"code": -1, "message": "os-agent is processing another request"}
    may_go_on.set()
    thread.join(kubeos.host.DEADLINE)
    assert first[0]["result"] == {"status": "UpgradeReady"}
    assert "result" in kubeos.call("configure", {"configs": []})


def test_malformed_requests_are_answered_and_leave_the_socket_alive(kubeos: Kubeos) -> None:
    for sent, code in (
        (b"rubbish", -32700),
        (b'{"jsonrpc":"2.0","id":7,"method":"nonsense","params":[]}', -32601),
        (b'{"jsonrpc":"2.0","id":7,"method":"configure","params":[{"configs":{}}]}', -32602),
        (b'{"jsonrpc":"2.0","id":7,"method":"prepare_upgrade","params":[]}', -32602),
        (b'{"a":"' + b"x" * (1 << 20) + b'"}', -1),
    ):
        sock = kubeos.connect(kubeos.path)
        with contextlib.suppress(OSError):
            sock.sendall(sent)
        assert json.loads(kubeos.read(sock))["error"]["code"] == code


def test_a_request_in_many_pieces_is_one_request(kubeos: Kubeos) -> None:
    sock = kubeos.connect(kubeos.path)
    for byte in b' {"jsonrpc":"2.0","id":"\\"}","method":"configure","params":[{"configs":[]}]}':
        sock.sendall(bytes([byte]))
    assert json.loads(kubeos.read(sock))["id"] == '"}'


def test_the_veto_beats_kubeos_too(kubeos: Kubeos, web: Any) -> None:
    kubeos.host.write("etc/hostplane/never", "")
    web.serve(kubeos.host.NEW)
    answers = (
        kubeos.prepare(web.url),
        kubeos.call("upgrade"),
        kubeos.call("rollback"),
        kubeos.call("configure", {"configs": []}),
    )
    for answer in answers:
        assert "HP-6020" in answer["error"]["message"]
