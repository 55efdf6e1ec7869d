"""The agent's process and its socket: the whole way of a change, and peers that are slow, loud, wrong or gone."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostplane.errors import HostError
from hostplane.rpc.client import AgentClient

Raw = Callable[[str], socket.socket]
HELLO = b'{"jsonrpc":"2.0","id":1,"method":"hello","params":{"protocols":[1],"client":"t","hostUid":""}}\n'


def answer(sock: socket.socket) -> dict[str, Any]:
    """The next answer; an empty one when the agent has closed."""
    data = b""
    while not data.endswith(b"\n"):
        piece = sock.recv(65536)
        if not piece:
            return {}
        data += piece
    return dict(json.loads(data))


def peak_kib(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def test_an_upgrade_is_staged_switched_to_tried_and_committed(host: Any) -> None:
    host.check('test "$HOSTPLANE_SLOT" = B')
    process = host.start()
    with host.client(host_uid="uid-1") as client:
        assert stat.S_IMODE(os.stat(host.socket).st_mode) == 0o660
        assert client.greeting == {"protocol": 1, "agent": client.greeting["agent"], "schema": "1.0"}
        assert host.staged(client)["phase"] == "Staged"
        asked = {"seq": 4, "operation": "upgrade", "digest": host.image["digest"], "trialSeconds": 60}
        assert client.call("switch", **asked)["phase"] == "Rebooting"
    assert host.restarted(process) == "B"
    process = host.start()
    with host.client(host_uid="uid-1") as client:
        status = client.call("status")
        assert (status["phase"], status["activeSlot"]) in (("Trial", "B"),)
        assert host.boot_state().left("B") == 0
        assert 0 < status["trialSecondsLeft"] <= 60
        host.until(client, lambda status: confirmed(client, 4))
        status = client.call("confirm", seq=4)
        assert status["phase"] == "Idle"
        assert status["operation"]["outcome"] == "Committed"
        assert [transition["phase"] for transition in status["transitions"]] == [
            "Staging",
            "Staged",
            "Rebooting",
            "Trial",
            "Idle",
        ]
        assert client.call("switch", **asked)["phase"] == "Idle"
        with pytest.raises(HostError, match="HP-6021"):
            client.call("switch", **{**asked, "seq": 3})
        client.call("release", seq=5)
        with pytest.raises(HostError, match="HP-6021"):
            client.call("switch", **{**asked, "seq": 5})
        assert client.call("switch", seq=6, operation="rollback", digest="", trialSeconds=60)["phase"] == "Rebooting"
    assert host.restarted(process) == "A"


def confirmed(client: AgentClient, seq: int) -> bool:
    try:
        client.call("confirm", seq=seq)
    except HostError as fault:
        if fault.name != "ChecksRunning":
            raise
        return False
    return True


def test_a_failed_check_returns_and_the_digest_is_remembered(host: Any) -> None:
    host.check('echo "no route to the gateway"; test "$HOSTPLANE_SLOT" = A')
    process = host.start()
    with host.client() as client:
        host.staged(client)
        client.call("switch", seq=1, operation="upgrade", digest=host.image["digest"], trialSeconds=60)
    assert host.restarted(process) == "B"
    assert host.restarted(host.start()) == "A"
    host.start()
    with host.client() as client:
        status = client.call("status")
        assert status["phase"] == "Returned"
        assert status["lastError"]["name"] == "CheckFailed"
        assert "no route to the gateway" in status["lastError"]["message"]
        assert status["failedDigests"] == [{"digest": host.image["digest"], "name": "CheckFailed", "attempt": 0}]
        assert status["slots"]["B"]["state"] == "Bad"
        assert host.boot_state().first == "A"
        with pytest.raises(HostError, match="HP-6023"):
            client.call("stage", image=host.image)
        assert client.call("release", seq=2)["phase"] == "Idle"
        assert host.staged(client, {**host.image, "attempt": 1})["phase"] == "Staged"


def test_a_check_that_hangs_is_ended_with_all_it_started(host: Any) -> None:
    host.configure(checkSeconds=1)
    host.check(f"sleep 300 & echo $! > {host.root}/pid; wait")
    process = host.start()
    with host.client() as client:
        host.staged(client)
        client.call("switch", seq=1, operation="upgrade", digest=host.image["digest"], trialSeconds=60)
    host.restarted(process)
    host.restarted(host.start())
    pid = int((host.root / "pid").read_text())
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"
    host.start()
    with host.client() as client:
        assert client.call("status")["lastError"]["name"] == "CheckTimedOut"


def test_the_cluster_can_give_up_a_trial(host: Any) -> None:
    process = host.start()
    with host.client() as client:
        host.staged(client)
        client.call("switch", seq=1, operation="upgrade", digest=host.image["digest"], trialSeconds=60)
    host.restarted(process)
    process = host.start()
    with host.client() as client:
        assert client.call("return", seq=1, reason="CNI not ready")["phase"] == "Rebooting"
    assert host.restarted(process) == "A"
    host.start()
    with host.client() as client:
        assert "CNI not ready" in client.call("status")["lastError"]["message"]


@pytest.mark.parametrize("phase", ["Staging", "Staged", "Trial", "Returned"])
def test_an_agent_killed_in_a_phase_goes_on_with_it(host: Any, web: Any, phase: str) -> None:
    is_held = threading.Event()
    content = host.NEW * 3

    def behave(handler: Any, number: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: None if number else 5000])
        if not number and phase == "Staging":
            is_held.set()
            web.over.wait(host.DEADLINE)

    web.behave = behave
    if phase == "Returned":
        host.check('test "$HOSTPLANE_SLOT" = A')
    process = host.start()
    with host.client() as client:
        client.call("stage", image=host.image_of(content, web.url))
        if phase == "Staging":
            assert is_held.wait(host.DEADLINE)
            host.kill(process)
            process = host.start()
    with host.client() as client:
        host.until(client, lambda status: status["phase"] == "Staged")
        if phase == "Staged":
            host.kill(process)
            process = host.start()
    with host.client() as client:
        digest = host.digest_of(content)
        client.call("switch", seq=1, operation="upgrade", digest=digest, trialSeconds=60)
    host.restarted(process)
    if phase == "Returned":
        assert host.restarted(host.start()) == "A"
        host.kill(host.start())
    process = host.start()
    with host.client() as client:
        if phase == "Trial":
            left = client.call("status")["trialSecondsLeft"]
            host.kill(process)
            process = host.start()
    with host.client() as client:
        status = client.call("status")
        if phase == "Returned":
            assert status["phase"] == "Returned"
        else:
            assert phase != "Trial" or status["trialSecondsLeft"] <= left
            host.until(client, lambda status: confirmed(client, 1))


def test_the_veto_beats_everything_but_reports_and_release(host: Any) -> None:
    host.start()
    host.write("etc/hostplane/never", "")
    with host.client() as client:
        assert client.call("status")["never"] is True
        assert client.call("release", seq=1)["seq"] == 1
        digest = host.image["digest"]
        for method, params in {
            "stage": {"image": host.image},
            "switch": {"seq": 2, "operation": "upgrade", "digest": digest, "trialSeconds": 60},
            "confirm": {"seq": 2},
            "return": {"seq": 2, "reason": ""},
            "configure": {"seq": 2, "settings": {"version": "1", "configs": []}},
        }.items():
            with pytest.raises(HostError) as caught:
                client.call(method, **params)
            assert caught.value.name == "VetoedByHost", method
    assert host.slot("B") == b""


def test_settings_are_applied_once_and_a_fault_is_reported(host: Any) -> None:
    path = host.write("etc/sysctl.conf", "a=1\n")
    host.start()
    contents = [{"key": "a", "value": "2", "operation": ""}]
    wish = {"version": "s1", "configs": [{"model": "kernel.sysctl.persist", "configpath": "", "contents": contents}]}
    with host.client() as client:
        assert client.call("configure", seq=1, settings=wish)["settings"] == {"version": "s1", "error": ""}
        assert path.read_text() == "a=2\n"
        path.write_text("a=3\n")
        client.call("configure", seq=1, settings=wish)
        assert path.read_text() == "a=3\n"
        bad = {"version": "s2", "configs": [{"model": "nonsense", "contents": []}]}
        status = client.call("configure", seq=2, settings=bad)
        assert status["settings"]["version"] == "s1"
        assert status["settings"]["error"].startswith("HP-6060")


def test_another_hosts_word_counts_only_while_the_host_is_at_rest(host: Any) -> None:
    process = host.start()
    with host.client(host_uid="one") as client:
        host.staged(client)
    with host.client() as client, pytest.raises(HostError, match="HP-6028"):
        client.call("stage", image=host.image)
    with host.client(host_uid="two") as client:
        client.call("switch", seq=1, operation="upgrade", digest=host.image["digest"], trialSeconds=60)
    host.restarted(process)
    host.start()
    with host.client(host_uid="three") as client:
        assert client.call("status")["phase"] == "Trial"
        with pytest.raises(HostError, match="HP-6028"):
            client.call("confirm", seq=1)


@pytest.mark.parametrize(
    ("sent", "number"),
    [
        (b"rubbish\n", -32700),
        (b"\xff\xfe\n", -32700),
        (b"[" * 100000 + b"\n", -32700),
        (b'{"id":' + b"9" * 5000 + b"}\n", -32700),
        (b"[]\n", -32700),
        (b'{"jsonrpc":"2.0","id":2,"method":"nonsense"}\n', -32601),
        (b'{"jsonrpc":"2.0","id":2,"method":"wait","params":{"revision":"x"}}\n', -32602),
        (b'{"jsonrpc":"2.0","id":2,"method":"stage","params":{"image":[]}}\n', -32602),
        (b'{"jsonrpc":"2.0","id":2,"method":"stage","params":[]}\n', -32602),
        (b'{"jsonrpc":"2.0","id":2,"method":"confirm","params":{"seq":true}}\n', -32602),
        (b'{"jsonrpc":"2.0","id":2,"method":"confirm","params":{"seq":1}}\n', -32000),
    ],
)
def test_a_bad_request_is_refused_and_the_next_one_served(host: Any, raw_socket: Raw, sent: bytes, number: int) -> None:
    host.start()
    host.client().close()
    sock = raw_socket(host.socket)
    sock.sendall(HELLO)
    assert "result" in answer(sock)
    sock.sendall(sent)
    assert answer(sock)["error"]["code"] == number
    sock.sendall(b'{"jsonrpc":"2.0","id":"s","method":"status"}\n')
    assert answer(sock)["id"] == "s"


def test_hello_comes_first_and_agrees_on_a_protocol(host: Any, raw_socket: Raw) -> None:
    host.start()
    host.client().close()
    sock = raw_socket(host.socket)
    sock.sendall(b'{"jsonrpc":"2.0","id":1,"method":"status"}\n')
    assert answer(sock)["error"]["data"]["name"] == "HelloMissing"
    with pytest.raises(HostError, match="HP-5508"):
        AgentClient(host.socket, protocols=(7,)).__enter__()


def test_a_hundred_mebibytes_in_one_request_cost_no_memory(host: Any, raw_socket: Raw) -> None:
    process = host.start()
    host.client().close()
    before = peak_kib(process.pid)
    sock = raw_socket(host.socket)
    piece = b"x" * (1 << 20)
    try:
        for _ in range(100):
            sock.sendall(piece)
    except OSError:
        pass
    assert answer(sock)["error"]["data"]["name"] == "RequestTooLarge"
    with host.client() as client:
        assert client.call("status")["phase"] == "Idle"
    assert peak_kib(process.pid) - before < 6 << 10


def test_silent_and_half_said_connections_hinder_nobody(host: Any, raw_socket: Raw) -> None:
    host.start()
    host.client().close()
    for _ in range(20):
        raw_socket(host.socket).sendall(b'{"jsonrpc"')
    gone = raw_socket(host.socket)
    gone.sendall(HELLO + b'{"jsonrpc":"2.0","id":1,"method":"wait","params":{"revision":0}}\n')
    gone.close()
    with host.client() as client:
        assert client.call("status")["phase"] == "Idle"


def test_too_many_connections_are_told_so(host: Any, raw_socket: Raw) -> None:
    host.start()
    host.client().close()
    socks = [raw_socket(host.socket) for _ in range(60)]
    names = set()
    for sock in socks[-10:]:
        names.add(answer(sock)["error"]["data"]["name"])
    assert names == {"ConnectionsFull"}


def test_staging_stays_within_thirty_mebibytes(host: Any, web: Any) -> None:
    content = os.urandom(1 << 20) * 48
    web.serve(content)
    process = host.start()
    with host.client() as client:
        assert host.staged(client, host.image_of(content, web.url))["phase"] == "Staged"
    assert peak_kib(process.pid) <= 30 << 10


def test_an_idle_agent_started_by_activation_ends_and_keeps_the_socket(host: Any) -> None:
    listener = socket.socket(socket.AF_UNIX)
    directory = os.open(os.path.dirname(host.socket), os.O_RDONLY)
    listener.bind(f"/proc/self/fd/{directory}/agent.sock")
    listener.listen(8)
    environment = {**os.environ, "LISTEN_FDS": "1"}
    for _ in range(2):
        process = host.start(
            *("--idle-seconds", "0.2"),
            preexec_fn=lambda: os.dup2(listener.fileno(), 3),
            close_fds=False,
            env=environment,
        )
        with host.client() as client:
            assert client.call("status")["phase"] == "Idle"
        assert process.wait(host.DEADLINE) == 0
        assert not (host.root / "run/hostplane/reboot").exists()
        assert os.path.exists(host.socket)
    listener.close()
    os.close(directory)


def test_a_broken_configuration_is_one_sentence(host: Any) -> None:
    host.write("etc/hostplane/agent.json", '{"bootTries": 99}')
    command = [sys.executable, "-m", "hostplane.agent.main", "serve", "--root", str(host.root)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=host.DEADLINE)
    assert done.returncode == 1
    assert done.stderr.startswith("hostplane-agent: HP-6036")
    assert "bootTries" in done.stderr
    assert "Traceback" not in done.stderr
