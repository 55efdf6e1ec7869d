"""Reads the three trees, merges them and puts the outcome on PERSIST: the one place where the parts of /etc meet.

It runs twice for an upgrade: as a preview while the host goes on working, and for good after the drain, right before
the reboot, so that late edits count. It knows nothing of phases, grants or the boot state.
"""

import os
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple, TypeVar

from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

from . import build, kinds, owners
from .attributes import renumbered_tree
from .compare import compare
from .network import Carried, carry, hardware
from .node import FILE, Node, Vanished, read_tree, shown
from .plan import NETWORK, Conflict, Outcome, Rules, merge_trees
from .rules import Paths
from .users import FILES, Moved, UsersMerge, merge_users
from .views import Images, read_os_id, see

__all__ = ["KEEP", "STOP", "EtcReport", "Merge", "contents", "differences", "merge_images", "prepare", "preview"]

KEEP, STOP = "keep", "stop"
_Result = TypeVar("_Result")
_ATTEMPTS = 3  # a program that writes below /etc while it is read costs one
_PATH, _ACTION = 1024, 256  # letters, as the report's schema has it
_TREES_OF_PERSIST = ("etc", "home", "opt", "root", "srv", "usr/local", "var")


class EtcReport(NamedTuple):
    """What a merge did, or would do; paths are below /etc, each list without an end of its own."""

    merged: int = 0
    kept: int = 0
    conflicts: Tuple[Tuple[str, str, str], ...] = ()
    followed: int = 0
    moved: Tuple[Moved, ...] = ()


class Merge(NamedTuple):
    """The merged tree with what else has to be known to put it to use."""

    outcome: Outcome
    users: UsersMerge
    network: Carried = Carried()

    @property
    def report(self) -> EtcReport:
        done = self.outcome
        found = _of_network(self.network) + done.conflicts
        conflicts = tuple((each.path[:_PATH], each.kind, each.action[:_ACTION]) for each in found)
        return EtcReport(done.merged, done.kept, conflicts, done.followed, tuple(self.users.moved))


def preview(host: HostRoot, active: str, target: str) -> EtcReport:
    """What `prepare` would do; changes nothing, and nothing is done on a host without a tree per slot.

    Raises:
        HostError: EtcImageUnreadable, EtcReadFailed, EtcChanging.
    """
    live = _live(host, active)
    if live is None:
        return EtcReport()
    return _steadily(host, target, lambda images: merge_images(live, images, _hardware(host)).report)


def prepare(host: HostRoot, active: str, target: str, policy: str) -> EtcReport:
    """Make the /etc of the slot `target` from the running one and both images'. Safe to cut and to repeat.

    Raises:
        HostError: EtcConflicts under the policy "stop", EtcPolicyUnknown, EtcImageUnreadable, EtcReadFailed,
            EtcChanging, EtcWriteFailed, NetworkNotCarried, OwnersUnsettled, VetoedByHost. The slot's former tree is
            then what it was.
    """
    if policy not in (KEEP, STOP):
        raise HostError("EtcPolicyUnknown", policy=policy[:64] or '""')
    live = _live(host, active)
    if live is None:
        return EtcReport()
    host.refuse_if_vetoed()
    owners.refuse_unsettled(host, active)

    def work(images: Images) -> EtcReport:
        merge = merge_images(live, images, _hardware(host))
        fault = merge.network.fault
        if fault is not None and host.config.network_policy == STOP:
            raise HostError("NetworkNotCarried", path=shown(fault.path), detail=shown(fault.detail)[:300])
        blocking = [each for each in merge.outcome.conflicts if each.is_blocking]
        if policy == STOP and blocking:
            raise HostError("EtcConflicts", count=len(blocking), paths=_named(blocking))
        if merge.users.moved:
            owners.note(host, active, merge.users.moved, images)
        build.put(merge.outcome.tree, host.path("persist/etc"), target, host.refuse_if_vetoed)
        return merge.report

    return _steadily(host, target, work)


def differences(host: HostRoot, active: str) -> List[Tuple[str, str]]:
    """What the host changed in its /etc: (A added, D deleted, M modified; path below /etc), sorted by path.

    Raises:
        HostError: EtcReadFailed, EtcImageUnreadable.
    """
    live = _live(host, active)
    if live is None:
        return []

    def work(images: Images) -> List[Tuple[str, str]]:
        return compare(_read(os.path.join(images.running, "etc"), active), _read(live, active))

    return _steadily(host, "", work)


def contents(host: HostRoot, active: str, path: str) -> Tuple[Optional[bytes], Optional[bytes]]:
    """The file `path` (below /etc) in the running image and on the host; None where there is no such file.

    Raises:
        HostError: EtcReadFailed where neither has it, or it is larger than what is merged; EtcImageUnreadable.
    """
    live = _live(host, active)
    relative = os.path.normpath(path[len("/etc/") :] if path.startswith("/etc/") else path)

    def work(images: Images) -> Tuple[Optional[bytes], Optional[bytes]]:
        found = []
        for top in (os.path.join(images.running, "etc"), live or ""):
            node = read_tree(os.path.join(top, relative))
            found.append(node.read(kinds.LIMIT) if node is not None and node.kind == FILE else None)
        return found[0], found[1]

    if live is None or relative.startswith(("/", "..")):
        raise HostError("EtcReadFailed", path=shown(path), detail="it is not below the /etc of a slot")
    both = _steadily(host, "", work)
    if both == (None, None):
        raise HostError("EtcReadFailed", path=shown(path), detail="neither the image nor the host has such a file")
    return both


def _hardware(host: HostRoot) -> Dict[str, str]:
    return hardware(host.path("sys/class/net"))


def _of_network(carried: Carried) -> Tuple[Conflict, ...]:
    """What became of the network's settings, for the report: what cannot be told first."""
    fault = carried.fault
    if fault is not None:
        words = "cannot be told to the new image, which stops the upgrade unless networkPolicy is keep: "
        return (Conflict(shown(fault.path), NETWORK, words + shown(fault.detail)),)
    return tuple(
        Conflict(shown(path), NETWORK, "told to the new image as %s" % carried.format) for path in carried.sources
    )


def _live(host: HostRoot, active: str) -> Optional[str]:
    """The running slot's tree on PERSIST; None where the host has no such thing (another installer, a simulation)."""
    path = host.path("persist/etc/" + active)
    return path if os.path.isdir(path) and not os.path.islink(path) else None


def _steadily(host: HostRoot, target: str, work: Callable[[Images], _Result]) -> _Result:
    path = ""
    for _ in range(_ATTEMPTS):
        try:
            return see(host, target, work)
        except Vanished as fault:
            path = shown(str(fault))
    raise HostError("EtcChanging", path=path)


def _named(conflicts: List[Conflict]) -> str:
    names = [each.path for each in conflicts[:3]]
    return ", ".join(names) + (", ..." if len(conflicts) > len(names) else "")


def merge_images(live: str, images: Images, macs: Optional[Dict[str, str]] = None) -> Merge:
    """Merge the trees as they are now; `macs`: the hardware's addresses by interface.

    Raises Vanished, HostError EtcReadFailed, EtcImageUnreadable.
    """
    base, theirs = (_read(os.path.join(root, "etc"), root) for root in images)
    ours = _read(live, live)
    users = merge_users(_user_files(base, ours, theirs))
    for tree, numbers in zip((base, ours, theirs), users.numbers):
        renumbered_tree(tree, numbers)
    before, after = read_os_id(images.running), read_os_id(images.new)
    rules = Rules(
        Paths(_identity(images.running) + _identity(images.new)),
        before is not None and after is not None and before != after,
        {
            name: (content, tuple(entry for file, entry in users.conflicts if file == name))
            for name, content in users.files.items()
        },
        lambda path: _is_in_image(path, images.new),
    )
    outcome, carried = merge_trees(base, ours, theirs, rules), Carried()
    if rules.is_foreign:
        carried = carry(base, ours, outcome.tree, images.running, images.new, macs or {})
    return Merge(outcome, users, carried)


def _read(path: str, slot: str) -> Node:
    tree = read_tree(path)
    if tree is None or not tree.is_directory:
        raise HostError("EtcImageUnreadable", slot=slot, detail="there is no directory /etc in it")
    return tree


def _user_files(base: Node, ours: Node, theirs: Node) -> Dict[str, Tuple[bytes, bytes, bytes]]:
    """The user databases that are plain files on both sides; the image may have lacked one."""
    found: Dict[str, Tuple[bytes, bytes, bytes]] = {}
    for name in FILES:
        nodes = [tree.children.get(name) for tree in (base, ours, theirs)]
        if any(node is None or node.kind != FILE for node in nodes[1:]):
            continue
        contents = [b"" if node is None or node.kind != FILE else node.read(kinds.LIMIT) for node in nodes]
        if contents[0] is not None and contents[1] is not None and contents[2] is not None:
            found[name] = (contents[0], contents[1], contents[2])
    return found


def _identity(root: str) -> List[str]:
    try:
        with open(os.path.join(root, "usr/lib/hostplane/identity"), encoding="utf-8", errors="replace") as handle:
            return handle.read().split()
    except OSError:
        return []


def _is_in_image(path: str, root: str) -> bool:
    """Whether a link to the absolute `path` leads somewhere in the new image; what PERSIST holds is not looked at."""
    relative = os.path.normpath(path).lstrip("/")
    if not path.startswith("/") or any((relative + "/").startswith(tree + "/") for tree in _TREES_OF_PERSIST):
        return True
    return os.path.lexists(os.path.join(root, relative))
