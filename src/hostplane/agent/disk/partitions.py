"""Which partitions this host's slots are: found by what they are, never by what they are called.

The way is: mount table -> device of the running root -> (through dm-verity or multipath) its partition -> its disk ->
that disk's partition table -> labels and GUIDs -> the kernel's own partitions of that disk. No digit of a device's name
is ever read: nvme2n1p3, sda23, dm-2 and mmcblk2p2 are names like any other. The root's GUID must be the one that the
kernel line names and its label that of the running slot; of each label there must be exactly one.

`check` is asked before the first byte of every staging and refuses what is not on that disk, mounted, held by another
driver, of another type, changed since the kernel read the table, read-only or too small. A host that is a directory has
plain files instead.
"""

import os
import stat
from typing import Dict, Iterator, List, NamedTuple, Tuple

from hostplane.agent import gpt
from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

__all__ = ["IMAGES", "Partition", "Partitions", "check", "find", "is_directory_host"]

IMAGES = ("boot", "root")
_SECTOR = 512  # bytes: the unit of /sys, whatever the disk's own is
_LABELS = ("BOOT-A", "BOOT-B", "ROOT-A", "ROOT-B", "BOOTSTATE", "PERSIST")
_TYPES = (
    "0fc63daf-8483-4772-8e79-3d69d8477de4",  # Linux file system: what the builder writes
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",  # root of x86-64
    "b921b045-1df0-41c3-af44-4c6f280d3fae",  # root of arm64
    "bc13c2ff-59e6-4262-a352-b275fd6f7172",  # extended boot loader
)


class Partition(NamedTuple):
    """One partition; `size` in bytes. A plain file has neither GUIDs, nor numbers (major:minor), nor a node of /sys."""

    label: str
    path: str
    size: int
    guid: str = ""
    type_guid: str = ""
    numbers: str = ""
    node: str = ""


class Partitions(NamedTuple):
    """The partitions of the running root's disk by label, and the disk. `active` is the slot that runs."""

    disk: str
    active: str
    by_label: Dict[str, Partition]

    def of(self, image: str, slot: str) -> Partition:
        """Where `image` (boot or root) of `slot` lies. Raises HostError PartitionMissing."""
        label = "%s-%s" % (image.upper(), slot)
        if label not in self.by_label:
            raise HostError("PartitionMissing", label=label, disk=self.disk)
        return self.by_label[label]


class _Device(NamedTuple):
    """A partition as the kernel has it: node of /sys, number in its disk, node of the disk."""

    node: str
    number: int
    disk: str


def is_directory_host(host: HostRoot) -> bool:
    """Whether the host is a directory whose slots are plain files."""
    if host.root == "/" or os.path.isdir(host.path("sys/dev/block")):
        return False
    try:
        return not stat.S_ISBLK(os.stat(host.path("dev/hostplane/ROOT-A")).st_mode)
    except OSError:
        return True


def find(host: HostRoot) -> Partitions:
    """The slots' partitions, BOOTSTATE and PERSIST, as far as they are there.

    Raises:
        HostError: ActiveSlotUnknown, RootDiskUnknown, PartitionMissing (the running root's own label),
            PartitionTableUnreadable.
    """
    active = host.active_slot()
    if is_directory_host(host):
        return _files(host, active)
    try:
        return _on_disk(host, active)
    except (OSError, ValueError, StopIteration) as fault:
        raise HostError("RootDiskUnknown", detail=str(fault) or type(fault).__name__) from fault


def check(host: HostRoot, partition: Partition, active: str, size: int) -> None:
    """Refuse `partition` for an image of `size` bytes unless it is idle, ours to write and large enough.

    Raises:
        HostError: SlotUnfit, PayloadTooLarge, VetoedByHost.
    """
    host.refuse_if_vetoed()
    if size > partition.size:
        raise HostError("PayloadTooLarge", size=size, room=partition.size)
    if partition.label in ("BOOT-" + active, "ROOT-" + active) or partition.label[:5] not in ("BOOT-", "ROOT-"):
        raise HostError("SlotUnfit", label=partition.label, path=partition.path, detail="it belongs to what runs")
    if partition.node:
        for detail in _objections(host, partition):
            raise HostError("SlotUnfit", label=partition.label, path=partition.path, detail=detail)


def _objections(host: HostRoot, partition: Partition) -> Iterator[str]:
    if partition.type_guid not in _TYPES:
        yield "its type is %s, which is none for a slot" % partition.type_guid
    if any(row[2] == partition.numbers for row in _mounts(host)):
        yield "it is mounted"
    if _line(os.path.join(partition.node, "dev")) != partition.numbers:
        yield "the kernel has made another device of it"
    holders = _listed(os.path.join(partition.node, "holders"))
    if holders:
        yield "it is held by %s" % ", ".join(holders)
    if os.path.exists(os.path.join(partition.node, "ro")) and _line(os.path.join(partition.node, "ro")) != "0":
        yield "it is read-only"
    try:
        with open(host.path("proc/swaps")) as table:
            used = [line.split()[0] for line in table.readlines()[1:]]
    except OSError:
        used = []
    if any(os.path.realpath(host.path(path.lstrip("/"))) == os.path.realpath(partition.path) for path in used):
        yield "it is swapped to"


def _files(host: HostRoot, active: str) -> Partitions:
    """A directory's slots; what a file may grow to is what the file system has free, or the configured size."""
    directory = host.path("dev/hostplane")
    found = {}
    for image in IMAGES:
        for slot in ("A", "B"):
            label = "%s-%s" % (image.upper(), slot)
            path = os.path.join(directory, label)
            found[label] = Partition(label, path, host.config.slot_bytes or _room(directory, path))
    return Partitions(directory, active, found)


def _room(directory: str, path: str) -> int:
    try:
        held = os.stat(path).st_blocks * 512
    except OSError:
        held = 0
    try:
        free = os.statvfs(directory)
    except OSError:
        return held
    return held + max(0, free.f_bavail * free.f_frsize - (10 << 20))


def _on_disk(host: HostRoot, active: str) -> Partitions:
    root = _root_device(host)
    sector_size = int(_line(os.path.join(root.disk, "queue/logical_block_size")))
    disk = _device_path(host, root.disk)
    table = gpt.read_disk(disk, sector_size).table
    entries: Dict[str, gpt.Partition] = {}
    for entry in table.partitions:
        if entry.name in _LABELS:
            if entry.name in entries:
                raise ValueError("%s has two partitions called %s" % (disk, entry.name))
            entries[entry.name] = entry
    own = "ROOT-" + active
    if own not in entries:
        raise HostError("PartitionMissing", label=own, disk=disk)
    want = _kernel_word(host, "hostplane.root=PARTUUID=")
    if entries[own].number != root.number or (want and entries[own].guid != want.lower()):
        raise ValueError("what runs is not the partition %s of %s that the kernel line names" % (own, disk))
    nodes = dict(_kernel_partitions(root.disk))
    found = {}
    for label, entry in entries.items():
        node = nodes.get(entry.number)
        if node is None:
            continue
        first, size = entry.first * sector_size, (entry.last - entry.first + 1) * sector_size
        start = os.path.join(node, "start")
        if int(_line(os.path.join(node, "size"))) * _SECTOR != size or (
            os.path.exists(start) and int(_line(start)) * _SECTOR != first
        ):
            raise ValueError("the kernel's %s of %s is not the one in the table; reboot" % (label, disk))
        numbers = _line(os.path.join(node, "dev"))
        found[label] = Partition(label, _device_path(host, node), size, entry.guid, entry.type_guid, numbers, node)
    return Partitions(disk, active, found)


def _root_device(host: HostRoot) -> _Device:
    """The partition under the running root, through whatever maps it one to one."""
    numbers = [row[2] for row in _mounts(host) if row[3] == "/" and row[4] == "/"]
    if not numbers:
        raise ValueError("no device is mounted as the root")
    node = os.path.realpath(host.path("sys/dev/block/" + numbers[-1]))
    for _ in range(8):
        if os.path.exists(os.path.join(node, "partition")):
            return _Device(node, int(_line(os.path.join(node, "partition"))), os.path.dirname(node))
        below = _listed(os.path.join(node, "slaves"))
        if len(below) != 1:
            raise ValueError("the root %s lies on %d devices" % (os.path.basename(node), len(below)))
        under = os.path.realpath(os.path.join(node, "slaves", below[0]))
        number = _mapped_number(node)
        if number:
            return _Device(node, number, under)
        node = under
    raise ValueError("the root lies too deep")


def _mapped_number(node: str) -> int:
    """The partition that a device-mapper node of a multipath disk is (uuid partN-...); 0 for anything else."""
    path = os.path.join(node, "dm/uuid")
    head = _line(path).partition("-")[0] if os.path.exists(path) else ""
    return int(head[4:]) if head.startswith("part") and head[4:].isdecimal() else 0


def _kernel_partitions(disk: str) -> List[Tuple[int, str]]:
    """(number, node) of each partition the kernel has of `disk`; of a multipath disk, those mapped from it."""
    found = []
    for name in _listed(disk):
        node = os.path.join(disk, name)
        if os.path.isfile(os.path.join(node, "partition")):
            found.append((int(_line(os.path.join(node, "partition"))), os.path.realpath(node)))
    for name in _listed(os.path.join(disk, "holders")):
        node = os.path.realpath(os.path.join(disk, "holders", name))
        if _mapped_number(node):
            found.append((_mapped_number(node), node))
    return found


def _mounts(host: HostRoot) -> List[List[str]]:
    with open(host.path("proc/self/mountinfo"), errors="surrogateescape") as table:
        return [line.split() for line in table]


def _kernel_word(host: HostRoot, head: str) -> str:
    with open(host.path("proc/cmdline"), errors="replace") as line:
        return next((word[len(head) :] for word in reversed(line.read().split()) if word.startswith(head)), "")


def _listed(directory: str) -> List[str]:
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def _line(path: str) -> str:
    with open(path) as file:
        return file.readline().strip()


def _device_path(host: HostRoot, node: str) -> str:
    with open(os.path.join(node, "uevent")) as file:
        name = next(line[len("DEVNAME=") :].strip() for line in file if line.startswith("DEVNAME="))
    return host.path("dev/" + name)
