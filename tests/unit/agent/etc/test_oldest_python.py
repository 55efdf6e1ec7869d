"""A host's Python, the oldest and the newest there is here, merges a whole /etc by itself."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from hostplane.image.root.agentapp import build_agent
from tests.unit.agent.etc.conftest import Rig
from tests.unit.agent.test_zipapp import interpreters

MERGE = """
import json, sys
from hostplane.agent import etc
from hostplane.agent.etc import owners
from hostplane.agent.hostroot import HostRoot
host = HostRoot(sys.argv[1])
seen = etc.preview(host, "A", "B")
report = etc.prepare(host, "A", "B", "keep")
owners.settle(host, "A")
print(json.dumps([seen == report, report.merged, report.conflicts, etc.differences(host, "A")]))
"""


@pytest.mark.parametrize("python", interpreters())
def test_a_host_merges_by_itself(python: str, rig: Rig, tmp_path: Path) -> None:
    rig.write(rig.root, "etc/crictl.yaml", "a: 1\n")
    rig.live("crictl.yaml", "# mine\na: 1\nb: 2\n")
    rig.image("crictl.yaml", "a: 2\n")
    rig.live("sysctl.conf", "a=1\nb=2\n")
    rig.image("sysctl.conf", "a=9\nb=1\n")
    rig.live("motd", "me\n")
    rig.image("motd", "new\n")
    (rig.persist / "etc/A/caf\udce9").write_text("x")
    app = build_agent(tmp_path / "agent.pyz")
    done = subprocess.run(
        [python, "-c", MERGE, str(rig.root)],
        env={"PYTHONPATH": str(app), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    same, merged, conflicts, changes = json.loads(done.stdout)
    assert (same, merged) == (True, 2)
    assert [conflict[0] for conflict in conflicts] == ["motd"]
    assert ["A", "caf\\xe9"] in changes
    assert rig.merged("crictl.yaml") == "# mine\na: 2\nb: 2\n"


@pytest.mark.parametrize("python", interpreters())
@pytest.mark.parametrize("form", ["ifcfg", "interfaces", "netplan", "keyfile", "networkd"])
def test_a_host_tells_its_network_to_another_distribution_by_itself(
    python: str, form: str, rig: Rig, tmp_path: Path
) -> None:
    running, file, text = SOURCES[form]
    target = (
        ("usr/sbin/NetworkManager", "NetworkManager")
        if form != "keyfile"
        else (
            "usr/lib/systemd/systemd-networkd",
            "systemd-networkd",
        )
    )
    rig.write(rig.new, "usr/lib/os-release", "ID=another\n")
    rig.write(rig.new, target[0], "")
    rig.write(rig.new, _WANTS + target[1] + ".service", "")
    for path in running:
        rig.write(rig.root, path, "")
        rig.write(rig.persist / "etc/A", path.removeprefix("etc/"), "")
    rig.live(file, text)
    app = build_agent(tmp_path / "agent.pyz")
    done = subprocess.run(
        [python, "-c", TELL, str(rig.root)],
        env={"PYTHONPATH": str(app), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name = "systemd/network/00-hostplane-eth0.network" if form == "keyfile" else KEYFILE
    assert "192.0.2.7/24" in rig.merged(name)


KEYFILE = "NetworkManager/system-connections/hostplane-eth0.nmconnection"
TELL = """
import sys
from hostplane.agent import etc
from hostplane.agent.hostroot import HostRoot
etc.prepare(HostRoot(sys.argv[1]), "A", "B", "stop")
"""
_WANTS = "etc/systemd/system/multi-user.target.wants/"
SOURCES = {
    "ifcfg": (
        ("etc/sysconfig/network-scripts/ifup-eth", _WANTS + "network.service"),
        "sysconfig/network-scripts/ifcfg-eth0",
        "DEVICE=eth0\nIPADDR=192.0.2.7\nNETMASK=255.255.255.0\n",
    ),
    "interfaces": (
        ("sbin/ifup", _WANTS + "networking.service"),
        "network/interfaces",
        "auto eth0\niface eth0 inet static\n  address 192.0.2.7\n  netmask 255.255.255.0\n",
    ),
    "netplan": (
        ("usr/sbin/netplan",),
        "netplan/a.yaml",
        "network: {version: 2, ethernets: {eth0: {addresses: [192.0.2.7/24]}}}\n",
    ),
    "keyfile": (
        ("usr/sbin/NetworkManager", _WANTS + "NetworkManager.service"),
        "NetworkManager/system-connections/a.nmconnection",
        "[connection]\ntype=ethernet\ninterface-name=eth0\n[ipv4]\nmethod=manual\naddress1=192.0.2.7/24\n",
    ),
    "networkd": (
        ("usr/lib/systemd/systemd-networkd", _WANTS + "systemd-networkd.service"),
        "systemd/network/a.network",
        "[Match]\nName=eth0\n[Network]\nAddress=192.0.2.7/24\n",
    ),
}
