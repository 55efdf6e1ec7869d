"""The three-way merge of /etc: from the running image's tree, the live one and the new image's, the tree to write.

    untouched by the host                  follows the image: changed, new, gone
    untouched by the image                 the host's: edited, new, deleted
    both changed alike                     that
    both changed, of a kind that merges    merged by entry, line or key (kinds/)
    both changed, anything else            the host's; the image's beside it as NAME.new

A name the host deleted stays deleted; what the host edited stays when the image drops it. A file that became a
directory, or the reverse, is one change of the name. Identity is the host's and never merged. Content and each
attribute go separate ways. Nothing is written here, and nothing is read but content that has to be compared or merged.
"""

from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from . import kinds
from .attributes import merge_meta, relabelled, unprivileged
from .lines import NotMergeable
from .node import DIRECTORY, FILE, LINK, Meta, Node, shown
from .rules import NO_COPY_BESIDE, NOT_CARRIED, Paths, kind_of

__all__ = ["BESIDE", "KEPT", "LEFT", "NETWORK", "Conflict", "Outcome", "Rules", "merge_trees"]

BESIDE, KEPT, LEFT, DROPPED = (
    "the host's stays, the image's is beside it as .new",
    "the host's stays",
    "left behind: it belongs to the other distribution",
    "the image's holds: what the host chose is not in it",
)
NETWORK = "network"
"""The kind of what network settings that go to another distribution are reported as; their own policy decides."""
_UNCOPIED = ("links", "choices")  # a copy beside would be one more link that is on
_MASK = "/dev/null"


class Conflict(NamedTuple):
    """A path (below /etc) where the host or the image does not get all it says; `action` is a sentence."""

    path: str
    kind: str
    action: str

    @property
    def is_blocking(self) -> bool:
        """Whether the policy "stop" stops for it."""
        return not self.action.startswith(LEFT) and self.kind != NETWORK


class Outcome(NamedTuple):
    """The tree to write and what became of the changes."""

    tree: Node
    followed: int  # names the image changed
    kept: int  # names the host changed
    merged: int  # names both changed, without a conflict
    conflicts: Tuple[Conflict, ...]


class Rules(NamedTuple):
    """What a merge has to know besides the trees."""

    identity: Paths = Paths(())
    is_foreign: bool = False  # the new image is of another distribution
    merged_users: Dict[str, Tuple[bytes, Tuple[str, ...]]] = {}  # file -> content, entries in conflict
    is_in_image: Callable[[str], bool] = lambda path: True  # whether an absolute path leads somewhere in the new image


_FOREIGN = Paths(NOT_CARRIED)
_ALONE = Paths(NO_COPY_BESIDE)

_Three = Tuple[Optional[Node], Optional[Node], Optional[Node]]


def merge_trees(base: Node, ours: Node, theirs: Node, rules: Rules) -> Outcome:
    """Merge three directories, their owners brought to the merged numbers. Raises Vanished, HostError EtcReadFailed."""
    merge = _Merge(rules)
    tree = merge.directory("", (base, ours, theirs))
    assert tree is not None  # all three are directories
    return Outcome(tree, merge.followed, merge.kept, merge.merged, tuple(merge.conflicts))


class _Merge(object):
    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.followed = self.kept = self.merged = 0
        self.conflicts: List[Conflict] = []

    def _note(self, path: str, kind: str, action: str) -> None:
        self.conflicts.append(Conflict(shown(path), kind, action))

    # --- directories

    def directory(self, path: str, three: _Three) -> Optional[Node]:
        """The merged directory; None where it is to be gone and nothing in it holds it."""
        base, ours, theirs = three
        children = self._children(path, three)
        is_wanted = (theirs is not None) if (ours is None) == (base is None) else ours is not None
        if not is_wanted and not children:
            return None
        known = next(each for each in (ours, theirs, base) if each is not None)
        meta = known.meta if ours is None and theirs is None else merge_meta(base, ours, theirs)
        node = Node(DIRECTORY, meta, known.path, mtime=known.mtime, children=children)
        for name, child in children.items():
            if theirs is None or name not in theirs.children:
                self._relabel(child, None if ours is None else ours.meta, meta)
        return node

    def _relabel(self, node: Node, was_parent: Optional[Meta], parent: Meta) -> None:
        before, node.meta = node.meta, relabelled(node.meta, was_parent, parent)
        for child in node.children.values():
            self._relabel(child, before, node.meta)

    def _children(self, path: str, three: _Three) -> Dict[str, Node]:
        tables = [{} if each is None else each.children for each in three]
        if kind_of(path) == "runlevels":
            tables = _by_service(tables)
        merged: Dict[str, Node] = {}
        beside: Dict[str, Node] = {}
        for name in sorted(set().union(*tables)):
            here = path + "/" + name if path else name
            child, copy = self._name(here, (tables[0].get(name), tables[1].get(name), tables[2].get(name)))
            if child is not None:
                merged[name] = child
            if copy is not None:
                beside[name] = copy
        for name, copy in beside.items():
            merged[_name_beside(name, tables, merged)] = copy
        return merged

    # --- one name

    def _name(self, path: str, three: _Three) -> Tuple[Optional[Node], Optional[Node]]:
        """(what the name is, what is to lie beside it)."""
        base, ours, theirs = three
        if self._rules.identity.covers(path):
            return ours, None
        kind = kind_of(path)
        if self._rules.is_foreign and _FOREIGN.covers(path):
            if ours is not None and not _is_same_tree(ours, base) and not _is_same_tree(ours, theirs):
                self._note(path, kind, LEFT)
            return self._with_identity(path, ours, theirs), None
        if all(each is None or each.is_directory for each in three):
            return self.directory(path, three), None
        if kind == "fresh" or (kind == "image" and (base is not None or theirs is not None)):
            return self._with_identity(path, ours, theirs), None
        if kind == "users" and path in self._rules.merged_users and ours is not None and theirs is not None:
            return self._user_database(path, three), None
        return self._leaf(path, kind, three)

    def _leaf(self, path: str, kind: str, three: _Three) -> Tuple[Optional[Node], Optional[Node]]:
        base, ours, theirs = three
        is_alike = _is_same_link if kind == "links" else _is_same_tree
        if is_alike(ours, base) and not self._holds_identity(path, ours):
            self.followed += 0 if _is_same_tree(theirs, base) else 1
            if theirs is None:
                return None, None
            if ours is not None and base is not None and ours.meta != base.meta:
                self.kept += 1
            return self._dressed(theirs, three), None
        if is_alike(ours, theirs):
            return (None, None) if theirs is None else (self._dressed(theirs, three), None)
        if kind == "choices" and ours is not None and theirs is not None and not self._is_usable(ours):
            self._note(path, kind, DROPPED)
            return theirs, None
        if ours is None or theirs is None or is_alike(theirs, base):
            self.kept += 1
            return (None, None) if ours is None else (self._dressed(ours, three), None)
        if ours.kind == theirs.kind == FILE:
            merged = self._merged(path, kind, base, ours, theirs)
            if merged is not None:
                return merged
        if kind == "local":
            self.kept += 1
            return ours, None
        is_alone = kind in _UNCOPIED or _ALONE.covers(path)
        self._note(path, kind, KEPT if is_alone else BESIDE)
        return self._dressed(ours, three), None if is_alone else _harmless(theirs)

    def _merged(
        self, path: str, kind: str, base: Optional[Node], ours: Node, theirs: Node
    ) -> Optional[Tuple[Optional[Node], Optional[Node]]]:
        before = base if base is not None and base.kind == FILE else Node(FILE, data=b"")
        was, mine, new = (each.read(kinds.LIMIT) for each in (before, ours, theirs))
        if was is None or mine is None or new is None:
            return None
        try:
            done = kinds.merge(kind, was, mine, new)
        except NotMergeable:
            return None
        node = Node(FILE, self._dressed(ours, (base, ours, theirs)).meta, data=done.content)
        node.mtime = ours.mtime if done.content == mine else theirs.mtime
        if not done.conflicts:
            self.merged += 1
            return node, None
        is_alone = _ALONE.covers(path)
        self._note(path, kind, "%s: %s" % (KEPT if is_alone else BESIDE, shown(", ".join(done.conflicts))[:300]))
        return node, None if is_alone else _harmless(theirs)

    def _user_database(self, path: str, three: _Three) -> Node:
        base, ours, theirs = three
        assert ours is not None  # who calls has seen both
        assert theirs is not None
        content, clashes = self._rules.merged_users[path]
        for name in clashes:
            self._note(path, "users", "%s: %s" % (KEPT, shown(name)))
        limit = max(ours.size, theirs.size)
        if content == theirs.read(limit):
            self.followed += 0 if _is_same_tree(theirs, base) else 1
        elif content == ours.read(limit):
            self.kept += 1
        else:
            self.merged += 1
        return Node(FILE, self._dressed(ours, three).meta, data=content, mtime=ours.mtime)

    def _dressed(self, chosen: Node, three: _Three) -> Node:
        """`chosen` with the attributes of all three, where they are one sort of thing."""
        base, ours, theirs = three
        if ours is None or theirs is None or ours.kind != theirs.kind or chosen.is_directory:
            return chosen.dressed(chosen.meta)
        meta = merge_meta(base if base is not None and base.kind == ours.kind else None, ours, theirs)
        return chosen.dressed(meta if chosen is theirs else unprivileged(meta, ours.meta))

    # --- what holds for some names only

    def _is_usable(self, link: Node) -> bool:
        return link.kind != LINK or link.target == _MASK or self._rules.is_in_image(link.target)

    def _holds_identity(self, path: str, node: Optional[Node]) -> bool:
        """Whether something below `path` belongs to the host, so that nothing else may take its place."""
        if node is None or not node.is_directory:
            return False
        return any(
            self._rules.identity.covers(path + "/" + name) or self._holds_identity(path + "/" + name, child)
            for name, child in node.children.items()
        )

    def _with_identity(self, path: str, ours: Optional[Node], theirs: Optional[Node]) -> Optional[Node]:
        """The image's tree, but for what is the host's in it."""
        if self._rules.identity.covers(path):
            return ours
        if theirs is None and not self._holds_identity(path, ours):
            return None
        if any(each is not None and not each.is_directory for each in (ours, theirs)):
            return ours if self._holds_identity(path, ours) else theirs
        known = theirs or ours
        assert known is not None  # one of them holds something
        names = set() if ours is None else set(ours.children)
        names |= set() if theirs is None else set(theirs.children)
        node = known.dressed(known.meta)
        node.children = {}
        for name in sorted(names):
            child = self._with_identity(
                path + "/" + name,
                None if ours is None else ours.children.get(name),
                None if theirs is None else theirs.children.get(name),
            )
            if child is not None:
                node.children[name] = child
        return node


def _is_same_tree(one: Optional[Node], other: Optional[Node]) -> bool:
    """Whether two names have the same content, all the way down."""
    if one is None or other is None:
        return one is other
    if not one.is_same(other) or one.children.keys() != other.children.keys():
        return False
    return all(_is_same_tree(child, other.children[name]) for name, child in one.children.items())


def _is_same_link(one: Optional[Node], other: Optional[Node]) -> bool:
    """The same for links that say on or off: the unit counts, not how the link spells the way to it."""
    if one is not None and other is not None and one.kind == other.kind == LINK:
        is_masked = _MASK in (one.target, other.target)
        return one.target == other.target if is_masked else _last(one.target) == _last(other.target)
    return _is_same_tree(one, other)


def _last(target: str) -> str:
    return target.rstrip("/").rpartition("/")[2]


def _harmless(node: Node) -> Node:
    """The image's version as it lies beside the host's: nothing that runs it may take it for a program."""
    if node.kind != FILE:
        return node
    return node.dressed(node.meta._replace(mode=node.meta.mode & 0o666))


def _name_beside(name: str, tables: List[Dict[str, Node]], taken: Dict[str, Node]) -> str:
    """NAME.new; or NAME.new.1 and so on where that is a file of the host's own, not one of an earlier merge."""
    base, _, theirs = (table.get(name) for table in tables)
    number = 0
    while True:
        candidate = name + ".new" + (".%d" % number if number else "")
        held = taken.get(candidate)
        if held is None or _is_same_tree(held, base) or _is_same_tree(held, theirs):
            return candidate
        number += 1


def _by_service(tables: List[Dict[str, Node]]) -> List[Dict[str, Node]]:
    """The tables, such that a service the host turned on or off keeps its links whatever number the image gives it."""
    states: List[Dict[str, List[str]]] = []
    for table in tables:
        states.append({})
        for name in table:
            states[-1].setdefault(_service(name), []).append(name)
    base, ours, theirs = states
    fixed = [dict(table) for table in tables]
    for service in set(ours) | set(base):
        mine = ours.get(service, [])
        if mine == base.get(service, []):
            continue
        for side in (0, 2):  # as if the image had never had another opinion than the host
            for name in states[side].get(service, []):
                del fixed[side][name]
            fixed[side].update({name: tables[1][name] for name in mine})
    return fixed


def _service(name: str) -> str:
    return name[3:] if name[:1] in ("S", "K") and name[1:3].isdecimal() else name
