"""Where the translation meets the merge: what the trees hold goes in, what is told anew goes into the merged tree."""

import fnmatch
import glob
import os
from typing import Dict, List, NamedTuple, Optional, Tuple

from hostplane.agent.etc import kinds
from hostplane.agent.etc.node import DIRECTORY, FILE, LINK, Meta, Node

from .model import NotUnderstood
from .tools import FORMATS
from .translate import Image, translate

__all__ = ["Carried", "carry", "hardware"]

_ETC = "etc/"
_UNREADABLE = b"no file that is read"


class Carried(NamedTuple):
    """What became of the network's settings; `sources` are the files that are told anew, in the words of `format`."""

    sources: Tuple[str, ...] = ()
    format: str = ""
    fault: Optional[NotUnderstood] = None


def hardware(directory: str) -> Dict[str, str]:
    """The hardware's Ethernet addresses by interface, from /sys/class/net; of a bond's port the one it came with."""
    found: Dict[str, str] = {}
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return found
    for name in names:
        for place in ("bonding_slave/perm_hwaddr", "address"):
            try:
                with open(os.path.join(directory, name, place), encoding="ascii", errors="replace") as file:
                    text = file.read().strip().lower()
            except OSError:
                continue
            if (
                len(text) == 17
                and text != "00:00:00:00:00:00"
                and os.path.exists(os.path.join(directory, name, "device"))
            ):
                found[name] = text
            break
    return found


def carry(base: Node, ours: Node, merged: Node, running: str, new: str, macs: Dict[str, str]) -> Carried:
    """Put what has to be told anew into `merged`. `running` and `new` are the images' roots.

    Raises Vanished, HostError EtcReadFailed.
    """
    made = translate(
        _files(base), _files(ours), _image(running, ours), _image(new, merged), macs, _content(ours, "resolv.conf")
    )
    for path, (content, mode) in made.written.items():
        _put(merged, path, content, mode)
    return Carried(made.sources, made.format, made.fault)


def _image(root: str, etc: Node) -> Image:
    def has(pattern: str) -> bool:
        if pattern.startswith(_ETC):
            return _is_below(etc, pattern[len(_ETC) :].split("/"))
        return bool(glob.glob(os.path.join(glob.escape(root), pattern)))

    return Image(has)


def _is_below(node: Node, parts: List[str]) -> bool:
    if not parts:
        return True
    return any(
        _is_below(child, parts[1:]) for name, child in node.children.items() if fnmatch.fnmatchcase(name, parts[0])
    )


def _files(tree: Node) -> Dict[str, bytes]:
    """Every file below /etc that any format has settings in."""
    found: Dict[str, bytes] = {}
    for form in FORMATS:
        for pattern in form.files:
            place, _, name = pattern.rpartition("/")
            node: Optional[Node] = tree
            for part in place.split("/"):
                node = None if node is None else node.children.get(part)
            for child, what in {} if node is None else dict(node.children).items():
                if fnmatch.fnmatchcase(child, name) and what.kind != DIRECTORY:
                    if what.kind == LINK and what.target == "/dev/null":
                        continue
                    content = what.read(kinds.LIMIT) if what.kind == FILE else None
                    found[place + "/" + child] = _UNREADABLE if content is None else content
    return found


def _content(tree: Node, name: str) -> bytes:
    node = tree.children.get(name)
    return (node.read(kinds.LIMIT) or b"") if node is not None and node.kind == FILE else b""


def _put(tree: Node, path: str, content: bytes, mode: int) -> None:
    names = path.split("/")
    for name in names[:-1]:
        held = tree.children.get(name)
        if held is None or not held.is_directory:
            held = tree.children[name] = Node(DIRECTORY, Meta(0o755))
        tree = held
    tree.children[names[-1]] = Node(FILE, Meta(mode), data=content)
