"""What is told anew to another distribution's image, what is left to the merge, and what stops the switch."""

from __future__ import annotations

import configparser
import json
from pathlib import Path

import pytest

from hostplane.agent import etc
from hostplane.agent.etc.network import networkd
from hostplane.agent.etc.network.model import Link
from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError
from tests.unit.agent.etc.conftest import Rig, print_of

WANTS = "etc/systemd/system/multi-user.target.wants/"
MANAGER = ("usr/sbin/NetworkManager", WANTS + "NetworkManager.service")
NETWORKD = ("usr/lib/systemd/systemd-networkd", WANTS + "systemd-networkd.service")
IFUPDOWN = ("usr/sbin/ifup", WANTS + "networking.service")
PLUGIN = "usr/lib64/NetworkManager/1.46/libnm-settings-plugin-ifcfg-rh.so"
IFCFG = "DEVICE=eth0\nBOOTPROTO=none\nIPADDR=192.0.2.7\nPREFIX=24\nGATEWAY=192.0.2.1\nDNS1=192.0.2.53\n"
SCRIPT = "sysconfig/network-scripts/ifcfg-eth0"
INTERFACES = "auto eth0\niface eth0 inet static\n address 192.0.2.7/24\n gateway 192.0.2.1\n"


class Move:
    """A host of one distribution with the other's image in its passive slot."""

    def __init__(self, rig: Rig, before: tuple[str, ...], after: tuple[str, ...], ids: tuple[str, str]) -> None:
        self.rig = rig
        for name, ident, tools in ((rig.root, ids[0], before), (rig.new, ids[1], after)):
            rig.write(name, "usr/lib/os-release", f"ID={ident}\n")
            for path in tools:
                rig.write(name, path, "")
        for path in before:
            if path.startswith("etc/"):
                rig.write(rig.persist, "etc/A/" + path.removeprefix("etc/"), "")
        rig.write(rig.root, "sys/class/net/eth0/address", "52:54:00:AA:bb:01\n")
        (rig.root / "sys/class/net/eth0/device").mkdir(exist_ok=True)

    def go(self, policy: str = etc.KEEP) -> etc.EtcReport:
        seen = etc.preview(self.rig.host, "A", "B")
        made = etc.prepare(self.rig.host, "A", "B", policy)
        assert seen == made
        return made

    def refusal(self) -> str:
        """Why the switch is stopped; nothing was written."""
        before = print_of(self.rig.persist)
        with pytest.raises(HostError) as caught:
            etc.prepare(self.rig.host, "A", "B", etc.KEEP)
        assert caught.value.name == "NetworkNotCarried"
        assert print_of(self.rig.persist) == before
        return str(caught.value)


def to_debian(rig: Rig, after: tuple[str, ...] = NETWORKD) -> Move:
    return Move(rig, (*MANAGER, PLUGIN), after, ("openeuler", "debian"))


def told(report: etc.EtcReport) -> list[tuple[str, str]]:
    return [(path, action) for path, kind, action in report.conflicts if kind == "network"]


def test_ifcfg_becomes_networkds_found_by_the_hardwares_address(rig: Rig) -> None:
    move = to_debian(rig)
    rig.live(SCRIPT, IFCFG)
    assert told(move.go(etc.STOP)) == [(SCRIPT, "told to the new image as networkd")]
    place = rig.persist / "etc/B/systemd/network"
    files = {"systemd/network/" + path.name: path.read_bytes() for path in place.iterdir()}
    (link,) = networkd.read(files)
    assert link == Link(
        "eth0",
        mac="52:54:00:aa:bb:01",
        addresses=("192.0.2.7/24",),
        gateway4="192.0.2.1",
        dns=("192.0.2.53",),
        source="systemd/network/00-hostplane-eth0.network",
    )
    assert rig.merged(SCRIPT) == IFCFG, "the old form stays, for the day it is read again"


def test_interfaces_become_a_keyfile_with_resolv_confs_servers(rig: Rig) -> None:
    move = Move(rig, IFUPDOWN, MANAGER, ("debian", "openeuler"))
    rig.live("network/interfaces", INTERFACES)
    rig.live("resolv.conf", "search example.org\nnameserver 127.0.0.53\nnameserver 192.0.2.53\n")
    assert told(move.go()) == [("network/interfaces", "told to the new image as keyfile")]
    path = rig.persist / "etc/B/NetworkManager/system-connections/hostplane-eth0.nmconnection"
    assert path.stat().st_mode & 0o777 == 0o600
    read = configparser.ConfigParser()
    read.read(path)
    assert dict(read["ethernet"]) == {"mac-address": "52:54:00:AA:BB:01"}
    wished = {"method": "manual", "address1": "192.0.2.7/24", "gateway": "192.0.2.1", "dns": "192.0.2.53;"}
    assert dict(read["ipv4"]) == {**wished, "dns-search": "example.org;"}


def test_an_image_with_netplan_gets_netplan(rig: Rig) -> None:
    move = to_debian(rig, ("usr/sbin/netplan", *NETWORKD))
    rig.live(SCRIPT, IFCFG)
    assert told(move.go()) == [(SCRIPT, "told to the new image as netplan")]
    made = json.loads(rig.merged("netplan/90-hostplane.yaml"))["network"]["ethernets"]
    assert made == {
        "00-eth0": {
            "match": {"macaddress": "52:54:00:aa:bb:01"},
            "dhcp4": False,
            "dhcp6": False,
            "addresses": ["192.0.2.7/24"],
            "nameservers": {"addresses": ["192.0.2.53"]},
            "routes": [{"to": "0.0.0.0/0", "via": "192.0.2.1"}],
        }
    }


def test_within_one_distribution_nothing_is_told_anew_nor_looked_at(rig: Rig) -> None:
    move = Move(rig, (*MANAGER, PLUGIN), NETWORKD, ("debian", "debian"))
    rig.live(SCRIPT, "no settings at all\n")
    assert told(move.go(etc.STOP)) == []
    assert not (rig.persist / "etc/B/systemd/network").exists()


def test_what_the_new_image_reads_itself_is_left_to_the_merge(rig: Rig) -> None:
    move = to_debian(rig, (*MANAGER, "usr/lib/NetworkManager/1.46/libnm-settings-plugin-ifcfg-rh.so"))
    rig.live(SCRIPT, "no settings at all\n")
    assert told(move.go()) == []
    assert rig.merged(SCRIPT) == "no settings at all\n"


def test_what_the_image_brought_and_nobody_touched_is_the_new_images_business(rig: Rig) -> None:
    move = to_debian(rig)
    rig.write(rig.root, "etc/" + SCRIPT, "anything\n")
    rig.live(SCRIPT, "anything\n")
    assert told(move.go()) == []


def test_a_port_that_changed_brings_the_images_bond(rig: Rig) -> None:
    move = to_debian(rig)
    place = "sysconfig/network-scripts/"
    for name, text in {
        "ifcfg-bond0": "DEVICE=bond0\nTYPE=Bond\nBONDING_OPTS=mode=1\nBOOTPROTO=dhcp\n",
        "ifcfg-eth5": "DEVICE=eth5\nBOOTPROTO=dhcp\n",
    }.items():
        rig.write(rig.root, "etc/" + place + name, text)
        rig.live(place + name, text)
    rig.live(SCRIPT, "DEVICE=eth0\nMASTER=bond0\nSLAVE=yes\n")
    assert told(move.go()) == [(SCRIPT, "told to the new image as networkd")]
    names = {path.name for path in (rig.persist / "etc/B/systemd/network").iterdir()}
    assert names == {f"00-hostplane-{name}" for name in ("bond0.netdev", "bond0.network", "eth0.network")}
    assert "PermanentMACAddress=" in rig.merged("systemd/network/00-hostplane-eth0.network")


def test_what_is_not_understood_stops_the_switch_before_anything_is_written(rig: Rig) -> None:
    move = to_debian(rig)
    rig.live(SCRIPT, IFCFG + "ETHTOOL_OPTS='speed 100'\n")
    report = etc.preview(rig.host, "A", "B")
    assert report.conflicts[0][:2] == (SCRIPT, "network")
    assert "stops the upgrade" in report.conflicts[0][2]
    assert "ETHTOOL_OPTS=speed 100" in report.conflicts[0][2]
    assert "ETHTOOL_OPTS=speed 100" in move.refusal()


def test_the_hosts_administrator_may_say_otherwise(rig: Rig) -> None:
    move = to_debian(rig)
    rig.live(SCRIPT, "no settings at all\n")
    rig.write(rig.root, "etc/hostplane/agent.json", '{"networkPolicy": "keep"}')
    assert told(move.go(etc.STOP))[0][0] == SCRIPT
    assert rig.merged(SCRIPT) == "no settings at all\n"
    rig.write(rig.root, "etc/hostplane/agent.json", '{"networkPolicy": "guess"}')
    with pytest.raises(HostError, match="keep or stop"):
        HostRoot(str(rig.root))


def test_an_image_without_a_program_to_tell_it_to_is_refused(rig: Rig) -> None:
    move = to_debian(rig, IFUPDOWN)
    rig.live(SCRIPT, IFCFG)
    assert "no program" in move.refusal()
    rig.write(rig.new, NETWORKD[0], "")  # there, and not in use
    assert "no program" in move.refusal()
    rig.write(rig.new, NETWORKD[1], "")
    assert told(move.go()) == [(SCRIPT, "told to the new image as networkd")]


def test_a_link_in_place_of_a_file_and_one_that_masks(rig: Rig) -> None:
    move = Move(rig, NETWORKD, MANAGER, ("debian", "openeuler"))
    place = rig.persist / "etc/A/systemd/network"
    place.mkdir(parents=True)
    (place / "80-image.network").symlink_to("/dev/null")
    assert told(move.go()) == []
    (place / "10-mine.network").symlink_to("/srv/mine.network")
    assert "10-mine.network" in move.refusal()


def test_twice_is_as_once(rig: Rig) -> None:
    move = to_debian(rig)
    rig.live(SCRIPT, IFCFG)
    move.go()
    before = {path: path.read_bytes() for path in Path(rig.persist / "etc/B").rglob("*") if path.is_file()}
    move.go()
    assert {path: path.read_bytes() for path in before} == before
