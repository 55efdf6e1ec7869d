"""Each form of network settings, read into the model; what is written in one is read back as the same."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostplane.agent.etc.network import ifcfg, interfaces, keyfile, netplan, networkd
from hostplane.agent.etc.network.model import BOND, BRIDGE, ETHERNET, VLAN, Link, NotUnderstood, Route, check

SCRIPTS = "sysconfig/network-scripts/"
SYSTEM = "NetworkManager/system-connections/"


def files(**texts: str) -> dict[str, bytes]:
    return {name.replace("__", "/"): textwrap.dedent(text).encode() for name, text in texts.items()}


def at(place: str, texts: dict[str, str]) -> dict[str, bytes]:
    return {place + name: textwrap.dedent(text).encode() for name, text in texts.items()}


def plain(links: list[Link]) -> list[Link]:
    return [link._replace(source="") for link in check(links)]


STATIC = Link(
    "eth0",
    addresses=("192.0.2.7/24", "192.0.2.8/24"),
    gateway4="192.0.2.1",
    dns=("192.0.2.53", "198.51.100.53"),
    search=("example.org", "example.net"),
    routes=(Route("10.0.0.0/8", "192.0.2.254", 50), Route("203.0.113.0/24", "192.0.2.253")),
    mtu=9000,
)


def test_ifcfg_static() -> None:
    found = ifcfg.read(
        at(
            SCRIPTS,
            {
                "ifcfg-lo": "DEVICE=lo\n",
                "ifcfg-eth0": """
                    # the administrator's
                    TYPE="Ethernet"
                    BOOTPROTO=none
                    DEVICE=eth0
                    ONBOOT=yes
                    NAME="System eth0"
                    UUID=5fb06bd0-0bb0-7ffb-45f1-d6edd65f3e03
                    IPADDR=192.0.2.7
                    NETMASK=255.255.255.0
                    IPADDR1=192.0.2.8
                    PREFIX1=24
                    GATEWAY=192.0.2.1
                    DNS1=192.0.2.53
                    DNS2=198.51.100.53
                    DOMAIN="example.org example.net"
                    MTU=9000
                """,
                "ifcfg-eth9": "DEVICE=eth9\nONBOOT=no\nWHATEVER=1\n",
                "route-eth0": "10.0.0.0/8 via 192.0.2.254 dev eth0 metric 50\n203.0.113.0/24 via 192.0.2.253\n",
            },
        )
    )
    assert plain(found) == [STATIC]


def test_ifcfg_bond_vlan_bridge_alias_and_the_gateway_of_all() -> None:
    found = ifcfg.read(
        {
            "sysconfig/network": b"NETWORKING=yes\nGATEWAY=192.0.2.1\n",
            **at(
                SCRIPTS,
                {
                    "ifcfg-bond0": 'DEVICE=bond0\nTYPE=Bond\nBONDING_OPTS="mode=4 miimon=100 lacp_rate=1"\n',
                    "ifcfg-eth0": "DEVICE=eth0\nMASTER=bond0\nSLAVE=yes\nHWADDR=52:54:00:AA:BB:01\n",
                    "ifcfg-eth1": "DEVICE=eth1\nMASTER=bond0\nSLAVE=yes\nBOOTPROTO=none",
                    "ifcfg-bond0.20": "DEVICE=bond0.20\nVLAN=yes\nBRIDGE=br0\n",
                    "ifcfg-br0": "DEVICE=br0\nTYPE=Bridge\nSTP=no\nDELAY=0\nIPADDR=192.0.2.7\nPREFIX=24\n",
                    "ifcfg-br0:1": "DEVICE=br0:1\nIPADDR=192.0.2.8\nPREFIX=32\n",
                    "ifcfg-vlan30": "DEVICE=vlan30\nVLAN=yes\nPHYSDEV=bond0\nVLAN_ID=30\nBOOTPROTO=dhcp\nDEFROUTE=no",
                    "route-br0": "ADDRESS0=10.0.0.0\nNETMASK0=255.0.0.0\nGATEWAY0=192.0.2.254\n",
                },
            ),
        }
    )
    bond = (("mode", "802.3ad"), ("miimon", "100"), ("lacp_rate", "fast"))
    assert sorted(plain(found)) == sorted(
        [
            Link("bond0", BOND, bond=bond),
            Link("bond0.20", VLAN, parent="bond0", vlan=20, port_of="br0"),
            Link(
                "br0",
                BRIDGE,
                addresses=("192.0.2.7/24", "192.0.2.8/32"),
                stp=False,
                gateway4="192.0.2.1",
                routes=(Route("10.0.0.0/8", "192.0.2.254"),),
            ),
            Link("eth0", mac="52:54:00:aa:bb:01", port_of="bond0"),
            Link("eth1", port_of="bond0"),
            Link("vlan30", VLAN, parent="bond0", vlan=30, dhcp4=True, never_default=True),
        ]
    )


def test_interfaces() -> None:
    found = interfaces.read(
        files(
            network__interfaces="""
                source /etc/network/interfaces.d/*
                auto lo
                iface lo inet loopback
                # the uplink
                allow-hotplug eth0
                iface eth0 inet static
                    address 192.0.2.7/24
                    gateway 192.0.2.1
                    dns-nameservers 192.0.2.53 198.51.100.53
                    dns-search example.org example.net
                    mtu 9000
                    up ip route add 10.0.0.0/8 via 192.0.2.254 dev eth0 metric 50
                    post-up route add -net 203.0.113.0 netmask 255.255.255.0 gw 192.0.2.253 || true
                    pre-down ip route del 10.0.0.0/8 via 192.0.2.254
                iface eth0 inet static
                    address 192.0.2.8
                    netmask 255.255.255.0
            """,
            **{
                "network/interfaces.d/more": """
                    auto bond0 bond0.20 br0
                    iface bond0 inet manual
                        bond-slaves eth1 eth2
                        bond-mode active-backup
                        bond-primary eth1
                        bond-miimon 100
                    iface bond0.20 inet6 static
                        address 2001:db8::7
                        netmask 64
                        gateway 2001:db8::1
                    iface br0 inet dhcp
                        bridge_ports eth3
                        bridge_stp off
                        bridge_fd 0
                    iface wlan0 inet dhcp
                        wpa-ssid never started
                """
            },
        )
    )
    assert sorted(plain(found)) == sorted(
        [
            STATIC,
            Link("bond0", BOND, bond=(("mode", "active-backup"), ("primary", "eth1"), ("miimon", "100"))),
            Link("eth1", port_of="bond0"),
            Link("eth2", port_of="bond0"),
            Link("bond0.20", VLAN, parent="bond0", vlan=20, addresses=("2001:db8::7/64",), gateway6="2001:db8::1"),
            Link("br0", BRIDGE, dhcp4=True, stp=False),
            Link("eth3", port_of="br0"),
        ]
    )


def test_netplan() -> None:
    found = netplan.read(
        files(
            **{
                "netplan/01-a.yaml": """
                    network:
                      version: 2
                      renderer: networkd
                      ethernets:
                        uplink:
                          match: {macaddress: "52:54:00:AA:BB:01"}
                          set-name: eth0
                          addresses: [192.0.2.7/24]
                          routes: [{to: default, via: 192.0.2.1}, {to: 10.0.0.0/8, via: 192.0.2.254, metric: 50}]
                          nameservers: {addresses: [192.0.2.53], search: [example.org]}
                        eth1: {}
                """,
                "netplan/02-b.yaml": """
                    network:
                      bonds:
                        bond0: {interfaces: [eth1, eth2], parameters: {mode: 802.3ad, mii-monitor-interval: 100}}
                      vlans:
                        tagged: {id: 20, link: bond0, dhcp4: true, dhcp4-overrides: {use-dns: false}}
                """,
            }
        )
    )
    uplink = Link(
        "eth0",
        mac="52:54:00:aa:bb:01",
        addresses=("192.0.2.7/24",),
        gateway4="192.0.2.1",
        routes=(Route("10.0.0.0/8", "192.0.2.254", 50),),
        dns=("192.0.2.53",),
        search=("example.org",),
    )
    assert sorted(plain(found)) == sorted(
        [
            uplink,
            Link("bond0", BOND, bond=(("mode", "802.3ad"), ("miimon", "100"))),
            Link("eth1", port_of="bond0"),
            Link("eth2", port_of="bond0"),
            Link("tagged", VLAN, parent="bond0", vlan=20, dhcp4=True, own_dns_only=True),
        ]
    )


def test_keyfile() -> None:
    found = keyfile.read(
        at(
            SYSTEM,
            {
                "a.nmconnection": """
                    [connection]
                    id=team uplink
                    uuid=0a1b
                    type=bond
                    interface-name=bond0
                    [bond]
                    mode=active-backup
                    [ipv4]
                    address1=192.0.2.7/24,192.0.2.1
                    dns=192.0.2.53;
                    method=manual
                    route1=10.0.0.0/8,192.0.2.254,50
                    [ipv6]
                    addr-gen-mode=stable-privacy
                    method=disabled
                    [proxy]
                """,
                "b.nmconnection": """
                    [connection]
                    id=b
                    type=802-3-ethernet
                    master=0a1b
                    slave-type=bond
                    [802-3-ethernet]
                    mac-address=52:54:00:AA:BB:01
                """,
                "c.nmconnection": "[connection]\nid=off\ntype=wifi\nautoconnect=false\n",
            },
        )
    )
    assert plain(found) == [
        Link(
            "bond0",
            BOND,
            bond=(("mode", "active-backup"),),
            addresses=("192.0.2.7/24",),
            gateway4="192.0.2.1",
            dns=("192.0.2.53",),
            routes=(Route("10.0.0.0/8", "192.0.2.254", 50),),
            accept_ra=False,
        ),
        Link("b", mac="52:54:00:aa:bb:01", port_of="bond0"),
    ]


def test_networkd() -> None:
    found = networkd.read(
        at(
            "systemd/network/",
            {
                "10-br.netdev": "[NetDev]\nName=br0\nKind=bridge\n[Bridge]\nSTP=yes\nForwardDelaySec=4s\n",
                "10-br.network": "[Match]\nName=br0\n[Network]\nAddress=192.0.2.7/24\nGateway=192.0.2.1\nVLAN=br0.20\n",
                "20.netdev": "[NetDev]\nName=br0.20\nKind=vlan\n[VLAN]\nId=20\n",
                "20.network": "[Match]\nName=br0.20\n[Network]\nDHCP=ipv4\n[DHCP]\nUseDNS=no\n",
                "eth0.network": "[Match]\nMACAddress=52:54:00:aa:bb:01\n[Link]\nMTUBytes=9000\n[Network]\nBridge=br0\n",
                "eth0.link": "whatever udev does with it\n",
            },
        )
    )
    assert plain(found) == [
        Link("br0", BRIDGE, stp=True, forward_delay=4, addresses=("192.0.2.7/24",), gateway4="192.0.2.1"),
        Link("br0.20", VLAN, parent="br0", vlan=20, dhcp4=True, own_dns_only=True),
        Link("eth0", mac="52:54:00:aa:bb:01", mtu=9000, port_of="br0"),
    ]


@pytest.mark.parametrize(
    ("read", "content", "words"),
    [
        (ifcfg.read, {SCRIPTS + "ifcfg-e": "DEVICE=e\nTYPE=InfiniBand\n"}, "TYPE=InfiniBand"),
        (ifcfg.read, {SCRIPTS + "ifcfg-e": "DEVICE=e\nIPADDR=$(hostname)\n"}, "the line"),
        (ifcfg.read, {SCRIPTS + "ifcfg-e": "DEVICE=e\nIPADDR=192.0.2.7\n"}, "no prefix"),
        (ifcfg.read, {SCRIPTS + "ifcfg-e": "DEVICE=e\nETHTOOL_OPTS='speed 100'\n"}, "ETHTOOL_OPTS"),
        (ifcfg.read, {SCRIPTS + "ifcfg-e": "DEVICE=e\nMACADDR=52:54:00:aa:bb:01\n"}, "MACADDR"),
        (ifcfg.read, {SCRIPTS + "rule-e": "from 10.0.0.1 table 7\n"}, "rules of routing"),
        (ifcfg.read, {SCRIPTS + "route-e": "10.0.0.0/8 via 192.0.2.1\n"}, "e is not told"),
        (ifcfg.read, {SCRIPTS + "ifcfg-e": "DEVICE=e\n", SCRIPTS + "route-e": "10.0.0.0/8 table 7\n"}, "the route"),
        (interfaces.read, {"network/interfaces": "auto e\niface e inet ppp\n"}, "inet ppp"),
        (interfaces.read, {"network/interfaces": "auto e\niface e inet dhcp\n up /usr/local/bin/x\n"}, "the command"),
        (interfaces.read, {"network/interfaces": "auto e\niface e inet dhcp\n wpa-ssid x\n"}, "wpa_ssid"),
        (interfaces.read, {"network/interfaces": "source /srv/other\n"}, "it includes"),
        (interfaces.read, {"network/interfaces": "mapping e\n script x\n"}, "the line"),
        (netplan.read, {"netplan/a.yaml": "network: {tunnels: {t: {mode: gre}}}"}, "tunnels"),
        (netplan.read, {"netplan/a.yaml": "network: {ethernets: {e: {match: {driver: x}}}}"}, "any interface"),
        (netplan.read, {"netplan/a.yaml": "network: {ethernets: {e: {macaddress: x}}}"}, "macaddress"),
        (netplan.read, {"netplan/a.yaml": "network: ["}, "parsing"),
        (
            netplan.read,
            {"netplan/a.yaml": 'network: {ethernets: {e: {nameservers: {search: ["a\\n[Match]"]}}}}'},
            "a word with blanks",
        ),
        (keyfile.read, {SYSTEM + "a": "[connection]\ntype=wifi\n"}, "type wifi"),
        (keyfile.read, {SYSTEM + "a": "[connection]\ntype=ethernet\n"}, "any interface"),
        (keyfile.read, {SYSTEM + "a": "[connection]\ntype=vlan\n[ipv4]\nmethod=shared\n"}, "method=shared"),
        (networkd.read, {"systemd/network/a.network": "[Match]\nName=en*\n[Network]\nDHCP=yes\n"}, "Name=en*"),
        (networkd.read, {"systemd/network/a.network": "[Match]\nName=e\n[Network]\nTunnel=t\n"}, "Network.Tunnel"),
        (networkd.read, {"systemd/network/a.netdev": "[NetDev]\nName=t\nKind=wireguard\n"}, "wireguard"),
        (networkd.read, {"systemd/network/a.network": b"[Match]\nName=\xff\n"}, "UTF-8"),
    ],
)
def test_what_has_no_place_in_the_model_is_named(
    read: Callable[[dict[str, bytes]], list[Link]], content: dict[str, str | bytes], words: str
) -> None:
    given_files = {path: text if isinstance(text, bytes) else text.encode() for path, text in content.items()}
    with pytest.raises(NotUnderstood) as caught:
        check(read(given_files))
    assert words in caught.value.detail or words in str(caught.value)
    assert caught.value.path in given_files


# --- what is written is read back

NAMES = ("eth0", "eth1", "eth2")
V4 = st.integers(1, 250).map(lambda n: f"192.0.2.{n}")
V6 = st.integers(1, 250).map(lambda n: f"2001:db8::{n:x}")
METRICS = st.sampled_from((0, 50, 1024))
ROUTES = st.one_of(
    st.builds(Route, st.integers(0, 255).map(lambda n: f"10.{n}.0.0/16"), st.one_of(st.just(""), V4), METRICS),
    st.builds(Route, st.integers(1, 255).map(lambda n: f"2001:db8:{n:x}::/48"), st.one_of(st.just(""), V6), METRICS),
)


@st.composite
def an_end(draw: st.DrawFn, link: Link) -> Link:
    """The link with addresses, or with DHCP."""
    dhcp4 = draw(st.booleans())
    own = [f"{each}/24" for each in draw(st.lists(V4, max_size=2, unique=True))]
    six = [f"{each}/64" for each in draw(st.lists(V6, max_size=2, unique=True))]
    accept_ra = draw(st.booleans())
    families = (dhcp4 or bool(own), accept_ra or bool(six))
    names = [each for each in draw(st.lists(V4, max_size=2, unique=True)) if families[0]]
    names += [each for each in draw(st.lists(V6, max_size=1)) if families[1]]
    routes = [each for each in draw(st.lists(ROUTES, max_size=3, unique_by=lambda r: r.to)) if families[":" in each.to]]
    never = dhcp4 and draw(st.booleans())
    return link._replace(
        addresses=tuple(own + six),
        dhcp4=dhcp4,
        accept_ra=accept_ra,
        gateway4=draw(V4) if own and not never else "",
        gateway6=draw(V6) if six else "",
        dns=tuple(names),
        search=tuple(draw(st.lists(st.sampled_from(("a.example", "b.example")), unique=True))) if any(families) else (),
        routes=tuple(sorted(routes, key=lambda route: (":" in route.to, route.to))),
        metric=draw(METRICS) if dhcp4 else 0,
        own_dns_only=dhcp4 and draw(st.booleans()),
        never_default=never,
    )


@st.composite
def networks(draw: st.DrawFn) -> list[Link]:
    """Some hardware, perhaps below a bond or bridge, perhaps with a VLAN on top."""
    macs = [draw(st.sampled_from(("", f"52:54:00:aa:bb:0{n}"))) for n in range(len(NAMES))]
    mtus = st.sampled_from((0, 1500, 9000))
    links = [Link(name, ETHERNET, mac=mac, mtu=draw(mtus)) for name, mac in zip(NAMES, macs, strict=True)]
    shape = draw(st.sampled_from(("plain", BOND, BRIDGE)))
    if shape != "plain":
        links[1:] = [link._replace(port_of="top0") for link in links[1:]]
        bond = (("mode", "802.3ad"), ("lacp_rate", "fast"), ("miimon", "100"), ("xmit_hash_policy", "layer3+4"))
        top = Link("top0", shape, bond=bond) if shape == BOND else Link("top0", shape, stp=False, forward_delay=4)
        links.append(top)
    if draw(st.booleans()):
        links.append(Link("tag20", VLAN, parent=links[-1].name, vlan=20))
    return [link if link.port_of else draw(an_end(link)) for link in links]


def alike(links: list[Link]) -> dict[str, Link]:
    """By name, without what is no part of the wish: the order of a bond's options, the file."""
    return {link.name: link._replace(source="", bond=tuple(sorted(link.bond))) for link in check(links)}


@pytest.mark.parametrize("form", [keyfile, netplan, networkd])
@settings(max_examples=60, deadline=None)
@given(links=networks())
def test_what_is_written_is_read_back_as_the_same(form: object, links: list[Link]) -> None:
    written = form.write(links)  # type: ignore[attr-defined]  # three modules of one shape
    found = alike(form.read(written))  # type: ignore[attr-defined]  # as above
    wished = alike(links)
    for name, link in wished.items():
        assert found[name] == link
    assert found.keys() == wished.keys()


# --- whatever somebody has written


SAMPLES: dict[Callable[[dict[str, bytes]], list[Link]], dict[str, bytes]] = {
    ifcfg.read: {
        SCRIPTS + "ifcfg-e": b"DEVICE=e\nTYPE=Vlan\nVLAN_ID=2\nPHYSDEV=f\nIPADDR0=192.0.2.7\nPREFIX0=24\nMTU=9000\n",
        SCRIPTS + "route-e": b"ADDRESS0=10.0.0.0\nNETMASK0=255.0.0.0\nGATEWAY0=192.0.2.1\nMETRIC0=5\n",
        "sysconfig/network": b"GATEWAY=192.0.2.1\n",
    },
    interfaces.read: {
        "network/interfaces": b"auto e.2\niface e.2 inet static\n address 192.0.2.7/24\n"
        b" up ip route add 10.0.0.0/8 via 192.0.2.1\n"
    },
    keyfile.read: dict(keyfile.write([STATIC, Link("t", VLAN, parent="eth0", vlan=3)])),
    netplan.read: dict(netplan.write([STATIC, Link("t", VLAN, parent="eth0", vlan=3)])),
    networkd.read: dict(networkd.write([STATIC, Link("t", VLAN, parent="eth0", vlan=3)])),
}


@pytest.mark.parametrize("read", list(SAMPLES), ids=lambda read: read.__module__.rpartition(".")[2])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_spoiled_settings_are_refused_by_name_or_read(
    read: Callable[[dict[str, bytes]], list[Link]], data: st.DataObject
) -> None:
    spoiled = {}
    for path, content in SAMPLES[read].items():
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 12)))
        odd = st.sampled_from(("\u00b2".encode(), b"999999999999999999", b"=", b"\n", b"[", b"]", b"-", b"/", b"\x00"))
        piece = data.draw(st.one_of(odd, st.binary(max_size=6)))
        spoiled[path] = content[:start] + piece + content[end:]
    try:
        links = check(read(spoiled))
    except NotUnderstood:
        return
    for form in (keyfile, netplan, networkd):
        try:
            written = form.write(links)
        except NotUnderstood:
            continue
        assert all(isinstance(content, bytes) for content in written.values())
