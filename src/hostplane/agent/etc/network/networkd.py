"""systemd-networkd's .network and .netdev files: read, and written for an image where it is in use.

What is written comes before the image's own files (00-) and is found by the hardware's address where that is known.
"""

from typing import Dict, List, Mapping, Tuple

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
    mac,
    number,
    sections,
    subnet,
    truth,
)

__all__ = ["MODE", "PLACE", "read", "write"]

PLACE = "systemd/network/"
MODE = 0o644
_SILENT = frozenset(
    "Network.Description Network.LinkLocalAddressing Network.ConfigureWithoutCarrier Network.LLMNR "
    "Network.MulticastDNS Network.DNSSEC Network.DNSDefaultRoute Network.LLDP Network.EmitLLDP "
    "Network.IgnoreCarrierLoss Network.KeepConfiguration Network.BindCarrier Network.DNSOverTLS "
    "Link.RequiredForOnline DHCPv4.ClientIdentifier DHCPv4.UseMTU DHCPv4.UseHostname DHCPv4.UseDomains "
    "DHCPv4.UseNTP DHCPv4.SendHostname DHCPv6.UseNTP DHCPv4.UseTimezone NetDev.Description Match.Type "
    "Match.Kind".split()
)
_SECTIONS = {"DHCP": "DHCPv4", "IPv6AcceptRA": "RA"}
_BOND = {
    "Mode": "mode",
    "TransmitHashPolicy": "xmit_hash_policy",
    "LACPTransmitRate": "lacp_rate",
    "MIIMonitorSec": "miimon",
    "UpDelaySec": "updelay",
    "DownDelaySec": "downdelay",
}


def read(files: Mapping[str, bytes]) -> List[Link]:
    """The links in `files`. Raises NotUnderstood."""
    links: Dict[str, Link] = {}
    tags: List[Tuple[str, str, str]] = []
    for path in sorted(files):
        if path.endswith(".netdev"):
            link = _device(path, files[path])
            links[link.name] = link
    for path in sorted(files):
        if path.endswith(".network"):
            link = _network(path, files[path], links, tags)
            if link.name in links and links[link.name].source.endswith(".network"):
                raise NotUnderstood(path, "%s is told twice" % link.name)
            links[link.name] = link
    for path, parent, name in tags:
        if name not in links:
            raise NotUnderstood(path, "the VLAN %s is not told" % name)
        links[name] = links[name]._replace(parent=parent)
    return list(links.values())


def _device(path: str, content: bytes) -> Link:
    link = Link("", source=path)
    for section, pairs in sections(path, content):
        for key, value in pairs:
            word = section + "." + key
            if word == "NetDev.Name":
                link = link._replace(name=value)
            elif word == "NetDev.Kind" and value in (VLAN, BOND, BRIDGE):
                link = link._replace(kind=value)
            elif word == "NetDev.MTUBytes":
                link = link._replace(mtu=number(path, word, value, 65536))
            elif word == "VLAN.Id":
                link = link._replace(vlan=number(path, word, value, 4094))
            elif section == "Bond" and key in _BOND:
                value = _milliseconds(path, word, value) if key.endswith("Sec") else value
                link = link._replace(bond=link.bond + (bond_option(path, _BOND[key], value),))
            elif word == "Bridge.STP":
                link = link._replace(stp=truth(path, word, value))
            elif word == "Bridge.ForwardDelaySec":
                link = link._replace(forward_delay=int(_milliseconds(path, word, value)) // 1000)
            elif word not in _SILENT and value:
                raise NotUnderstood(path, "%s=%s" % (word, value[:80]))
    return link


def _milliseconds(path: str, word: str, value: str) -> str:
    for unit, factor in (("ms", 1), ("s", 1000), ("", 1000)):
        if value.endswith(unit) and value[: len(value) - len(unit)].isdecimal():
            return str(int(value[: len(value) - len(unit)]) * factor)
    raise NotUnderstood(path, "%s=%s" % (word, value))


def _network(path: str, content: bytes, links: Mapping[str, Link], tags: List[Tuple[str, str, str]]) -> Link:
    parts = [(_SECTIONS.get(section, section), pairs) for section, pairs in sections(path, content)]
    match = [pair for section, pairs in parts if section == "Match" for pair in pairs]
    name, found = "", ""
    for key, value in match:
        if key == "Name" and value and not any(mark in value for mark in "*?[! "):
            name = value
        elif key in ("MACAddress", "PermanentMACAddress"):
            found = mac(path, value)
        elif "Match." + key not in _SILENT:
            raise NotUnderstood(path, "it is for %s=%s" % (key, value[:80]))
    label = path.rpartition("/")[2].partition(".network")[0]
    label = label[len("00-hostplane-") :] if label.startswith("00-hostplane-") else label
    name = name or (label if found else "")
    if not name:
        raise NotUnderstood(path, "it is for any interface")
    link = links.get(name, Link(name))._replace(mac=found, source=path)
    for section, pairs in parts:
        if section in ("Route", "Address"):
            link = _entry(path, link, section, dict(pairs))
            continue
        for key, value in pairs:
            word = section + "." + key
            if section != "Match" and word not in _SILENT and value:
                link = _apply(path, link, word, value, tags)
    return link


def _entry(path: str, link: Link, section: str, values: Dict[str, str]) -> Link:
    if section == "Address":
        if set(values) != {"Address"}:
            raise NotUnderstood(path, "[Address] %s" % ", ".join(sorted(values)))
        return link._replace(addresses=link.addresses + (address(path, values["Address"]),))
    if not set(values) <= {"Destination", "Gateway", "Metric"} or not values:
        raise NotUnderstood(path, "[Route] %s" % ", ".join(sorted(values)))
    via = host(path, values["Gateway"]) if "Gateway" in values else ""
    if "Destination" not in values and "Metric" not in values:
        return link._replace(gateway6=via) if ":" in via else link._replace(gateway4=via)
    goal = subnet(path, values.get("Destination", "default"), 6 if ":" in via else 4)
    metric = number(path, "Metric", values.get("Metric", "0"), 1 << 31)
    if goal in ("0.0.0.0/0", "::/0"):
        link = link._replace(metric=metric)
        return link._replace(gateway6=via) if ":" in via else link._replace(gateway4=via)
    return link._replace(routes=link.routes + (Route(goal, via, metric),))


def _apply(path: str, link: Link, word: str, value: str, tags: List[Tuple[str, str, str]]) -> Link:
    if word == "Network.DHCP" and value.lower() in ("ipv4", "ipv6", "yes", "no", "true", "false", "both", "none"):
        both = value.lower() in ("yes", "true", "both")
        return link._replace(dhcp4=both or value == "ipv4", dhcp6=both or value == "ipv6")
    if word == "Network.Address":
        return link._replace(addresses=link.addresses + (address(path, value),))
    if word == "Network.Gateway":
        made = host(path, value)
        return link._replace(gateway6=made) if ":" in made else link._replace(gateway4=made)
    if word == "Network.DNS":
        return link._replace(dns=link.dns + tuple(host(path, each) for each in value.split()))
    if word == "Network.Domains":
        return link._replace(search=link.search + tuple(value.split()))
    if word == "Network.IPv6AcceptRA":
        return link._replace(accept_ra=truth(path, word, value))
    if word in ("Network.Bond", "Network.Bridge"):
        return link._replace(port_of=value)
    if word == "Network.PrimarySlave":
        return link
    if word == "Network.VLAN":
        tags.append((path, link.name, value))
        return link
    if word == "Link.MTUBytes":
        return link._replace(mtu=number(path, word, value, 65536))
    if word == "DHCPv4.RouteMetric":
        return link._replace(metric=number(path, word, value, 1 << 31))
    if word in ("DHCPv4.UseDNS", "DHCPv6.UseDNS", "RA.UseDNS"):
        return link._replace(own_dns_only=link.own_dns_only or not truth(path, word, value))
    if word in ("DHCPv4.UseRoutes", "DHCPv4.UseGateway"):
        return link._replace(never_default=link.never_default or not truth(path, word, value))
    raise NotUnderstood(path, "%s=%s" % (word, value[:80]))


# --- writing


def write(links: List[Link]) -> Dict[str, bytes]:
    """A .network for each link, and a .netdev for each that is no hardware (path below /etc -> content)."""
    kinds = {link.name: link.kind for link in links}
    found: Dict[str, bytes] = {}
    for link in links:
        head = PLACE + "00-hostplane-" + link.name
        if link.kind != ETHERNET:
            found[head + ".netdev"] = _device_text(link).encode("utf-8")
        tagged = [each.name for each in links if each.kind == VLAN and each.parent == link.name]
        primary = dict(next((each.bond for each in links if each.name == link.port_of), ())).get("primary")
        found[head + ".network"] = _network_text(link, kinds, tagged, primary == link.name).encode("utf-8")
    return found


def _device_text(link: Link) -> str:
    lines = ["[NetDev]", "Name=" + link.name, "Kind=" + link.kind]
    lines += ["MTUBytes=%d" % link.mtu] if link.mtu else []
    if link.kind == VLAN:
        lines += ["", "[VLAN]", "Id=%d" % link.vlan]
    if link.kind == BOND:
        words = {option: key for key, option in _BOND.items()}
        lines += ["", "[Bond]"]
        for option, value in link.bond:
            if option != "primary":  # said by the port
                key = words[option]
                lines.append("%s=%s" % (key, value + "ms" if key.endswith("Sec") else value))
    if link.kind == BRIDGE:
        lines += ["", "[Bridge]"]
        lines += [] if link.stp is None else ["STP=" + _yes(link.stp)]
        lines += ["ForwardDelaySec=%d" % link.forward_delay] if link.forward_delay else []
    return "\n".join(lines) + "\n"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _network_text(link: Link, kinds: Mapping[str, str], tagged: List[str], is_primary: bool) -> str:
    # A bond gives its address to its ports, so theirs is told by the one that the hardware has.
    key = "PermanentMACAddress" if kinds.get(link.port_of) == BOND else "MACAddress"
    is_hardware = link.kind == ETHERNET and bool(link.mac)
    lines = ["[Match]", "%s=%s" % (key, link.mac) if is_hardware else "Name=" + link.name]
    lines += ["Type=ether"] if is_hardware else []  # not the VLANs on top of it, which have the same address
    if link.mtu and link.kind == ETHERNET:
        lines += ["", "[Link]", "MTUBytes=%d" % link.mtu]
    lines += ["", "[Network]"] + ["VLAN=" + each for each in tagged]
    if link.port_of:
        lines.append("%s=%s" % ("Bond" if kinds[link.port_of] == BOND else "Bridge", link.port_of))
        lines += ["PrimarySlave=yes"] if is_primary else []
        return "\n".join(lines) + "\n"
    dhcp = {(True, True): "yes", (True, False): "ipv4", (False, True): "ipv6"}.get((link.dhcp4, link.dhcp6), "no")
    lines.append("DHCP=" + dhcp)
    lines += [] if link.accept_ra is None else ["IPv6AcceptRA=" + _yes(link.accept_ra)]
    lines += ["Address=" + each for each in link.addresses]
    lines += ["DNS=" + each for each in link.dns]
    lines += ["Domains=" + " ".join(link.search)] if link.search else []
    for gateway, goal in ((link.gateway4, "0.0.0.0/0"), (link.gateway6, "::/0")):
        if gateway:
            lines += ["", "[Route]", "Destination=" + goal, "Gateway=" + gateway]
            lines += ["Metric=%d" % link.metric] if link.metric else []
    for route in link.routes:
        lines += ["", "[Route]", "Destination=" + route.to]
        lines += ["Gateway=" + route.via] if route.via else []
        lines += ["Metric=%d" % route.metric] if route.metric else []
    if link.dhcp4:
        lines += ["", "[DHCPv4]", "ClientIdentifier=mac"]
        lines += ["UseDNS=no"] if link.own_dns_only else []
        lines += ["UseRoutes=no"] if link.never_default else []
        lines += ["RouteMetric=%d" % link.metric] if link.metric else []
    return "\n".join(lines) + "\n"
