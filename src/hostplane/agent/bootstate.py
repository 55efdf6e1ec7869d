"""The boot state: which slot the loader tries first, which is proven, and how many tries an unproven one has left.

Two copies (env1, env2) of one GRUB environment block (envblock.py), with everything that matters in the first 512
bytes: one sector, hence written whole or not at all. The loader reads env1 if it is intact, else env2, else assumes two
proven slots, A first.

    boot order "B A", B_ok=0, B_left=3     B is on trial: tried three times, then A
    B_left=0 while B runs                  B lives; whatever ends this boot now leads back to A
    B_ok=1                                 B is proven: booted without a write

The format is frozen for ever: an old loader and a new agent always meet. Everything but `BootFiles` is pure, and the
simulated loader decides with the same `plan_boot`.
"""

from typing import Callable, NamedTuple, Optional, Tuple

from hostplane.errors import HostError

from .envblock import TwoCopies, next_seq, pack, unpack

__all__ = [
    "DEFAULT",
    "SLOTS",
    "BootFiles",
    "BootState",
    "choose",
    "other",
    "parse",
    "plan_boot",
    "render",
]

SLOTS = ("A", "B")
_SECTOR = 512
_FLAGS, _TRIES = ("0", "1"), tuple("0123456789")


def other(slot: str) -> str:
    """The slot that is not `slot`."""
    return "B" if slot == "A" else "A"


class BootState(NamedTuple):
    """What both copies say. `first` heads the boot order; the tries are 0 to 9."""

    seq: int = 0
    first: str = "A"
    a_ok: bool = True
    a_left: int = 0
    b_ok: bool = True
    b_left: int = 0

    def is_ok(self, slot: str) -> bool:
        """Whether `slot` is proven."""
        return self.a_ok if slot == "A" else self.b_ok

    def left(self, slot: str) -> int:
        """Tries left for `slot`."""
        return self.a_left if slot == "A" else self.b_left

    def with_slot(self, slot: str, ok: bool, left: int) -> "BootState":
        """The same with `slot` so and the next `seq`."""
        if slot == "A":
            return self._replace(seq=next_seq(self.seq), a_ok=ok, a_left=left)
        return self._replace(seq=next_seq(self.seq), b_ok=ok, b_left=left)


DEFAULT = BootState()


def render(state: BootState) -> bytes:
    """The 1024 bytes of one copy."""
    variables = (
        ("order", "%s %s" % (state.first, other(state.first))),
        ("A_ok", int(state.a_ok)),
        ("A_left", state.a_left),
        ("B_ok", int(state.b_ok)),
        ("B_left", state.b_left),
    )
    return pack(state.seq, variables)


def parse(block: bytes) -> Optional[BootState]:
    """What one copy says; None when it is torn or not a boot state at all."""
    values = unpack(block, _SECTOR)
    order = values.get("order")
    if order not in ("A B", "B A"):
        return None
    flags = (values.get("A_ok"), values.get("B_ok"))
    tries = (values.get("A_left"), values.get("B_left"))
    if any(flag not in _FLAGS for flag in flags) or any(count not in _TRIES for count in tries):
        return None
    a_left, b_left = int(tries[0] or 0), int(tries[1] or 0)
    return BootState(int(values["seq"]), order[0], flags[0] == "1", a_left, flags[1] == "1", b_left)


def choose(env1: bytes, env2: bytes) -> BootState:
    """What the loader goes by: env1 if intact, else env2, else the compiled-in default."""
    return parse(env1) or parse(env2) or DEFAULT


def plan_boot(env1: bytes, env2: bytes) -> Tuple[Optional[str], Optional[bytes]]:
    """The slot a loader boots, and the block it writes to env2 and then env1 before that (None: no write).

    No slot (None) means the rescue entry: neither slot is proven nor has a try left. The loader cannot add, so `seq`
    stays as it is.
    """
    state = choose(env1, env2)
    for slot in (state.first, other(state.first)):
        if state.is_ok(slot):
            return slot, None
        if state.left(slot) > 0:
            return slot, render(state.with_slot(slot, False, state.left(slot) - 1)._replace(seq=state.seq))
    return None, None


class BootFiles(object):
    """The two copies on the boot-state file system. `guard` is called before every write and may refuse it."""

    def __init__(self, directory: str, guard: Callable[[], None]) -> None:
        self._copies = TwoCopies(directory, "env", guard)

    def read(self) -> BootState:
        """What the loader would go by now."""
        return choose(*self._copies.load())

    def write(self, state: BootState) -> None:
        """Both copies; a cut at any instant leaves the old or the new state. Writes nothing if both agree.

        Raises:
            HostError: BootStateWriteFailed, or what the guard raises.
        """
        try:
            self._copies.write(render(state))
        except OSError as fault:
            raise HostError("BootStateWriteFailed", path=fault.filename, detail=fault.strerror) from fault
