"""What a host changed in its /etc, name by name: the answer to "what would I have to do again on a fresh host?"."""

from typing import List, Optional, Tuple

from .node import Node, shown

__all__ = ["compare"]


def compare(image: Node, live: Node) -> List[Tuple[str, str]]:
    """(A added, D deleted, M modified; path), sorted by path. A directory stands for all in it that is new or gone."""
    found: List[Tuple[str, str]] = []
    _compare("", image, live, found)
    return found


def _compare(path: str, image: Node, live: Node, found: List[Tuple[str, str]]) -> None:
    for name in sorted(set(image.children) | set(live.children)):
        here = path + "/" + name if path else name
        was: Optional[Node] = image.children.get(name)
        now: Optional[Node] = live.children.get(name)
        if was is None or now is None:
            found.append(("A" if was is None else "D", shown(here)))
            continue
        if not now.is_same(was) or now.meta != was.meta:
            found.append(("M", shown(here)))
        if was.is_directory and now.is_directory:
            _compare(here, was, now, found)
