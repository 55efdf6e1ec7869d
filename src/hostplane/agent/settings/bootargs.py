"""The extra kernel arguments of both slots: two copies, args1 and args2, beside the boot state, as GRUB reads them.

Each copy is a GRUB environment block (envblock.py) of seq, A_args, B_args, end. args1 counts before args2, and without
an intact one a slot has no extra arguments. A power cut leaves the old arguments or the new ones.
A host without these files was not built by us (docs/reference/boot.md).
"""

from typing import Callable, NamedTuple, Optional

from hostplane.agent.envblock import BLOCK_SIZE, TwoCopies, next_seq, pack, unpack
from hostplane.errors import HostError

__all__ = ["ArgsFiles", "BootArgs", "choose", "parse", "render"]


class BootArgs(NamedTuple):
    """What both copies say: words with single blanks between them."""

    seq: int = 0
    a: str = ""
    b: str = ""

    def of(self, slot: str) -> str:
        """The arguments of `slot`, one a line."""
        return "".join(word + "\n" for word in (self.a if slot == "A" else self.b).split())

    def with_slot(self, slot: str, lines: str) -> "BootArgs":
        """The same with `lines`, one argument a line, for `slot`, and the next `seq`."""
        words = " ".join(lines.split())
        return self._replace(seq=next_seq(self.seq), **{slot.lower(): words})


def render(state: BootArgs) -> bytes:
    """The bytes of one copy. Raises HostError BootArgumentsTooLong."""
    block = pack(state.seq, (("A_args", state.a), ("B_args", state.b)))
    if len(block) > BLOCK_SIZE:
        raise HostError("BootArgumentsTooLong", size=len(block), limit=BLOCK_SIZE)
    return block


def parse(block: bytes) -> Optional[BootArgs]:
    """What one copy says; None when it is torn or no such block at all."""
    values = unpack(block, BLOCK_SIZE)
    return BootArgs(int(values["seq"]), values.get("A_args", ""), values.get("B_args", "")) if values else None


def choose(args1: bytes, args2: bytes) -> BootArgs:
    """What the loader goes by."""
    return parse(args1) or parse(args2) or BootArgs()


class ArgsFiles(object):
    """The two copies in `directory`. `guard` is called before every write and may refuse it."""

    def __init__(self, directory: str, guard: Callable[[], None]) -> None:
        self._copies = TwoCopies(directory, "args", guard)

    @property
    def are_there(self) -> bool:
        """Whether this host's loader reads them."""
        return self._copies.are_there

    def read(self) -> BootArgs:
        """What the loader would go by now."""
        return choose(*self._copies.load())

    def set(self, slot: str, lines: str) -> None:
        """Make `lines`, one a line, the arguments of `slot`; nothing is written where both copies say so already.

        Raises:
            HostError: as `write`.
        """
        first, second = (parse(block) for block in self._copies.load())
        if first is None or first != second or first.of(slot) != lines:
            self.write(self.read().with_slot(slot, lines))

    def write(self, state: BootArgs) -> None:
        """Both copies; a cut at any instant leaves the old or the new arguments.

        Raises:
            HostError: BootArgumentsTooLong, SettingWriteFailed, or what the guard raises.
        """
        try:
            self._copies.write(render(state))
        except OSError as fault:
            raise HostError("SettingWriteFailed", path=fault.filename, detail=fault.strerror) from fault
