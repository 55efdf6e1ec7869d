"""xfs without a mount: a prototype says what mkfs.xfs puts in, and what that cannot say is set in the finished image.

A prototype knows kinds, modes, owners and contents. Times, the sticky bit, extended attributes, capabilities, access
lists and labels are written into the inodes afterwards (`xfsinodes`), which needs no right and leaves nothing to
chance: under a stopped clock mkfs.xfs writes the same bytes for the same tree.

What it costs: a file of several names becomes several files. Refused: names that no prototype can be made to say, and
attributes too large for an inode.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from hostplane.errors import ImageError
from hostplane.image.disk.filesystems import xfsinodes
from hostplane.image.disk.filesystems.contents import walk, weigh
from hostplane.image.stage import Run

__all__ = ["LEAST", "make"]

_MIB = 1 << 20
LEAST = 300 * _MIB
"""mkfs.xfs makes nothing smaller."""
_LOG = 64 * _MIB
_GROUPS, _GROUPS_FITTED = 4, 2
"""Of allocation: few where all is nearly full, since a directory grows only within its own."""
_INODES = (512, 1024, 2048)
"""Bytes of an inode: the larger ones where attributes do not fit beside the data's place."""
_TRIES = 6
_FULL = ("[28 - ", "too small")
"""What mkfs.xfs says when the image is full, or the part of it where a directory has to grow; 28 is ENOSPC."""
_KINDS = {
    stat.S_IFDIR: "d",
    stat.S_IFREG: "-",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
}


def make(
    tree: Path,
    target: Path,
    *,
    size: int | None,
    label: str,
    uuid: str,
    options: tuple[str, ...],
    epoch: int,
    run: Run,
) -> int:
    """Make `target` an xfs image of `size` bytes (None: fitted to the tree, a multiple of 1 MiB); give its size.

    Modes, owners, device nodes, extended attributes, capabilities, access lists, labels and times of the last change
    (at most `epoch`, whole seconds) are carried over; all other times become `epoch`.

    Raises:
        ImageError: XfsNameUnfit, XfsAttributesUnfit, ContentTooLarge, ToolMissing, ToolFailed.
    """
    wanted, groups = size or _fitted(tree), _GROUPS
    if size is None:  # never written, so that room kept for its own indexes would be lost
        groups = _GROUPS_FITTED
        counted = {"inobtcount": "0"} if any("inobtcount" in word for word in options) else {}
        options = _with(options, "-m", finobt="0", reflink="0", rmapbt="0", **counted)
    options = _with(options, "-m", uuid=uuid)
    with TemporaryDirectory(dir=target.parent) as name:
        desk = Path(name)
        (desk / "tree").symlink_to(tree.absolute())
        with (desk / "prototype").open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
            lines.writelines(f"{line}\n" for line in _prototype(tree, desk))
        for inode_size in _INODES:
            words = [*_with(options, "-i", size=str(inode_size)), "-d", f"agcount={groups}", "-L", label[:12]]
            made = _fill(desk, target, wanted, size is None, words, epoch, run)
            if made is None:
                raise ImageError("ContentTooLarge", label=label, room=wanted // _MIB)
            try:
                xfsinodes.finish(target, tree, epoch)
                return made
            except ImageError as error:
                if error.name != "XfsAttributesUnfit" or inode_size == _INODES[-1]:
                    raise
    raise AssertionError("the last size of an inode returns or raises")


def _fill(desk: Path, target: Path, size: int, may_grow: bool, words: list[str], epoch: int, run: Run) -> int | None:
    """Make the image with what the desk holds; its size, which is larger than `size` where that was too little and it
    may grow. None: it does not fit."""
    when = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M:%S")
    command = ["faketime", "-f", when, "mkfs.xfs", "-q", "-f", *words]
    command += ["-l", f"internal=1,size={_LOG}", "-p", "prototype", str(target.absolute())]
    clock = {"TZ": "UTC", "NO_FAKE_STAT": "1", "SOURCE_DATE_EPOCH": str(epoch), "DETERMINISTIC_SEED": "1"}
    for _ in range(_TRIES if may_grow else 1):
        target.unlink(missing_ok=True)
        with target.open("wb") as image:
            image.truncate(size)
        try:
            run(command, env=clock, cwd=desk)
            return size
        except ImageError as error:
            tail = error.reason.params.get("tail")
            said = "\n".join(tail).lower() if isinstance(tail, list) else ""
            if not any(word in said for word in _FULL):
                raise
            size += max(_MIB, size // 25 // _MIB * _MIB)
    return None


def _fitted(tree: Path) -> int:
    weight = weigh(tree, 4096)
    blocks = weight.data_blocks + weight.inodes * 512 // 4096 + weight.inodes // 512 + weight.data_blocks // 100
    return max(LEAST, -(-(blocks * 4096 + _LOG + 8 * _MIB) // _MIB) * _MIB)


def _with(options: tuple[str, ...], flag: str, **values: str) -> tuple[str, ...]:
    """`options` with `values` among those that follow `flag`, which old versions take only once."""
    words = list(options) if flag in options else [*options, flag, ""]
    at = words.index(flag) + 1
    said = dict(word.split("=", 1) for word in words[at].split(",") if word)
    words[at] = ",".join(f"{name}={value}" for name, value in {**said, **values}.items())
    return tuple(words)


def _prototype(tree: Path, desk: Path) -> Iterator[str]:
    """The prototype's lines: one for each entry, `$` where a directory ends. Files are named from the directory `desk`,
    through a link there where their own path has a blank."""
    yield "/"
    yield "0 0"
    depth: list[str] = []
    for path, status in walk(tree):
        while depth and os.path.dirname(path) != depth[-1]:
            depth.pop()
            yield "$"
        name = os.path.basename(path) if depth else ""
        to = os.fsencode(os.readlink(path)) if stat.S_ISLNK(status.st_mode) else b""
        spelling, target = xfsinodes.spelled(os.fsencode(name)), xfsinodes.spelled(to)
        place = os.path.relpath(path, tree)
        if (depth and not spelling) or (to and not target):
            raise ImageError("XfsNameUnfit", path=place)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:  # a socket, which is nothing without the program that made it
            continue
        mode = status.st_mode
        bits = ("u" if mode & stat.S_ISUID else "-") + ("g" if mode & stat.S_ISGID else "-") + f"{mode & 0o777:03o}"
        line = f"{os.fsdecode(spelling or b'')} {kind}{bits} {status.st_uid} {status.st_gid}".lstrip(" ")
        if kind == "-":
            place = f"tree/{place}"
            if any(letter.isspace() for letter in place):
                link = desk / str(len(os.listdir(desk)))
                link.symlink_to(path)
                place = link.name
            line += f" {place}"
        elif kind == "l":
            line += f" {os.fsdecode(target or b'')}"
        elif kind in "cb":
            line += f" {os.major(status.st_rdev)} {os.minor(status.st_rdev)}"
        yield line
        if kind == "d":
            depth.append(path)
    for _ in depth:
        yield "$"
