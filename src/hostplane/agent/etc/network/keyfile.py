"""NetworkManager's keyfiles: read, and written for an image that has it.

What is written is found by the hardware's address where that is known, comes before any profile of the image's own
(autoconnect-priority), and says everything itself, so that no default of a version matters.
"""

import uuid
from typing import Dict, List, Mapping, Optional

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

PLACE = "NetworkManager/system-connections/"
_OURS = "hostplane-"
MODE = 0o600  # it takes no file that others may read
_SPACE = uuid.UUID("5f1d7f6c-5b57-4c1b-9a52-9a0b7a3e4d11")
_TYPES = {"ethernet": ETHERNET, "802-3-ethernet": ETHERNET, "vlan": VLAN, "bond": BOND, "bridge": BRIDGE}
_SILENT = frozenset(
    "connection.id connection.uuid connection.permissions connection.timestamp connection.autoconnect-priority "
    "connection.type connection.slave-type connection.port-type connection.autoconnect-slaves connection.lldp "
    "ipv4.may-fail ipv6.may-fail ipv6.addr-gen-mode ipv6.ip6-privacy ipv4.dhcp-timeout ipv6.dhcp-timeout vlan.flags "
    "connection.autoconnect-ports connection.wait-device-timeout vlan.interface-name bond.interface-name "
    "bridge.interface-name ethernet.wake-on-lan ethernet.auto-negotiate ipv4.dns-priority ipv6.dns-priority".split()
)


def read(files: Mapping[str, bytes]) -> List[Link]:
    """The links of profiles that come up by themselves. Raises NotUnderstood."""
    links: List[Link] = []
    owners: Dict[str, str] = {}
    for path in sorted(files):
        if path.endswith((".new", "~", ".bak")) or path.rpartition("/")[2].startswith("."):
            continue
        values = _values(path, files[path])
        link = _link(path, values)
        if link is not None:
            links.append(link)
            for key in ("connection.uuid", "connection.id"):
                owners.setdefault(values.get(key, link.name), link.name)
    found = []
    for link in links:
        parent, owner = owners.get(link.parent, link.parent), owners.get(link.port_of, link.port_of)
        found.append(link._replace(parent=parent, port_of=owner))
    return found


def _values(path: str, content: bytes) -> Dict[str, str]:
    values: Dict[str, str] = {}
    for section, pairs in sections(path, content):
        section = {"802-3-ethernet": "ethernet"}.get(section, section)
        for key, value in pairs:
            values[section + "." + key] = value
    return values


def _words(text: str) -> List[str]:
    return [word.strip() for word in text.replace(",", ";").split(";") if word.strip()]


def _link(path: str, values: Dict[str, str]) -> Optional[Link]:
    if not truth(path, "autoconnect", values.pop("connection.autoconnect", "true")):
        return None
    kind = _TYPES.get(values.get("connection.type", ""))
    if kind is None:
        raise NotUnderstood(path, "a connection of type %s" % values.get("connection.type", "unknown"))
    name = values.get("connection.interface-name") or values.get(kind + ".interface-name", "")
    label = name or path.rpartition("/")[2].partition(".")[0]
    label = label[len(_OURS) :] if not name and label.startswith(_OURS) else label
    link = Link(label, kind, source=path)
    for key in sorted(values):
        if key not in _SILENT and values[key]:
            link = _apply(path, link, key, values[key])
    if kind == ETHERNET and not name and not link.mac:
        raise NotUnderstood(path, "a profile for any interface")
    return link


def _apply(path: str, link: Link, key: str, value: str) -> Link:
    section, _, word = key.partition(".")
    if section in ("ipv4", "ipv6"):
        return _family(path, link, word, value, section == "ipv6")
    if key == "connection.interface-name":
        return link
    if key in ("connection.master", "connection.controller"):
        return link._replace(port_of=value)
    if key == "connection.zone" and value == "public":
        return link
    if word == "mac-address" and section == "ethernet":
        return link._replace(mac=mac(path, value))
    if word == "mtu" and section in ("ethernet", "vlan", "bond", "bridge"):
        return link._replace(mtu=number(path, key, value, 65536))
    if key == "vlan.id":
        return link._replace(vlan=number(path, key, value, 4094))
    if key == "vlan.parent":
        return link._replace(parent=value)
    if section == "bond":
        return link._replace(bond=link.bond + (bond_option(path, word, value),))
    if key == "bridge.stp":
        return link._replace(stp=truth(path, key, value))
    if key == "bridge.forward-delay":
        return link._replace(forward_delay=number(path, key, value, 30))
    raise NotUnderstood(path, "%s=%s" % (key, value[:80]))


def _family(path: str, link: Link, word: str, value: str, six: bool) -> Link:
    if word == "method":
        return _method(path, link, value, six)
    if word == "gateway":
        return _with_gateway(path, link, value, six)
    if word.startswith("address") and word[len("address") :].isdecimal():
        own, _, gateway = value.partition(",")
        link = link._replace(addresses=link.addresses + (address(path, own),))
        return _with_gateway(path, link, gateway, six) if gateway.strip() else link
    if word.startswith("route") and word[len("route") :].isdecimal():
        parts = [part.strip() for part in value.split(",")] + ["", ""]
        if any(parts[3:]):
            raise NotUnderstood(path, "%s=%s" % (word, value[:80]))
        goal, via, metric = parts[:3]
        via = "" if via in ("", "0.0.0.0", "::") else host(path, via)
        made = Route(subnet(path, goal), via, number(path, word, metric or "0", 1 << 31))
        return link._replace(routes=link.routes + (made,))
    if word == "dns":
        return link._replace(dns=link.dns + tuple(host(path, each) for each in _words(value)))
    if word == "dns-search":
        return link._replace(search=link.search + tuple(each for each in _words(value) if each not in link.search))
    if word == "route-metric":
        return link._replace(metric=max(link.metric, number(path, word, value, 1 << 31)) if value != "-1" else 0)
    if word == "never-default":
        return link._replace(never_default=link.never_default or (not six and truth(path, word, value)))
    if word == "ignore-auto-dns":
        return link._replace(own_dns_only=link.own_dns_only or truth(path, word, value))
    if word == "dhcp-client-id" and value == "mac":
        return link
    raise NotUnderstood(path, "%s.%s=%s" % ("ipv6" if six else "ipv4", word, value[:80]))


def _with_gateway(path: str, link: Link, value: str, six: bool) -> Link:
    made = host(path, value)
    return link._replace(gateway6=made) if six else link._replace(gateway4=made)


def _method(path: str, link: Link, value: str, six: bool) -> Link:
    if not six and value in ("auto", "manual", "disabled"):
        return link._replace(dhcp4=value == "auto")
    if six and value in ("auto", "dhcp", "manual", "disabled", "ignore", "link-local"):
        if value == "ignore":
            return link
        return link._replace(dhcp6=value == "dhcp", accept_ra=value == "auto")
    raise NotUnderstood(path, "method=%s" % value)


# --- writing


def write(links: List[Link]) -> Dict[str, bytes]:
    """A file for each link (path below /etc -> content)."""
    return {"%s%s%s.nmconnection" % (PLACE, _OURS, link.name): _text(link, links).encode("utf-8") for link in links}


def _id(name: str) -> str:
    return str(uuid.uuid5(_SPACE, name))


def _text(link: Link, links: List[Link]) -> str:
    kind = {each.name: each.kind for each in links}
    lines = ["[connection]", "id=hostplane-" + link.name, "uuid=" + _id(link.name), "type=" + link.kind]
    if not link.mac or link.kind != ETHERNET:
        lines.append("interface-name=" + link.name)
    lines += ["autoconnect=true", "autoconnect-priority=999"]
    if link.port_of:
        lines += ["master=" + _id(link.port_of), "slave-type=" + kind[link.port_of]]
    elif link.kind in (BOND, BRIDGE):
        lines.append("autoconnect-slaves=1")
    own = ["mac-address=" + link.mac.upper()] if link.mac and link.kind == ETHERNET else []
    if link.mtu:
        own.append("mtu=%d" % link.mtu)
    if own:
        lines += ["", "[ethernet]"] + own
    if link.kind == VLAN:
        lines += ["", "[vlan]", "id=%d" % link.vlan]
        lines.append("parent=" + (_id(link.parent) if link.parent in kind else link.parent))
    if link.kind == BOND:
        lines += ["", "[bond]"] + ["%s=%s" % pair for pair in link.bond]
    if link.kind == BRIDGE:
        lines += ["", "[bridge]"]
        lines += [] if link.stp is None else ["stp=" + ("true" if link.stp else "false")]
        lines += ["forward-delay=%d" % link.forward_delay] if link.forward_delay else []
    if not link.port_of:
        lines += _family_lines(link, 4) + _family_lines(link, 6)
    return "\n".join(lines) + "\n"


def _family_lines(link: Link, version: int) -> List[str]:
    six = version == 6
    own = [each for each in link.addresses if (":" in each) is six]
    gateway, is_auto = (link.gateway6, link.dhcp6) if six else (link.gateway4, link.dhcp4)
    method = "auto" if is_auto else "manual" if own else "disabled"
    if six:
        is_on = link.accept_ra is not False
        method = "dhcp" if is_auto and not is_on else "auto" if is_on else "manual" if own else "link-local"
    lines = ["", "[ipv%d]" % version, "method=" + method]
    if method in ("disabled", "link-local"):
        if gateway or any((":" in route.to) is six for route in link.routes):
            raise NotUnderstood(link.source, "%s has a route and no address for it" % link.name)
        return lines
    lines += ["address%d=%s" % (number_, each) for number_, each in enumerate(own, 1)]
    lines += ["gateway=" + gateway] if gateway else []
    names = [each for each in link.dns if (":" in each) is six]
    lines += ["dns=" + ";".join(names) + ";"] if names else []
    lines += ["dns-search=" + ";".join(link.search) + ";"] if link.search else []
    nowhere = "::" if six else "0.0.0.0"
    for number_, route in enumerate([each for each in link.routes if (":" in each.to) is six], 1):
        lines.append("route%d=%s" % (number_, _route(route, nowhere)))
    lines += ["route-metric=%d" % link.metric] if link.metric else []
    lines += ["never-default=true"] if link.never_default and not six else []
    lines += ["ignore-auto-dns=true"] if link.own_dns_only else []
    lines += [] if six else ["dhcp-client-id=mac"] if is_auto else []
    return lines


def _route(route: Route, nowhere: str) -> str:
    return (
        "%s,%s,%d" % (route.to, route.via or nowhere, route.metric)
        if route.metric
        else ("%s,%s" % (route.to, route.via) if route.via else route.to)
    )
