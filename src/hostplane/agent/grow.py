"""`hostplane-agent grow`: lets PERSIST fill the disk, which is mostly larger than the image that was written to it.

Three steps, each of which asks what is and does only what is missing: the partition table (gpt.py: safe to cut at any
instant), the kernel's idea of the partition, the file system (which grows mounted, by its own journal). So a cut leaves
work for the next boot and nothing else, and a boot with nothing to do writes nothing. PERSIST is only ever made larger,
and only where it is the disk's last partition.
"""

import array
import fcntl
import logging
import os
import struct
import subprocess
from typing import Callable, List, NamedTuple, Optional

from hostplane.errors import HostError

from . import gpt
from .hostroot import HostRoot

__all__ = ["Place", "find", "grow", "resize_in_kernel"]

_log = logging.getLogger("hostplane.agent")
_SECTOR = 512  # bytes: the unit of /sys, whatever the disk's own is
_BLKPG, _RESIZE_PARTITION = 0x1269, 3
_TOOL_SECONDS = 3600
_TOOLS = {"ext4": ("resize2fs", "{device}"), "xfs": ("xfs_growfs", "{mount}")}


class Place(NamedTuple):
    """Where PERSIST is."""

    mount: str
    kind: str  # of file system
    device: str
    disk: str
    number: int  # of the partition
    sectors: str  # the file of /sys that holds the partition's size
    sector_size: int  # bytes, of the disk


def find(host: HostRoot) -> Place:
    """Where PERSIST is, from what the kernel says.

    Raises:
        HostError: PersistNotMounted.
    """
    try:
        with open(host.path("proc/self/mountinfo")) as table:
            rows = [line.split() for line in table]
        numbers, kind = next(
            (row[2], row[row.index("-") + 1]) for row in rows if row[3] == "/" and row[4] == "/persist"
        )
        node = os.path.realpath(host.path("sys/dev/block/" + numbers))
        number = int(_line(os.path.join(node, "partition")))
        disk = os.path.dirname(node)
        size = int(_line(os.path.join(disk, "queue/logical_block_size")))
        return Place(
            host.path("persist"),
            kind,
            host.path("dev/" + _device_name(node)),
            host.path("dev/" + _device_name(disk)),
            number,
            os.path.join(node, "size"),
            size,
        )
    except (OSError, ValueError, StopIteration):
        raise HostError("PersistNotMounted") from None


def _line(path: str) -> str:
    with open(path) as file:
        return file.readline().strip()


def _device_name(node: str) -> str:
    with open(os.path.join(node, "uevent")) as file:
        return next(line[len("DEVNAME=") :].strip() for line in file if line.startswith("DEVNAME="))


def resize_in_kernel(disk: str, number: int, start: int, length: int) -> None:
    """Tell the kernel that a partition in use begins and reaches so far (bytes). Raises OSError."""
    partition = array.array("b", struct.pack("@qqi64s64s", start, length, number, b"", b""))
    request = struct.pack("@iiiP", _RESIZE_PARTITION, 0, len(partition), partition.buffer_info()[0])
    descriptor = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _BLKPG, request)
    finally:
        os.close(descriptor)


def _run(command: List[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_TOOL_SECONDS, check=False)
    if done.returncode:
        raise HostError("GrowFailed", detail=done.stdout.decode("utf-8", "replace").strip()[-400:] or command[0])


def grow(
    host: HostRoot,
    tell_kernel: Callable[[str, int, int, int], None] = resize_in_kernel,
    run: Callable[[List[str]], None] = _run,
) -> Optional[int]:
    """Let PERSIST reach the end of its disk; gives its new size in bytes, None when there was nothing to grow.

    Raises:
        HostError: PersistNotMounted, GrowFailed, PartitionTableUnreadable, PartitionTableInvalid, VetoedByHost.
    """
    place = find(host)
    try:
        table = gpt.read_disk(place.disk, place.sector_size).table
        if table.last.number != place.number:
            return None
        last = gpt.grow_disk(place.disk, host.refuse_if_vetoed, place.sector_size) or table.last
        length = (last.last - last.first + 1) * place.sector_size
        is_longer = length > int(_line(place.sectors)) * _SECTOR
        if is_longer:
            tell_kernel(place.disk, place.number, last.first * place.sector_size, length)
        tool, argument = _TOOLS.get(place.kind, ("", ""))
        if tool:  # also when the partition was long enough: an earlier boot may have been cut before this step
            run([tool, argument.format(device=place.device, mount=place.mount)])
    except (OSError, ValueError, subprocess.SubprocessError) as fault:
        raise HostError("GrowFailed", detail=str(fault)) from fault
    if is_longer:
        _log.info("PERSIST has %d MiB now", length >> 20)
    return length if is_longer else None
