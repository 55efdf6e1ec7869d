"""Trees of /etc written as plain dicts, for tests: text is a file, a dict a directory, `link(...)` a link."""

from __future__ import annotations

from typing import Any

from hostplane.agent.etc.node import DIRECTORY, FILE, LINK, Meta, Node


def link(target: str) -> Node:
    """A symbolic link."""
    return Node(LINK, Meta(0o777), target=target)


def file(content: str | bytes, mode: int = 0o644, uid: int = 0, gid: int = 0, **xattrs: bytes) -> Node:
    """A file with attributes; `security__selinux` stands for security.selinux."""
    named = tuple(sorted((name.replace("__", "."), value) for name, value in xattrs.items()))
    data = content.encode() if isinstance(content, str) else content
    return Node(FILE, Meta(mode, uid, gid, named), data=data)


def tree(content: dict[str, Any] | None = None, /, **names: Any) -> Node:
    """A directory; `content` for names that are no words, paths too."""
    node = Node(DIRECTORY, Meta(0o755))
    for path, value in {**(content or {}), **names}.items():
        *above, name = path.split("/")
        parent = node
        for part in above:
            parent = parent.children.setdefault(part, Node(DIRECTORY, Meta(0o755)))
        parent.children[name] = tree(value) if isinstance(value, dict) else _leaf(value)
    return node


def _leaf(value: Any) -> Node:
    return value if isinstance(value, Node) else file(value)


def flat(node: Node, path: str = "") -> dict[str, Any]:
    """The tree as path -> content: bytes, a link's target after an arrow, None for a directory."""
    found: dict[str, Any] = {}
    for name, child in sorted(node.children.items()):
        here = f"{path}/{name}" if path else name
        if child.kind == DIRECTORY:
            found[here] = None
            found.update(flat(child, here))
        elif child.kind == LINK:
            found[here] = "-> " + child.target
        else:
            found[here] = child.read(1 << 30) if child.kind == FILE else child.kind
    return found


def dressed(node: Node, path: str = "") -> dict[str, Meta]:
    """Path -> attributes."""
    found = {}
    for name, child in node.children.items():
        here = f"{path}/{name}" if path else name
        found[here] = child.meta
        found.update(dressed(child, here))
    return found
