"""The inventory of a root tells what gives rights away and what listens, without leaving the root."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from hostplane.image.root import inventory

UNITS = "usr/lib/systemd/system"


def put(root: Path, path: str, text: str = "", mode: int = 0o644) -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(mode)
    return target


def link(root: Path, path: str, goal: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).symlink_to(goal)


def listeners(root: Path) -> list[tuple[str, str, str, str]]:
    return [tuple(one.values()) for one in inventory.collect(root)["listeners"]]  # type: ignore[misc]


def test_files_that_run_with_other_rights_are_listed_in_order(tmp_path: Path) -> None:
    put(tmp_path, "usr/bin/su", mode=0o4755)
    put(tmp_path, "usr/bin/chage", mode=0o2755)
    put(tmp_path, "usr/bin/ls", mode=0o755)
    link(tmp_path, "bin", "usr/bin")
    found = inventory.collect(tmp_path)
    assert [(one["path"], one["mode"]) for one in found["setuid"]] == [
        ("/usr/bin/chage", "2755"),
        ("/usr/bin/su", "4755"),
    ]
    assert found["files"] == 3


def test_capabilities_are_told_as_getcap_tells_them(tmp_path: Path) -> None:
    path = put(tmp_path, "usr/bin/ping", mode=0o755)
    try:
        os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 1 << 7, 0))
    except PermissionError:
        pytest.skip("only root can give a file capabilities")
    want = [{"path": "/usr/bin/ping", "capabilities": "cap_net_raw,cap_bpf=ep"}]
    assert inventory.collect(tmp_path)["capabilities"] == want


def test_what_everybody_may_write_is_listed_but_not_sticky_directories(tmp_path: Path) -> None:
    put(tmp_path, "var/open", mode=0o666)
    for name, mode in (("tmp", 0o1777), ("spool", 0o777)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    assert inventory.collect(tmp_path)["worldWritable"] == ["/spool", "/var/open"]


def test_an_enabled_socket_tells_its_own_addresses(tmp_path: Path) -> None:
    put(tmp_path, f"{UNITS}/a.socket", "[Socket]\nListenStream=22\nListenStream=/run/a.sock\nListenDatagram=[::1]:53\n")
    put(tmp_path, f"{UNITS}/idle.socket", "[Socket]\nListenStream=9999\n")
    link(tmp_path, "etc/systemd/system/sockets.target.wants/a.socket", f"/{UNITS}/a.socket")
    assert listeners(tmp_path) == [
        ("a.socket", "tcp", "22", "socket unit"),
        ("a.socket", "unix", "/run/a.sock", "socket unit"),
        ("a.socket", "udp", "[::1]:53", "socket unit"),
    ]


def test_drop_ins_and_the_administrators_copy_win(tmp_path: Path) -> None:
    put(tmp_path, f"{UNITS}/a.socket", "[Socket]\nListenStream=22\n")
    put(tmp_path, f"{UNITS}/b.socket", "[Socket]\nListenStream=80\n")
    put(tmp_path, "etc/systemd/system/b.socket", "[Socket]\nListenStream=81\n")
    put(tmp_path, "etc/systemd/system/a.socket.d/port.conf", "[Socket]\nListenStream=\nListenStream=2222\n")
    for name in ("a", "b"):
        link(tmp_path, f"etc/systemd/system/sockets.target.wants/{name}.socket", f"/{UNITS}/{name}.socket")
    assert [(unit, address) for unit, _, address, _ in listeners(tmp_path)] == [
        ("a.socket", "2222"),
        ("b.socket", "81"),
    ]


def test_services_known_to_listen_say_how_that_is_known(tmp_path: Path) -> None:
    for name in ("sshd.service", "kubelet.service", "other.service"):
        put(tmp_path, f"{UNITS}/{name}", "[Service]\n")
        link(tmp_path, f"etc/systemd/system/multi-user.target.wants/{name}", f"/{UNITS}/{name}")
    assert listeners(tmp_path) == [
        ("kubelet.service", "tcp", "10250", "known service"),
        ("kubelet.service", "tcp", "127.0.0.1:10248", "known service"),
        ("sshd.service", "tcp", "22", "known service"),
    ]


def test_a_masked_unit_does_not_listen(tmp_path: Path) -> None:
    link(tmp_path, "etc/systemd/system/multi-user.target.wants/sshd.service", f"/{UNITS}/sshd.service")
    link(tmp_path, "etc/systemd/system/sshd.service", "/dev/null")
    found = inventory.collect(tmp_path)
    assert (found["maskedUnits"], found["listeners"]) == (["sshd.service"], [])


def test_links_out_of_the_root_lead_nowhere(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(tmp_path, "outside", "ID=outside\n", mode=0o4755)
    root.mkdir()
    link(root, "etc/os-release", "../../outside")
    link(root, "etc/passwd", str(tmp_path / "outside"))
    link(root, "usr/lib/systemd/system", "/loop")
    link(root, "loop", "/loop")
    found = inventory.collect(root)
    assert (found["osRelease"], found["setuid"], found["accounts"], found["enabledUnits"]) == ({}, [], [], [])


def test_accounts_that_may_log_in_are_listed(tmp_path: Path) -> None:
    put(
        tmp_path,
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/bash\nbin:x:1:1::/bin:/usr/sbin/nologin\nops:x:1000:1000::/home/ops:/bin/sh\n"
        "svc:x:2:2::/:/bin/false\nbroken\n",
    )
    put(tmp_path, "etc/shadow", "root:*:1::::::\nops:$6$x$y:1::::::\nsvc::1::::::\nbin:!$6$x:1::::::\n")
    put(tmp_path, "home/ops/.ssh/authorized_keys", "# mine\nssh-ed25519 AAAA me\n\n")
    found = {one["name"]: (one["password"], one["sshKeys"]) for one in inventory.collect(tmp_path)["accounts"]}
    assert found == {"root": ("none", 0), "ops": ("set", 1), "svc": ("empty", 0)}


def test_it_is_json_and_the_same_each_time(tmp_path: Path) -> None:
    for name in "cab":
        put(tmp_path, f"usr/lib/modules/6.1-{name}/x", mode=0o4644)
    first: dict[str, Any] = inventory.collect(tmp_path)
    assert json.dumps(first) == json.dumps(inventory.collect(tmp_path))
    assert first["kernels"] == ["6.1-a", "6.1-b", "6.1-c"]


def test_an_empty_root_has_an_inventory(tmp_path: Path) -> None:
    assert inventory.collect(tmp_path)["bytes"] == 0
