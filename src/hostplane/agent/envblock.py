"""What the loader and the agent share on disk: a GRUB environment block of variables, kept in two copies.

Each copy is 1024 bytes, framed by `seq` and `end`: a copy where they differ is torn. They are written in place (no
truncate, no rename: block addresses never change, so the loader needs no journal), and first the one that does not
count: the second, or the first where that is torn already. So a power cut leaves what was or what is to be. What the
variables mean is bootstate's and settings/bootargs' matter.
"""

import os
from typing import Callable, Dict, Iterable, Set, Tuple

__all__ = ["BLOCK_SIZE", "TwoCopies", "next_seq", "pack", "unpack"]

BLOCK_SIZE = 1024
_HEADER = b"# GRUB Environment Block\n"
_SEQ_DIGITS = 15


def next_seq(seq: int) -> int:
    """The number of the state that comes after `seq`; it starts anew before it has too many digits to be read."""
    return seq + 1 if seq + 1 < 10**_SEQ_DIGITS else 1


def pack(seq: int, variables: Iterable[Tuple[str, object]]) -> bytes:
    """The bytes of one copy; more than BLOCK_SIZE where the variables do not fit."""
    framed = [("seq", seq)] + list(variables) + [("end", seq)]
    text = _HEADER + b"".join(("%s=%s\n" % one).encode("ascii") for one in framed)
    return text.ljust(BLOCK_SIZE, b"#")


def unpack(block: bytes, size: int) -> Dict[str, str]:
    """The variables in the first `size` bytes of one copy, `seq` a count; none when it is torn or no such block."""
    if len(block) < size or not block.startswith(_HEADER):
        return {}
    values: Dict[str, str] = {}
    for line in block[len(_HEADER) : size].decode("ascii", "replace").split("\n"):
        name, equals, value = line.partition("=")
        if line.startswith("#") or not equals:
            break
        values[name] = value
    seq = values.get("seq", "")
    return values if 0 < len(seq) <= _SEQ_DIGITS and seq.isdecimal() and values.get("end") == seq else {}


class TwoCopies(object):
    """The files `name`1 and `name`2 in `directory`. `guard` is called before every write and may refuse it."""

    def __init__(self, directory: str, name: str, guard: Callable[[], None]) -> None:
        self._paths = tuple(os.path.join(directory, name + number) for number in "12")
        self._guard = guard
        self._doubted: Set[str] = set()  # written, but perhaps only into memory

    @property
    def are_there(self) -> bool:
        """Whether there is any."""
        return any(os.path.exists(path) for path in self._paths)

    def load(self) -> Tuple[bytes, bytes]:
        """Both, as they are; empty where there is none, or none that can be read."""
        first, second = self._paths
        return _load(first), _load(second)

    def write(self, block: bytes) -> None:
        """Make both so; what is so already is not written.

        Raises:
            OSError: one cannot be written; its `filename` says which.
            HostError: what the guard raises.
        """
        is_first_torn = not unpack(_load(self._paths[0]), BLOCK_SIZE)
        for path in self._paths if is_first_torn else reversed(self._paths):
            if _load(path) == block and path not in self._doubted:
                continue
            self._guard()
            self._doubted.add(path)
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
                try:
                    os.pwrite(descriptor, block, 0)
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as fault:
                raise OSError(fault.errno, fault.strerror, path) from fault
            self._doubted.discard(path)


def _load(path: str) -> bytes:
    """A copy; nothing where it cannot be read, as the loader takes it."""
    try:
        return _content(path)
    except OSError:
        return b""


def _content(path: str) -> bytes:
    with open(path, "rb") as block:
        return block.read(BLOCK_SIZE)
