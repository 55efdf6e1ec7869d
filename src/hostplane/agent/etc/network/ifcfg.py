"""Reads /etc/sysconfig/network-scripts: ifcfg-*, route-*, route6-* and GATEWAY of /etc/sysconfig/network."""

import ipaddress
import re
import shlex
from typing import Dict, List, Mapping, Optional, Tuple

from .iproute import read_route
from .model import (
    BOND,
    BRIDGE,
    ETHERNET,
    VLAN,
    Link,
    NotUnderstood,
    Route,
    address,
    bond_option,
    host,
    lines_of,
    mac,
    number,
    subnet,
    truth,
)

__all__ = ["read"]

_KINDS = {"": ETHERNET, "ethernet": ETHERNET, "vlan": VLAN, "bond": BOND, "bridge": BRIDGE}
_SILENT = frozenset(  # how a tool goes about it, not what the network is to be
    "NAME UUID NM_CONTROLLED USERCTL PROXY_METHOD BROWSER_ONLY IPV4_FAILURE_FATAL IPV6_FAILURE_FATAL HOTPLUG ARPCHECK "
    "NETWORK BROADCAST IPV6_ADDR_GEN_MODE IPV6_PRIVACY IPV6_DEFROUTE IPV6_PEERDNS IPV6_PEERROUTES PEERROUTES NM_UUID "
    "NOZEROCONF BONDING_MASTER DHCP_HOSTNAME PERSISTENT_DHCLIENT LINKDELAY AUTOCONNECT_PRIORITY IPV6_SET_SYSCTLS "
    "MASTER_UUID BRIDGE_UUID STARTMODE".split()
)
_NUMBERED = re.compile(r"(IPADDR|PREFIX|NETMASK|GATEWAY|DNS)(\d*)\Z")


def read(files: Mapping[str, bytes]) -> List[Link]:
    """The links in `files` (path below /etc -> content). Raises NotUnderstood."""
    links: Dict[str, Link] = {}
    aliases: List[Tuple[str, Link]] = []
    for path in sorted(files):
        name = path.rpartition("/")[2]
        if name.startswith(("rule-", "rule6-")) and files[path].strip():
            raise NotUnderstood(path, "rules of routing")
        if not name.startswith("ifcfg-") or name == "ifcfg-lo":
            continue
        values = _assignments(path, files[path])
        link = _link(path, name[len("ifcfg-") :], values)
        if link is None:
            continue
        if ":" in link.name:
            aliases.append((link.name.partition(":")[0], link))
        elif link.name in links:
            raise NotUnderstood(path, "%s is told twice" % link.name)
        else:
            links[link.name] = link
    for name, alias in aliases:
        if name not in links or alias != Link(alias.name, addresses=alias.addresses, source=alias.source):
            raise NotUnderstood(alias.source, "more than an address for %s" % name)
        links[name] = links[name]._replace(addresses=links[name].addresses + alias.addresses)
    for path in sorted(files):
        name = path.rpartition("/")[2]
        for head, version in (("route-", 4), ("route6-", 6)):
            if name.startswith(head):
                _add_routes(links, path, name[len(head) :], files[path], version)
    shared = files.get("sysconfig/network")
    return _with_gateway(list(links.values()), _assignments("sysconfig/network", shared) if shared else {})


def _assignments(path: str, content: bytes) -> Dict[str, str]:
    found: Dict[str, str] = {}
    for line in lines_of(path, content):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, _ = line.partition("=")
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = []
        if not equals or "$" in line or "`" in line or len(words) != 1:
            raise NotUnderstood(path, "the line %s" % line[:80])
        found[key.strip()] = words[0].partition("=")[2]
    return found


def _link(path: str, label: str, given: Mapping[str, str]) -> Optional[Link]:
    values = {key: value.strip() for key, value in given.items() if value.strip() and key not in _SILENT}
    if "ONBOOT" in values and not truth(path, "ONBOOT", values.pop("ONBOOT")):
        return None
    name = values.pop("DEVICE", "" if "HWADDR" in values else label) or label
    kind = _KINDS.get(values.pop("TYPE", "").lower())
    if kind is None:
        raise NotUnderstood(path, "TYPE=%s" % given["TYPE"])
    link = Link(name, kind, source=path)
    boot = values.pop("BOOTPROTO", "none").lower()
    if boot not in ("none", "static", "dhcp"):
        raise NotUnderstood(path, "BOOTPROTO=%s" % boot)
    link = link._replace(dhcp4=boot == "dhcp")
    link = _six(path, link, values)
    link = _numbered(path, link, values)
    for key in sorted(values):
        link = _apply(path, link, key, values[key])
    if link.kind == VLAN and (not link.parent or not link.vlan):
        parent, dot, tail = link.name.rpartition(".")
        tail = tail if dot else link.name[len("vlan") :] if link.name.startswith("vlan") else ""
        if not tail.isdecimal():
            raise NotUnderstood(path, "which VLAN it is")
        link = link._replace(parent=link.parent or parent, vlan=link.vlan or int(tail))
    return link


def _six(path: str, link: Link, values: Dict[str, str]) -> Link:
    is_on = truth(path, "IPV6INIT", values.pop("IPV6INIT", "yes"))
    own = values.pop("IPV6ADDR", "").split() + values.pop("IPV6ADDR_SECONDARIES", "").split()
    gateway, auto = values.pop("IPV6_DEFAULTGW", ""), values.pop("IPV6_AUTOCONF", "")
    dhcp = truth(path, "DHCPV6C", values.pop("DHCPV6C", "no"))
    if not is_on:
        return link._replace(accept_ra=False)
    return link._replace(
        addresses=tuple(address(path, each, "64") for each in own),
        gateway6=host(path, gateway.partition("%")[0]) if gateway else "",
        dhcp6=dhcp,
        accept_ra=truth(path, "IPV6_AUTOCONF", auto) if auto else None,
    )


def _numbered(path: str, link: Link, values: Dict[str, str]) -> Link:
    table: Dict[str, Dict[int, str]] = {}
    for key in list(values):
        found = _NUMBERED.match(key)
        if found:
            table.setdefault(found.group(1), {})[int(found.group(2) or 0)] = values.pop(key)
    own = table.get("IPADDR", {})
    lengths = dict(table.get("NETMASK", {}))
    lengths.update(table.get("PREFIX", {}))
    four = tuple(address(path, own[index], lengths.get(index, "")) for index in sorted(own))
    gateways = [host(path, text) for _, text in sorted(table.get("GATEWAY", {}).items())]
    if len(set(gateways)) > 1:
        raise NotUnderstood(path, "several gateways")
    names = tuple(host(path, text) for _, text in sorted(table.get("DNS", {}).items()))
    gateway = gateways[0] if gateways else ""
    return link._replace(addresses=four + link.addresses, gateway4=gateway, dns=names)


def _apply(path: str, link: Link, key: str, value: str) -> Link:
    if key == "HWADDR":
        return link._replace(mac=mac(path, value))
    if key == "MTU":
        return link._replace(mtu=number(path, key, value, 65536))
    if key == "DOMAIN":
        return link._replace(search=tuple(value.split()))
    if key == "PEERDNS":
        return link._replace(own_dns_only=not truth(path, key, value))
    if key == "DEFROUTE":
        return link._replace(never_default=not truth(path, key, value))
    if key in ("METRIC", "IPV4_ROUTE_METRIC"):
        return link._replace(metric=number(path, key, value, 1 << 31))
    if key == "VLAN":
        return link._replace(kind=VLAN) if truth(path, key, value) else link
    if key == "PHYSDEV":
        return link._replace(parent=value)
    if key == "VLAN_ID":
        return link._replace(vlan=number(path, key, value, 4094))
    if key in ("MASTER", "BRIDGE"):
        return link._replace(port_of=value)
    if key == "SLAVE":
        return link
    if key == "BONDING_OPTS":
        pairs = [word.partition("=") for word in value.split()]
        return link._replace(kind=BOND, bond=tuple(bond_option(path, name, word) for name, _, word in pairs))
    if key == "STP":
        return link._replace(stp=truth(path, key, value))
    if key == "DELAY":
        return link._replace(forward_delay=number(path, key, value, 30))
    if key == "ZONE" and value == "public":
        return link
    raise NotUnderstood(path, "%s=%s" % (key, value[:80]))


def _add_routes(links: Dict[str, Link], path: str, name: str, content: bytes, version: int) -> None:
    found: List[Route] = []
    lines = [line.strip() for line in lines_of(path, content)]
    lines = [line for line in lines if line and not line.startswith("#")]
    if any(line.startswith("ADDRESS") for line in lines):
        values = _assignments(path, content)
        for index in sorted(key[len("ADDRESS") :] for key in values if key.startswith("ADDRESS")):
            goal = values.pop("ADDRESS" + index) + "/" + values.pop("NETMASK" + index, "255.255.255.255")
            via, metric = values.pop("GATEWAY" + index, ""), values.pop("METRIC" + index, "0")
            via = host(path, via) if via else ""
            found.append(Route(subnet(path, goal), via, number(path, "METRIC", metric, 1 << 31)))
        if values:
            raise NotUnderstood(path, ", ".join(sorted(values)))
    else:
        found = [read_route(path, line.split(), name, version) for line in lines]
    if found and name not in links:
        raise NotUnderstood(path, "%s is not told" % name)
    if found:
        links[name] = links[name]._replace(routes=links[name].routes + tuple(found))


def _with_gateway(links: List[Link], shared: Mapping[str, str]) -> List[Link]:
    gateway = shared.get("GATEWAY", "").strip()
    if not gateway or any(link.gateway4 for link in links):
        return links
    where, path = host("sysconfig/network", gateway), "sysconfig/network"
    for number_, link in enumerate(links):
        for own in link.addresses:
            if ipaddress.ip_address(where) in ipaddress.ip_interface(own).network:
                links[number_] = link._replace(gateway4=where)
                return links
    raise NotUnderstood(path, "GATEWAY=%s is on none of the interfaces" % gateway)
