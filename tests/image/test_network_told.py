"""Network settings as Hostplane tells them to another distribution, taken up by the program they are for.

systemd-networkd itself, in a network and mount namespace of its own, configures interfaces of the hardware's addresses
from what was written. What needs kernel modules that a building machine may lack (bonds, VLANs) is not tried here.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent.etc.network import ifcfg, networkd
from hostplane.agent.etc.network.model import check

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make interfaces")

NETWORKD = Path("/lib/systemd/systemd-networkd")
PLACE = "sysconfig/network-scripts/"
FILES = {
    "ifcfg-eth0": "DEVICE=eth0\nHWADDR=52:54:00:AA:BB:01\nIPADDR=192.0.2.7\nPREFIX=24\nGATEWAY=192.0.2.1\nMTU=1400\n",
    "route-eth0": "10.0.0.0/8 via 192.0.2.254 dev eth0 metric 50\n",
    "ifcfg-eth1": "DEVICE=eth1\nHWADDR=52:54:00:AA:BB:02\nBRIDGE=br0\n",
    "ifcfg-br0": "DEVICE=br0\nTYPE=Bridge\nSTP=no\nIPADDR=198.51.100.7\nPREFIX=24\nIPV6ADDR=2001:db8::7/64\n",
}
SCRIPT = """
mount --make-rprivate /
mount -t sysfs -o ro none /sys
mount --bind {files} /etc/systemd/network
mount -t tmpfs -o mode=755 none /run
mkdir -m 755 -p /run/dbus
for n in 1 2; do
    ip link add other$n type veth peer name port$n
    ip link set port$n address 52:54:00:aa:bb:0$n
    ip link set other$n up
done
{networkd} >{log} 2>&1 &
for turn in $(seq 600); do
    sleep 0.1
    ip -6 address show dev br0 2>/dev/null | grep -q 2001:db8::7 || continue
    ip route show | grep -q ^10.0.0.0/8 && break
done
kill $!
ip -json address show; ip -json route show; ip -json link show master br0
"""


def test_networkd_takes_up_what_was_written_of_ifcfg_files(tmp_path: Path) -> None:
    links = check(ifcfg.read({PLACE + name: text.encode() for name, text in FILES.items()}))
    files = tmp_path / "files"
    files.mkdir()
    for path, content in networkd.write(links).items():
        (files / Path(path).name).write_bytes(content)
    log = tmp_path / "log"
    script = SCRIPT.format(files=files, networkd=NETWORKD, log=log)
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-ec", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr + log.read_text()
    addresses, routes, ports = (json.loads(line) for line in done.stdout.splitlines())
    own = {name: _own(name, addresses) for name in ("port1", "port2", "br0")}
    assert own == {"port1": {"192.0.2.7"}, "port2": set(), "br0": {"198.51.100.7", "2001:db8::7"}}
    assert [link["mtu"] for link in addresses if link["ifname"] == "port1"] == [1400]
    ways = {(route["dst"], route.get("gateway"), route.get("metric")) for route in routes if "gateway" in route}
    assert ways == {("default", "192.0.2.1", None), ("10.0.0.0/8", "192.0.2.254", 50)}
    assert [port["ifname"] for port in ports] == ["port2"]


def _own(name: str, addresses: list[dict[str, Any]]) -> set[str]:
    (link,) = [each for each in addresses if each["ifname"] == name]
    return {each["local"] for each in link["addr_info"] if each["scope"] == "global"}
