"""The extra kernel arguments of both slots: two copies, args1 and args2, beside the boot state, as GRUB reads them.

Each copy is a GRUB environment block of 1024 bytes in a block of its own file system: seq, A_args, B_args, end. A copy
counts where `end` equals `seq`; args1 counts before args2, and without either a slot has no extra arguments. They are
written in place (no truncate, no rename), args2 first, so that a power cut leaves the old arguments or the new ones.
A host without these files was not built by us (docs/reference/boot.md).
"""

import os
from typing import Callable, Dict, NamedTuple, Optional

from hostplane.errors import HostError

__all__ = ["BLOCK_SIZE", "ArgsFiles", "BootArgs", "choose", "parse", "render"]

BLOCK_SIZE = 1024
_HEADER = b"# GRUB Environment Block\n"


class BootArgs(NamedTuple):
    """What both copies say: words with single blanks between them."""

    seq: int = 0
    a: str = ""
    b: str = ""

    def of(self, slot: str) -> str:
        """The arguments of `slot`, one a line."""
        return "".join(word + "\n" for word in (self.a if slot == "A" else self.b).split())

    def with_slot(self, slot: str, lines: str) -> "BootArgs":
        """The same with `lines`, one argument a line, for `slot`; `seq` grows by one."""
        words = " ".join(lines.split())
        return self._replace(seq=self.seq + 1, **{slot.lower(): words})


def render(state: BootArgs) -> bytes:
    """The bytes of one copy. Raises HostError BootArgumentsTooLong."""
    values = (("seq", state.seq), ("A_args", state.a), ("B_args", state.b), ("end", state.seq))
    text = _HEADER + b"".join(("%s=%s\n" % value).encode("ascii") for value in values)
    if len(text) > BLOCK_SIZE:
        raise HostError("BootArgumentsTooLong", size=len(text), limit=BLOCK_SIZE)
    return text.ljust(BLOCK_SIZE, b"#")


def parse(block: bytes) -> Optional[BootArgs]:
    """What one copy says; None when it is torn or no such block at all."""
    if len(block) != BLOCK_SIZE or not block.startswith(_HEADER):
        return None
    values: Dict[str, str] = {}
    for line in block[len(_HEADER) :].decode("ascii", "replace").split("\n"):
        name, equals, value = line.partition("=")
        if line.startswith("#") or not equals:
            break
        values[name] = value
    seq = values.get("seq", "")
    if not (0 < len(seq) <= 15 and seq.isdigit()) or values.get("end") != seq:
        return None
    return BootArgs(int(seq), values.get("A_args", ""), values.get("B_args", ""))


def choose(args1: bytes, args2: bytes) -> BootArgs:
    """What the loader goes by."""
    return parse(args1) or parse(args2) or BootArgs()


class ArgsFiles(object):
    """The two copies in `directory`. `guard` is called before every write and may refuse it."""

    def __init__(self, directory: str, guard: Callable[[], None]) -> None:
        self._paths = (os.path.join(directory, "args1"), os.path.join(directory, "args2"))
        self._guard = guard

    @property
    def are_there(self) -> bool:
        """Whether this host's loader reads them."""
        return any(os.path.exists(path) for path in self._paths)

    def _load(self, path: str) -> bytes:
        try:
            with open(path, "rb") as block:
                return block.read(BLOCK_SIZE)
        except FileNotFoundError:
            return b""

    def read(self) -> BootArgs:
        """What the loader would go by now."""
        return choose(self._load(self._paths[0]), self._load(self._paths[1]))

    def set(self, slot: str, lines: str) -> None:
        """Make `lines`, one a line, the arguments of `slot`; nothing is written where both copies say so already.

        Raises:
            HostError: as `write`.
        """
        first, second = (parse(self._load(path)) for path in self._paths)
        if first is None or first != second or first.of(slot) != lines:
            self.write(self.read().with_slot(slot, lines))

    def write(self, state: BootArgs) -> None:
        """Both copies, args2 first.

        Raises:
            HostError: BootArgumentsTooLong, SettingWriteFailed, or what the guard raises.
        """
        block = render(state)
        for path in reversed(self._paths):
            self._guard()
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
                try:
                    os.pwrite(descriptor, block, 0)
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as fault:
                raise HostError("SettingWriteFailed", path=path, detail=fault.strerror) from fault
