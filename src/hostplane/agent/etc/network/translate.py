"""What of a host's network settings has to be told anew, because the new image has no program that reads them.

Only what the host itself changed or added counts: what the old image brought is the new image's to bring in its own
way. A definition of the image that a changed one leans on (the bond of a changed port) comes along. Pure but for the
one question whether a path is in a root.
"""

import fnmatch
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Set, Tuple

from . import ifcfg, interfaces, keyfile, netplan, networkd
from .model import ETHERNET, Link, NotUnderstood, check
from .tools import FORMATS, TOOLS, Format, Tool

__all__ = ["Image", "Translation", "formats_in_use", "translate"]

_READERS: Dict[str, Callable[[Mapping[str, bytes]], List[Link]]] = {
    "ifcfg": ifcfg.read,
    "interfaces": interfaces.read,
    "keyfile": keyfile.read,
    "netplan": netplan.read,
    "networkd": networkd.read,
}
_WRITERS: Dict[str, Callable[[List[Link]], Dict[str, bytes]]] = {
    "keyfile": keyfile.write,
    "netplan": netplan.write,
    "networkd": networkd.write,
}
_MODES = {"keyfile": keyfile.MODE, "netplan": netplan.MODE, "networkd": networkd.MODE}
_WANTS = (".wants/", ".requires/")
_UNITS = ("etc/systemd/system/*.target", "usr/lib/systemd/system/*.target", "lib/systemd/system/*.target")


class Image(NamedTuple):
    """A root to ask: whether a path or pattern below it is there, `etc/` included."""

    has: Callable[[str], bool]


class Translation(NamedTuple):
    """What is to be written (path below /etc -> content, mode) and what it came from. `fault`: it cannot be told."""

    written: Dict[str, Tuple[bytes, int]] = {}
    sources: Tuple[str, ...] = ()
    format: str = ""
    fault: Optional[NotUnderstood] = None


def _is_in_use(tool: Tool, image: Image) -> bool:
    if not any(image.has(program) for program in tool.programs):
        return False
    wants = [place + want + unit for unit in tool.units for place in _UNITS for want in _WANTS]
    return not tool.units or any(image.has(want) for want in wants)


def formats_in_use(image: Image) -> List[Format]:
    """The formats that something in `image` reads."""
    tools = {tool.name for tool in TOOLS if _is_in_use(tool, image)}
    return [
        form
        for form in FORMATS
        if any(name in tools and (not needed or image.has(needed)) for name, needed in form.readers)
    ]


def translate(
    base: Mapping[str, bytes],
    ours: Mapping[str, bytes],
    running: Image,
    new: Image,
    macs: Mapping[str, str],
    resolv: bytes = b"",
) -> Translation:
    """The settings of `ours` (path below /etc -> content) that `new` does not read, in words that it does.

    `base` are the running image's own files, `macs` the hardware's addresses by interface, `resolv` the host's
    resolv.conf: its servers count where no link names any.
    """
    understood = formats_in_use(new)
    links: List[Link] = []
    sources: List[str] = []
    try:
        for form in formats_in_use(running):
            mine = _files(form, ours)
            if form in understood or mine == _files(form, base):
                continue
            changed = {path for path in mine if mine[path] != base.get(path)}
            found = _wanted(form, mine, changed)
            links += found
            sources += sorted(changed)
        if not links:
            return Translation()
        links = check([_pinned(link, macs) for link in _named(links, resolv)])
    except NotUnderstood as fault:
        return Translation(sources=tuple(sources), fault=fault)
    target = next((form for form in understood if form.is_written), None)
    if target is None:
        nobody = NotUnderstood(links[0].source, "the new image has no program that Hostplane could tell it to")
        return Translation(sources=tuple(sources), fault=nobody)
    try:
        made = _WRITERS[target.name](links)
    except NotUnderstood as fault:
        return Translation(sources=tuple(sources), fault=fault)
    mode = _MODES[target.name]
    return Translation({path: (made[path], mode) for path in made}, tuple(sources), target.name)


def _files(form: Format, tree: Mapping[str, bytes]) -> Dict[str, bytes]:
    return {path: tree[path] for path in tree if any(fnmatch.fnmatchcase(path, each) for each in form.files)}


def _read(form: Format, files: Mapping[str, bytes]) -> List[Link]:
    """Raises NotUnderstood, whatever a reader stumbles over: anybody may have written these files."""
    try:
        return _READERS[form.name](files)
    except NotUnderstood:
        raise
    except Exception as fault:
        raise NotUnderstood(min(files), " ".join(str(fault).split())[:200]) from fault


def _wanted(form: Format, files: Mapping[str, bytes], changed: Set[str]) -> List[Link]:
    """The links that changed files tell, and those that they lean on."""
    is_apart = form.name in ("keyfile", "networkd", "ifcfg")
    try:
        links = _read(form, files)
    except NotUnderstood as fault:
        if not is_apart or fault.path in changed:
            raise
        return _read(form, {path: files[path] for path in changed})  # what the image says beside it is its own affair
    if not is_apart:
        return links
    by_name = {link.name: link for link in links}
    wanted = [link.name for link in links if _told_by(link, files, changed)]
    for name in wanted:  # grows as it goes
        link = by_name[name]
        more = [link.port_of, link.parent] + [each.name for each in links if each.port_of == name]
        wanted += [each for each in more if each in by_name and each not in wanted]
    return [link for link in links if link.name in wanted]


def _told_by(link: Link, files: Mapping[str, bytes], changed: Set[str]) -> bool:
    if link.source in changed:
        return True
    place, _, name = link.source.rpartition("/")
    beside = {"%s/route-%s" % (place, link.name), "%s/route6-%s" % (place, link.name)}
    beside |= {path for path in files if path.endswith(".netdev") and ("Name=%s\n" % link.name).encode() in files[path]}
    return bool(beside & changed)


def _pinned(link: Link, macs: Mapping[str, str]) -> Link:
    """Hardware by its address: another distribution's udev may name the interface otherwise."""
    if link.never_default:
        link = link._replace(gateway4="")
    return link._replace(mac=link.mac or macs.get(link.name, "")) if link.kind == ETHERNET else link


def _named(links: List[Link], resolv: bytes) -> List[Link]:
    """With the name servers of resolv.conf where nothing else would name any."""
    if any(link.dns for link in links) or any(link.dhcp4 and not link.own_dns_only for link in links):
        return links
    dns: List[str] = []
    search: List[str] = []
    for line in resolv.decode("utf-8", "replace").splitlines():
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1 and not words[1].startswith(("127.", "::1")):
            dns.append(words[1])
        if words[:1] in (["search"], ["domain"]):
            search = words[1:]
    ways = [link for link in links if link.gateway4 or link.gateway6]
    if not ways or not dns:
        return links
    told = ways[0]._replace(dns=tuple(dns), search=ways[0].search or tuple(search))
    return [told if link is ways[0] else link for link in links]
