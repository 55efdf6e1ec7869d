"""What a host reaches, asked of sockets and tables made for the question."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from hostplane.agent.hostroot import HostRoot
from hostplane.agent.trial import neighbours, network, services
from hostplane.agent.trial.neighbours import Gateway

ROUTES = """Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
eth0\t00000000\t0202000A\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0002000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
wg0\t00000000\t00000000\t0001\t0\t0\t200\t00000000\t0\t0\t0
eth1\t00000000\t0303000A\t0002\t0\t0\t100\t00000000\t0\t0\t0
"""
ROUTES6 = (
    "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000002 "
    "00000400 00000001 00000000 00450003 eth0\n"
    "00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 "
    "ffffffff 00000001 00000000 00200200 lo\n"
    "fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 "
    "00000100 00000001 00000000 00000001 eth0\n"
)


def test_default_routes_are_read_from_both_tables() -> None:
    assert neighbours.default_gateways(ROUTES, ROUTES6) == [
        Gateway("10.0.2.2", "eth0"),
        Gateway("", "wg0"),
        Gateway("fe80::2", "eth0"),
    ]
    assert neighbours.default_gateways("", "") == []
    assert neighbours.default_gateways("head\nshort line\n", "00 00\n") == []


def neighbour(address: str, state: int) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    raw = socket.inet_pton(family, address)
    attributes = struct.pack("=HH", 6, 2) + b"\1\2" + b"\0\0" + struct.pack("=HH", 4 + len(raw), 1) + raw
    body = struct.pack("=BBHiHBB", family, 0, 0, 2, state, 0, 1) + attributes
    return struct.pack("=IHHII", 16 + len(body), 28, 0, 1, 0) + body


def test_the_kernels_neighbours_are_read() -> None:
    raw = neighbour("10.0.2.2", 2) + neighbour("fe80::2", 0x20)
    assert neighbours.parse_neighbours(raw) == ({"10.0.2.2": 2, "fe80::2": 0x20}, False)
    done = struct.pack("=IHHII", 20, 3, 0, 1, 0) + bytes(4)
    assert neighbours.parse_neighbours(raw + done) == ({"10.0.2.2": 2, "fe80::2": 0x20}, True)
    for end in range(len(raw)):
        neighbours.parse_neighbours(raw[:end])  # a cut one is no fault


def test_this_machines_own_table_can_be_asked() -> None:
    assert isinstance(neighbours.neighbours(), dict)


@pytest.mark.parametrize(("state", "is_there"), [(2, True), (4, True), (0x20, False), (1, False), (None, False)])
def test_a_gateway_answers_when_its_link_address_is_known(state: int | None, is_there: bool) -> None:
    poked: list[Gateway] = []
    table = {} if state is None else {"10.0.2.2": state}
    hop = Gateway("10.0.2.2", "eth0")
    assert neighbours.is_answering(hop, 0.0, lambda: table, poked.append) is is_there
    assert poked == [hop]
    assert neighbours.is_answering(Gateway("", "wg0"), 0.0, dict, poked.append)


def test_one_gateway_of_several_is_enough(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = HostRoot(str(host.root))
    assert network.gateway(root) == "there is no default route"
    host.write("proc/net/route", ROUTES.replace("wg0\t00000000\t00000000\t0001", "wg0\t00000000\t0505000A\t0003"))
    monkeypatch.setattr(network, "_SECONDS", 0.0)
    monkeypatch.setattr(neighbours, "poke", lambda hop: None)
    monkeypatch.setattr(neighbours, "neighbours", lambda: {"10.0.2.2": 0x20})
    assert network.gateway(root) == "no answer from 10.0.2.2 (eth0), 10.0.5.5 (wg0)"
    monkeypatch.setattr(neighbours, "neighbours", lambda: {"10.0.2.2": 0x20, "10.0.5.5": 2})
    assert network.gateway(root) == ""


# --- name servers


@contextlib.contextmanager
def name_server(rcode: int | None) -> Iterator[int]:
    """A port that answers every question with `rcode`; None: not at all."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)

        def serve() -> None:
            question, peer = sock.recvfrom(512)
            if rcode is not None:
                sock.sendto(b"xx" + question[2:], peer)  # another question's answer
                sock.sendto(question[:2] + bytes([0x80, rcode]) + question[4:], peer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield sock.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(("rcode", "is_there"), [(0, True), (5, True), (2, False), (None, False)])
def test_a_name_server_is_there_when_it_answers(host: Any, rcode: int | None, is_there: bool) -> None:
    host.write("etc/resolv.conf", "search x\nnameserver 127.0.0.1\n")
    with name_server(rcode) as port:
        words = network.dns(HostRoot(str(host.root)), port, 5.0 if is_there else 0.3)
    assert words == ("" if is_there else "no answer from 127.0.0.1")


def test_a_stub_is_not_asked_but_who_stands_behind_it(host: Any) -> None:
    root = HostRoot(str(host.root))
    assert network.dns(root) == "no name server is configured"
    host.write("etc/resolv.conf", "nameserver 127.0.0.53\n")
    assert network.name_servers(root) == ["127.0.0.53"]
    host.write("run/systemd/resolve/resolv.conf", "nameserver 192.0.2.1\nnameserver 2001:db8::1\n")
    assert network.name_servers(root) == ["192.0.2.1", "2001:db8::1"]


# --- registry and API server


@pytest.mark.parametrize(
    ("ref", "address"),
    [
        ("oci://registry.example:5000/x/y:1", ("registry.example", 5000)),
        ("registry.example/x/y@sha256:00", ("registry.example", 443)),
        ("http://web.example/x/", ("web.example", 80)),
        ("https://[2001:db8::1]:8443/x/", ("2001:db8::1", 8443)),
        ("file:///var/x", ("", 0)),
        ("", ("", 0)),
        ("http://web.example:port/", ("", 0)),
    ],
)
def test_the_registry_is_where_the_image_came_from(ref: str, address: tuple[str, int]) -> None:
    assert network.registry_of(ref) == address


def test_the_api_server_is_the_kubelets(host: Any) -> None:
    root = HostRoot(str(host.root))
    assert network.api_server(root) == ("", 0)
    host.write("etc/kubernetes/kubelet.conf", "clusters:\n- cluster:\n    server: https://10.0.0.1:6443\n")
    assert network.api_server(root) == ("10.0.0.1", 6443)


def test_a_port_where_nobody_listens_is_not_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert network.tcp(("127.0.0.1", port)) == ""
    assert f"127.0.0.1:{port}" in network.tcp(("127.0.0.1", port))
    assert network.tcp(("", 0)) == ""


# --- services


@pytest.mark.parametrize(
    ("greeting", "answer", "is_right"),
    [
        (services.RUNTIMES[0].greeting, b"\0\0\6\4\0\0\0\0\0abcdef", True),
        (services.RUNTIMES[0].greeting, b"HTTP/1.1 400 Bad Request\r\n", False),
        (services.RUNTIMES[0].greeting, b"", False),
        (services.RUNTIMES[2].greeting, b"HTTP/1.1 200 OK\r\n\r\nOK", True),
        (services.RUNTIMES[2].greeting, b"HTTP/1.1 500 Oops\r\n", False),
    ],
)
def test_a_service_answers_as_its_protocol_does(greeting: bytes, answer: bytes, is_right: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        assert services.answers(ours, greeting) is is_right


@pytest.mark.parametrize(
    ("config", "address"),
    [
        ("", ("127.0.0.1", 10248)),
        ("healthzPort: 0\n", ("127.0.0.1", 0)),
        ("healthzBindAddress: 0.0.0.0\nhealthzPort: 11000\n", ("127.0.0.1", 11000)),
        ('healthzBindAddress: "::1"\n', ("::1", 10248)),
    ],
)
def test_the_kubelets_health_is_where_its_configuration_says(config: str, address: tuple[str, int]) -> None:
    assert services.health_address(config) == address


WANTED = "LoadState=loaded\nWantedBy=multi-user.target\nRequiredBy=\nConditionResult=yes\nActiveState=%s\n"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What `systemctl show` prints of each unit."""
    units: dict[str, str] = {}
    monkeypatch.setattr("hostplane.agent.trial.systemd.output", lambda *command: units.get(command[-1], ""))
    return units


def test_only_services_that_the_host_wants_are_asked(host: Any, shown: dict[str, str]) -> None:
    root = HostRoot(str(host.root))
    assert (services.runtime(root), services.kubelet(root)) == ("", "")
    shown["kubelet.service"] = (
        "LoadState=loaded\nWantedBy=multi-user.target\nConditionResult=no\nActiveState=inactive\n"
    )
    shown["containerd.service"] = "LoadState=not-found\nActiveState=inactive\n"
    assert (services.runtime(root), services.kubelet(root)) == ("", "")
    shown["containerd.service"] = WANTED % "active"
    assert services.runtime(root) == "containerd.service: /run/containerd/containerd.sock: No such file or directory"


def test_a_kubelet_that_is_ill_says_where(host: Any, shown: dict[str, str]) -> None:
    shown["kubelet.service"] = WANTED % "activating"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        host.write("var/lib/kubelet/config.yaml", f"healthzPort: {port}\n")
        for answer, words in ((b"200 OK", ""), (b"500 Ill", f"127.0.0.1:{port}/healthz is not ok")):

            def serve(answer: bytes = answer) -> None:
                sock, _ = server.accept()
                with sock:
                    sock.recv(100)
                    sock.sendall(b"HTTP/1.1 " + answer + b"\r\n\r\n")

            thread = threading.Thread(target=serve)
            thread.start()
            assert services.kubelet(HostRoot(str(host.root))) == words
            thread.join()
