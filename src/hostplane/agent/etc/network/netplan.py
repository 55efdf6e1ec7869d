"""netplan's YAML: read, and written for an image that has it.

What is written has names that come before those of most definitions (00-), since netplan's renderer sorts by them.
"""

import json
from typing import Any, Dict, List, Mapping, Tuple

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
    subnet,
)

__all__ = ["MODE", "PLACE", "read", "write"]

PLACE = "netplan/"
MODE = 0o600  # it complains about one that others may read
_FILE = PLACE + "90-hostplane.yaml"
_HEAD = "00-"
_KINDS = (("ethernets", ETHERNET), ("bonds", BOND), ("bridges", BRIDGE), ("vlans", VLAN))
_SILENT = frozenset(
    "optional critical dhcp-identifier link-local renderer ignore-carrier emit-lldp ipv6-privacy".split()
)
_BOND = {
    "mode": "mode",
    "lacp-rate": "lacp_rate",
    "transmit-hash-policy": "xmit_hash_policy",
    "mii-monitor-interval": "miimon",
    "up-delay": "updelay",
    "down-delay": "downdelay",
    "primary": "primary",
}


def read(files: Mapping[str, bytes]) -> List[Link]:
    """The links in `files`, a later file over an earlier one. Raises NotUnderstood."""
    from ruamel.yaml import YAML

    merged: Dict[str, Any] = {}
    path = ""
    for path in sorted(files):
        try:
            given = YAML(typ="safe", pure=True).load(files[path].decode("utf-8")) or {}
            if not isinstance(given, dict) or not isinstance(given.get("network") or {}, dict):
                raise ValueError("it is no map")
        except Exception as fault:  # whatever the library makes of it
            raise NotUnderstood(path, " ".join(str(fault).split())[:200]) from None
        merged = _over(merged, given.get("network") or {})
    return _links(path, merged)


def _over(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        made = dict(below)
        for key, value in above.items():
            made[key] = _over(below[key], value) if key in below else value
        return made
    if isinstance(below, list) and isinstance(above, list):
        return below + [each for each in above if each not in below]
    return above


def _map(path: str, where: str, value: Any) -> Dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise NotUnderstood(path, "%s is no map" % where)
    return value


def _list(path: str, where: str, value: Any) -> List[Any]:
    if not isinstance(value, list):
        raise NotUnderstood(path, "%s is no list" % where)
    return value


def _links(path: str, network: Dict[str, Any]) -> List[Link]:
    known = {name for name, _ in _KINDS} | {"version", "renderer"}
    for key in network:
        if key not in known and network[key]:
            raise NotUnderstood(path, str(key)[:80])
    links: List[Link] = []
    ports: List[Tuple[str, str]] = []
    names: Dict[str, str] = {}
    for section, kind in _KINDS:
        for ident, given in _map(path, section, network.get(section)).items():
            values = dict(_map(path, ident, given))
            link = _named(path, Link(ident, kind, source=path), values)
            names[ident] = link.name
            for port in _list(path, "interfaces", values.pop("interfaces", [])):
                ports.append((str(port), link.name))
            for key in sorted(values):
                if key not in _SILENT:
                    link = _apply(path, link, key, values[key])
            links.append(link)
    owners = {names.get(port, port): owner for port, owner in ports}
    found = [
        link._replace(port_of=owners.pop(link.name, ""), parent=names.get(link.parent, link.parent)) for link in links
    ]
    return found + [Link(port, port_of=owner, source=path) for port, owner in sorted(owners.items())]


def _named(path: str, link: Link, values: Dict[str, Any]) -> Link:
    match = dict(_map(path, "match", values.pop("match", None)))
    found = match.pop("macaddress", "")
    name = str(match.pop("name", ""))
    renamed = str(values.pop("set-name", ""))
    if match or any(mark in name for mark in "*?["):
        raise NotUnderstood(path, "%s is for any interface of a kind" % link.name)
    label = link.name[len(_HEAD) :] if link.name.startswith(_HEAD) else link.name
    return link._replace(name=renamed or name or label, mac=mac(path, str(found)) if found else "")


def _flag(path: str, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise NotUnderstood(path, "%s: %s" % (key, str(value)[:80]))
    return value


def _apply(path: str, link: Link, key: str, value: Any) -> Link:
    if key in ("dhcp4", "dhcp6"):
        made = _flag(path, key, value)
        return link._replace(dhcp4=made) if key == "dhcp4" else link._replace(dhcp6=made)
    if key == "accept-ra":
        return link._replace(accept_ra=_flag(path, key, value))
    if key == "addresses":
        return link._replace(addresses=tuple(address(path, str(each)) for each in _list(path, key, value)))
    if key in ("gateway4", "gateway6"):
        made_ = host(path, str(value))
        return link._replace(gateway4=made_) if key == "gateway4" else link._replace(gateway6=made_)
    if key == "nameservers":
        given = dict(_map(path, key, value))
        names = tuple(host(path, str(each)) for each in given.pop("addresses", None) or [])
        link = link._replace(dns=names, search=tuple(str(each) for each in given.pop("search", None) or []))
        value = given
        if not given:
            return link
    if key == "routes":
        for each in _list(path, key, value):
            link = _route(path, link, _map(path, key, each))
        return link
    if key == "mtu":
        return link._replace(mtu=number(path, key, str(value), 65536))
    if key in ("dhcp4-overrides", "dhcp6-overrides"):
        return _overrides(path, link, _map(path, key, value))
    if key == "id" and link.kind == VLAN:
        return link._replace(vlan=number(path, key, str(value), 4094))
    if key == "link" and link.kind == VLAN:
        return link._replace(parent=str(value))
    if key == "parameters" and link.kind in (BOND, BRIDGE):
        for name, word in _map(path, key, value).items():
            link = _parameter(path, link, name, word)
        return link
    raise NotUnderstood(path, "%s: %s" % (key, str(value)[:80]))


def _route(path: str, link: Link, given: Mapping[str, Any]) -> Link:
    if not set(given) <= {"to", "via", "metric", "on-link"} or "to" not in given:
        raise NotUnderstood(path, "a route with %s" % ", ".join(sorted(given)))
    via = host(path, str(given["via"])) if "via" in given else ""
    goal = subnet(path, str(given["to"]), 6 if ":" in via else 4)
    metric = number(path, "metric", str(given.get("metric", 0)), 1 << 31)
    if goal in ("0.0.0.0/0", "::/0") and via:
        link = link._replace(metric=metric)
        return link._replace(gateway6=via) if ":" in via else link._replace(gateway4=via)
    return link._replace(routes=link.routes + (Route(goal, via, metric),))


def _overrides(path: str, link: Link, given: Mapping[str, Any]) -> Link:
    for key, value in given.items():
        if key == "use-dns":
            link = link._replace(own_dns_only=not _flag(path, key, value))
        elif key == "use-routes":
            link = link._replace(never_default=not _flag(path, key, value))
        elif key == "route-metric":
            link = link._replace(metric=number(path, key, str(value), 1 << 31))
        elif key not in ("use-ntp", "use-hostname", "send-hostname", "use-domains", "use-mtu"):
            raise NotUnderstood(path, "%s: %s" % (key, str(value)[:80]))
    return link


def _parameter(path: str, link: Link, key: str, value: Any) -> Link:
    if link.kind == BOND and key in _BOND:
        return link._replace(bond=link.bond + (bond_option(path, _BOND[key], str(value)),))
    if link.kind == BRIDGE and key == "stp":
        return link._replace(stp=_flag(path, key, value))
    if link.kind == BRIDGE and key == "forward-delay":
        return link._replace(forward_delay=number(path, key, str(value), 30))
    raise NotUnderstood(path, "%s: %s" % (key, str(value)[:80]))


# --- writing


def write(links: List[Link]) -> Dict[str, bytes]:
    """One file (path below /etc -> content); JSON, which is YAML as well."""
    idents = {link.name: _HEAD + link.name if link.mac and link.kind == ETHERNET else link.name for link in links}
    network: Dict[str, Any] = {"version": 2}
    for section, kind in _KINDS:
        found = {idents[link.name]: _definition(link, links, idents) for link in links if link.kind == kind}
        if found:
            network[section] = found
    return {_FILE: (json.dumps({"network": network}, indent=2) + "\n").encode("ascii")}


def _definition(link: Link, links: List[Link], idents: Mapping[str, str]) -> Dict[str, Any]:
    made: Dict[str, Any] = {}
    if link.kind == ETHERNET and link.mac:
        made["match"] = {"macaddress": link.mac}
    if link.kind in (BOND, BRIDGE):
        made["interfaces"] = [idents[each.name] for each in links if each.port_of == link.name]
        words = {option: key for key, option in _BOND.items()}
        parameters: Dict[str, Any] = {words[option]: _plain(option, value, idents) for option, value in link.bond}
        if link.stp is not None:
            parameters["stp"] = link.stp
        if link.forward_delay:
            parameters["forward-delay"] = link.forward_delay
        made.update({"parameters": parameters} if parameters else {})
    if link.kind == VLAN:
        made.update({"id": link.vlan, "link": idents.get(link.parent, link.parent)})
    made.update({"mtu": link.mtu} if link.mtu else {})
    made.update({"dhcp4": link.dhcp4, "dhcp6": link.dhcp6})
    if link.dhcp4:
        overrides: Dict[str, Any] = {"use-dns": False} if link.own_dns_only else {}
        overrides.update({"use-routes": False} if link.never_default else {})
        overrides.update({"route-metric": link.metric} if link.metric else {})
        made.update({"dhcp4-overrides": overrides} if overrides else {})
        made["dhcp-identifier"] = "mac"
    made.update({} if link.accept_ra is None else {"accept-ra": link.accept_ra})
    made.update({"addresses": list(link.addresses)} if link.addresses else {})
    names = {"addresses": list(link.dns)} if link.dns else {}
    names.update({"search": list(link.search)} if link.search else {})
    made.update({"nameservers": names} if names else {})
    routes = [_route_of(Route(goal, via, link.metric)) for goal, via in _defaults(link)]
    routes += [_route_of(route) for route in link.routes]
    made.update({"routes": routes} if routes else {})
    return made


def _plain(option: str, value: str, idents: Mapping[str, str]) -> Any:
    if option == "primary":
        return idents.get(value, value)
    return int(value) if value.isdecimal() else value


def _defaults(link: Link) -> List[Tuple[str, str]]:
    return [(goal, via) for goal, via in (("0.0.0.0/0", link.gateway4), ("::/0", link.gateway6)) if via]


def _route_of(route: Route) -> Dict[str, Any]:
    made: Dict[str, Any] = {"to": route.to}
    made.update({"via": route.via} if route.via else {})
    made.update({"metric": route.metric} if route.metric else {})
    return made
