"""Reads Debian's /etc/network/interfaces and what it includes."""

import fnmatch
import re
from typing import Dict, List, Mapping, Set, Tuple

from .iproute import read_route
from .model import BOND, BRIDGE, VLAN, Link, NotUnderstood, address, bond_option, host, lines_of, mac, number, truth

__all__ = ["read"]

_MAIN = "network/interfaces"
_SILENT = frozenset(
    "bridge_maxwait bridge_waitport bond_master_wait network broadcast scope privext accept_dad vlan_raw_device_wait "
    "dad_attempts dad_interval label hostname pre_up_wait bond_num_grat_arp".split()
)
_TAGGED = re.compile(r"(.+)\.(\d+)\Z")

_Options = List[Tuple[str, str]]


def read(files: Mapping[str, bytes]) -> List[Link]:
    """The links that are brought up at boot or by hot-plugging. Raises NotUnderstood."""
    started: Set[str] = set()
    stanzas: List[Tuple[str, str, str, str, _Options]] = []
    if _MAIN in files:
        _read_file(_MAIN, files, started, stanzas, set())
    links: Dict[str, Link] = {}
    ports: List[Tuple[str, str, str]] = []
    for path, name, family, method, options in stanzas:
        if name == "lo" or name.partition(":")[0] not in {each.partition(":")[0] for each in started}:
            continue
        real = name.partition(":")[0]
        link = links.get(real, Link(real, source=path))
        links[real] = _stanza(path, link, family, method, options, ports)
    for path, owner, port in ports:
        links[port] = links.get(port, Link(port, source=path))._replace(port_of=owner)
    for name, link in links.items():
        found = _TAGGED.match(name)
        if link.kind not in (BOND, BRIDGE) and (found or link.parent):
            parent, tag = (found.group(1), found.group(2)) if found else ("", name[len("vlan") :])
            if not tag.isdecimal():
                raise NotUnderstood(link.source, "which VLAN %s is" % name)
            links[name] = link._replace(kind=VLAN, parent=link.parent or parent, vlan=int(tag))
    return list(links.values())


def _read_file(
    path: str,
    files: Mapping[str, bytes],
    started: Set[str],
    stanzas: List[Tuple[str, str, str, str, _Options]],
    seen: Set[str],
) -> None:
    seen.add(path)
    text = "\n".join(lines_of(path, files[path])).replace("\\\n", " ")
    options: _Options = []
    is_open = False
    for line in text.split("\n"):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "auto" or words[0].startswith("allow-"):
            started.update(words[1:])
            is_open = False
        elif words[0] in ("source", "source-directory") and len(words) == 2:
            for name in _included(path, words[0], words[1], files):
                if name not in seen:
                    _read_file(name, files, started, stanzas, seen)
            is_open = False
        elif words[0] == "iface" and len(words) == 4:
            options, is_open = [], True
            stanzas.append((path, words[1], words[2], words[3], options))
        elif words[0].startswith("no-auto") or words[0].startswith("no-scripts"):
            is_open = False
        elif is_open and words[0] not in ("mapping", "iface", "rename", "template"):
            options.append((words[0].replace("-", "_"), " ".join(words[1:])))
        else:
            raise NotUnderstood(path, "the line %s" % line.strip()[:80])


def _included(path: str, how: str, pattern: str, files: Mapping[str, bytes]) -> List[str]:
    pattern = pattern[len("/etc/") :] if pattern.startswith("/etc/") else "network/" + pattern
    pattern = pattern.rstrip("/") + "/*" if how == "source-directory" else pattern
    if not pattern.startswith("network/interfaces.d/"):
        raise NotUnderstood(path, "it includes /etc/%s" % pattern)
    found = [name for name in sorted(files) if fnmatch.fnmatchcase(name, pattern)]
    return [name for name in found if how == "source" or re.match(r"[A-Za-z0-9_-]+\Z", name.rpartition("/")[2])]


def _stanza(
    path: str, link: Link, family: str, method: str, options: _Options, ports: List[Tuple[str, str, str]]
) -> Link:
    six = family == "inet6"
    if family not in ("inet", "inet6") or method not in ("static", "dhcp", "manual", "auto"):
        raise NotUnderstood(path, "iface %s %s %s" % (link.name, family, method))
    if method == "dhcp":
        link = link._replace(dhcp6=True) if six else link._replace(dhcp4=True)
    if method == "auto":
        link = link._replace(accept_ra=True) if six else link._replace(dhcp4=True)
    own = [value for key, value in options if key == "address"]
    length = "".join(value for key, value in options if key == "netmask")
    link = link._replace(addresses=link.addresses + tuple(address(path, each, length) for each in own))
    for key, value in options:
        if key not in ("address", "netmask") and key not in _SILENT:
            link = _apply(path, link, key, value, six, ports)
    return link


def _apply(path: str, link: Link, key: str, value: str, six: bool, ports: List[Tuple[str, str, str]]) -> Link:
    if key == "gateway":
        return link._replace(gateway6=host(path, value)) if six else link._replace(gateway4=host(path, value))
    if key in ("dns_nameservers", "dns_nameserver"):
        return link._replace(dns=link.dns + tuple(host(path, each) for each in value.split()))
    if key in ("dns_search", "dns_domain"):
        return link._replace(search=link.search + tuple(each for each in value.split() if each not in link.search))
    if key == "mtu":
        return link._replace(mtu=number(path, key, value, 65536))
    if key == "metric":
        return link._replace(metric=number(path, key, value, 1 << 31))
    if key == "accept_ra":
        return link._replace(accept_ra=value.strip() != "0")
    if key == "autoconf":
        return link._replace(accept_ra=truth(path, key, value))
    if key == "vlan_raw_device":
        return link._replace(parent=value)
    if key == "hwaddress" and value.split()[-1:] and link.kind not in (BOND, BRIDGE):
        raise NotUnderstood(path, "hwaddress %s: another address than the hardware's" % mac(path, value.split()[-1]))
    if key in ("bond_slaves", "bridge_ports"):
        ports.extend((path, link.name, port) for port in value.split() if port != "none")
        return link._replace(kind=BOND if key == "bond_slaves" else BRIDGE)
    if key == "bond_master":
        ports.append((path, value, link.name))
        return link
    if key == "bond_primary":
        return link._replace(bond=link.bond + (("primary", value.split()[0]),))
    if key.startswith("bond_"):
        return link._replace(kind=BOND, bond=link.bond + (bond_option(path, key[len("bond_") :], value),))
    if key == "bridge_stp":
        return link._replace(kind=BRIDGE, stp=truth(path, key, value))
    if key == "bridge_fd":
        return link._replace(kind=BRIDGE, forward_delay=number(path, key, value.partition(".")[0], 30))
    if key in ("up", "post_up", "down", "pre_down", "post_down"):
        return _command(path, link, key, value, six)
    raise NotUnderstood(path, "%s %s" % (key, value[:80]))


def _command(path: str, link: Link, key: str, value: str, six: bool) -> Link:
    words = value.split("||")[0].split()
    words[:1] = [word.rpartition("/")[2] for word in words[:1]]
    is_six = six or words[1:2] == ["-6"]
    words = [word for word in words if word not in ("-4", "-6")]
    if words[:2] == ["ip", "route"] and len(words) > 2:
        verb, rest = words[2], words[3:]
    elif words[:1] == ["route"] and len(words) > 1:
        verb, rest = words[1], words[2:]
    else:
        verb, rest = "", []
    if verb in ("del", "delete") and "down" in key:
        return link
    if verb not in ("add", "replace") or "down" in key:
        raise NotUnderstood(path, "the command %s" % value[:80])
    return link._replace(routes=link.routes + (read_route(path, rest, link.name, 6 if is_six else 4),))
