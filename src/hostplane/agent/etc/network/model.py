"""What a host's network settings say, whichever tool they were written for: links, addresses, routes, name servers.

Small on purpose. Whatever a file says that has no place here must not be lost silently: a reader raises NotUnderstood,
and the upgrade stops where it would otherwise cost the host its network.
"""

import ipaddress
import re
from typing import Dict, List, NamedTuple, Optional, Tuple

__all__ = [
    "BOND",
    "BRIDGE",
    "ETHERNET",
    "VLAN",
    "Link",
    "NotUnderstood",
    "Route",
    "address",
    "bond_option",
    "check",
    "host",
    "lines_of",
    "mac",
    "number",
    "prefix_of",
    "sections",
    "subnet",
    "truth",
]

ETHERNET, VLAN, BOND, BRIDGE = "ethernet", "vlan", "bond", "bridge"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}\Z")
_WORD = re.compile(r"[!-~]*\Z")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")


class NotUnderstood(ValueError):
    """Settings that cannot be told in another tool's words: `path` below /etc, and what it is about."""

    def __init__(self, path: str, detail: str) -> None:
        super(NotUnderstood, self).__init__("%s: %s" % (path, detail))
        self.path, self.detail = path, detail


class Route(NamedTuple):
    """`to` is a subnet; `via` empty: on the link. `metric` 0: the tool's own."""

    to: str
    via: str = ""
    metric: int = 0


class Link(NamedTuple):
    """One interface. `name` is the kernel's; with `mac` it is found by that address and the name is only a label.

    `port_of` is the bond or bridge it belongs to. `never_default`: what DHCP says of a default route is left aside,
    `own_dns_only`: what it says of name servers.
    """

    name: str
    kind: str = ETHERNET
    mac: str = ""
    addresses: Tuple[str, ...] = ()
    dhcp4: bool = False
    dhcp6: bool = False
    accept_ra: Optional[bool] = None
    gateway4: str = ""
    gateway6: str = ""
    dns: Tuple[str, ...] = ()
    search: Tuple[str, ...] = ()
    routes: Tuple[Route, ...] = ()
    metric: int = 0
    mtu: int = 0
    never_default: bool = False
    own_dns_only: bool = False
    parent: str = ""
    vlan: int = 0
    port_of: str = ""
    bond: Tuple[Tuple[str, str], ...] = ()
    stp: Optional[bool] = None
    forward_delay: int = 0
    source: str = ""


# --- words that all readers share; each raises NotUnderstood with the path of its file


def address(path: str, text: str, prefix: str = "") -> str:
    """ADDRESS/LENGTH of an address whose length or netmask is in it or in `prefix`."""
    try:
        head, slash, tail = text.strip().partition("/")
        tail = tail if slash else prefix
        if not tail:
            raise ValueError("%s has no prefix or netmask" % head)
        made = ipaddress.ip_interface("%s/%s" % (head, prefix_of(path, tail)))
    except ValueError as fault:
        raise NotUnderstood(path, "address %s: %s" % (text, fault)) from None
    return made.with_prefixlen


def prefix_of(path: str, text: str) -> str:
    """The length of a prefix, from itself or a netmask."""
    if "." not in text:
        return text
    try:
        return str(ipaddress.ip_network("0.0.0.0/%s" % text).prefixlen)
    except ValueError as fault:
        raise NotUnderstood(path, "netmask %s: %s" % (text, fault)) from None


def host(path: str, text: str) -> str:
    """An address without a length."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError as fault:
        raise NotUnderstood(path, str(fault)) from None


def subnet(path: str, text: str, version: int = 4) -> str:
    """A route's goal; `default` too."""
    if text in ("default", "any"):
        return "0.0.0.0/0" if version == 4 else "::/0"
    try:
        return ipaddress.ip_network(text, strict=False).with_prefixlen
    except ValueError as fault:
        raise NotUnderstood(path, "route to %s: %s" % (text, fault)) from None


def number(path: str, key: str, text: str, highest: int) -> int:
    """A whole number from 0 to `highest`."""
    text = text.strip()
    if not text.isdecimal() or len(text) > 10 or int(text) > highest:
        raise NotUnderstood(path, "%s=%s is no number up to %d" % (key, text, highest))
    return int(text)


_TRUTHS = {
    "yes": True,
    "true": True,
    "on": True,
    "1": True,
    "y": True,
    "no": False,
    "false": False,
    "off": False,
    "0": False,
    "n": False,
}


def truth(path: str, key: str, text: str) -> bool:
    """yes or no."""
    found = _TRUTHS.get(text.strip().lower())
    if found is None:
        raise NotUnderstood(path, "%s=%s is neither yes nor no" % (key, text))
    return found


def mac(path: str, text: str) -> str:
    """An Ethernet address in lower case with colons."""
    made = text.strip().lower().replace("-", ":")
    if not _MAC.match(made):
        raise NotUnderstood(path, "%s is no Ethernet address" % text)
    return made


_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
_BOND_WORDS = {
    "mode": _MODES,
    "lacp_rate": ("slow", "fast"),
    "xmit_hash_policy": ("layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4"),
}


def bond_option(path: str, key: str, value: str) -> Tuple[str, str]:
    """One option of a bond in the kernel's words; times in milliseconds."""
    key, value = key.strip().replace("-", "_"), value.strip()
    if key in ("miimon", "updelay", "downdelay"):
        return key, str(number(path, key, value, 1 << 20))
    if key == "primary":
        return key, value
    words = _BOND_WORDS.get(key)
    if words is None:
        raise NotUnderstood(path, "the bond's option %s" % key)
    value = words[int(value)] if value.isdecimal() and int(value) < len(words) else value
    if value not in words:
        raise NotUnderstood(path, "the bond's %s=%s" % (key, value))
    return key, value


def check(links: List[Link]) -> List[Link]:
    """The same links, where they make sense together. Raises NotUnderstood."""
    known: Dict[str, Link] = {}
    for link in links:
        if not _NAME.match(link.name):
            raise NotUnderstood(link.source, "the interface's name %s" % link.name)
        if link.name in known:
            raise NotUnderstood(link.source, "%s is told twice" % link.name)
        known[link.name] = link
        for word in (link.parent,) + link.search + tuple(value for _, value in link.bond):
            if not _WORD.match(word):
                raise NotUnderstood(link.source, "a word with blanks or other signs: %r" % word[:80])
    for link in links:
        if link.port_of and (link.port_of not in known or known[link.port_of].kind not in (BOND, BRIDGE)):
            raise NotUnderstood(link.source, "%s, which %s is to be a port of, is not told" % (link.port_of, link.name))
        if link.port_of and (link.addresses or link.dhcp4 or link.dhcp6):
            raise NotUnderstood(link.source, "%s is a port and has an address" % link.name)
        if link.kind == VLAN and (not 1 <= link.vlan <= 4094 or not link.parent):
            raise NotUnderstood(link.source, "%s has no parent, or no number from 1 to 4094" % link.name)
    return links


# --- forms that several readers share


def lines_of(path: str, content: bytes) -> List[str]:
    """The lines of a file."""
    try:
        return content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise NotUnderstood(path, "it is no UTF-8") from None


Sections = List[Tuple[str, List[Tuple[str, str]]]]


def sections(path: str, content: bytes) -> Sections:
    """[section] and key=value lines in their order; a section or key may come again."""
    found: Sections = []
    for line in lines_of(path, content):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[" and line[-1] == "]":
            found.append((line[1:-1], []))
            continue
        key, equals, value = line.partition("=")
        if not equals or not found:
            raise NotUnderstood(path, "the line %s" % line[:80])
        found[-1][1].append((key.strip(), value.strip()))
    return found
