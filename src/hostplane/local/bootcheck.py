"""Whether a built image boots: watches a machine's console until it shows a login and says how it is.

The word is the host's own, the line above its login prompt; nothing is guessed from kernel messages. Slow is not
wrong: only the deadline, the machine's end or GRUB's own "nothing left to boot" end the watching early.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import NamedTuple

from hostplane.errors import LocalError
from hostplane.local.serialport import SerialPort

__all__ = ["Booted", "find_disk", "watch"]

_LINE = r"Hostplane: slot (A|B|unknown) · (?P<image>.+?) · (?P<state>(?!starting\b).+?)[ \t]*\n"
_LOGIN = r"^\S.* login: ?$"
_LOST = "Hostplane: no slot can be booted by itself"
_DISKS = ("disk.raw", "disk.qcow2")


class Booted(NamedTuple):
    """How a boot ended."""

    slot: str
    image: str
    state: str
    """`healthy`, or everything that is wrong."""
    seconds: float

    @property
    def is_healthy(self) -> bool:
        """Whether nothing at all is wrong."""
        return self.state == "healthy"


def find_disk(out: Path) -> Path:
    """The disk at `out`: a file, or one in the directory that a build wrote.

    Raises:
        LocalError: DiskNotFound.
    """
    places = [out / name for name in _DISKS] if out.is_dir() else [out]
    for place in places:
        if place.is_file():
            return place
    raise LocalError("DiskNotFound", place=out, names=", ".join(_DISKS))


def watch(console: SerialPort, timeout: float) -> Booted:
    """Wait for the host's word about itself and for a login prompt, at most `timeout` seconds for both.

    Raises:
        LocalError: ConsoleTimeout, ConsoleClosed, or ConsoleSaidOtherwise when no slot could be booted.
    """
    start = time.monotonic()
    line = console.wait_for(_LINE, timeout, unless=_LOST)
    if not re.search(_LOGIN, console.text, re.MULTILINE):
        console.wait_for(_LOGIN, timeout - (time.monotonic() - start), unless=_LOST)
    return Booted(line[1], line["image"], line["state"], time.monotonic() - start)
