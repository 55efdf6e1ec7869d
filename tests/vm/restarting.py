"""A machine that is started anew for every reboot of its guest, on the same disk.

QEMU without KVM is slow after a warm reboot: a kernel unpacked over the last one's code takes minutes (measured with
7.2: more than five, against half a minute), since what was translated of it is given up store by store.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from hostplane.errors import LocalError
from hostplane.image.recipe import Firmware
from hostplane.local.qemu import Machine, make_overlay

__all__ = ["Restarting", "rebooting"]


class Restarting:
    """What a test does with a `Machine`; `build` makes one whose guest's reboot ends it (reboots=False)."""

    def __init__(self, build: Callable[[], Machine]) -> None:
        self._build = build
        self._machine = build()
        self._said = ""

    @property
    def console(self) -> str:
        """What the first consoles of all of them said so far."""
        return self._said + self._machine.console

    def wait_for(self, pattern: str, timeout: float, *, unless: str | None = None) -> re.Match[str]:
        """`Machine.wait_for`, over as many reboots as it takes."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self._machine.wait_for(pattern, max(0.1, deadline - time.monotonic()), unless=unless)
            except LocalError as fault:
                if fault.reason.name != "ConsoleClosed":
                    raise
                self._restart(deadline)

    def send(self, line: str) -> None:
        self._machine.send(line)

    def wait_off(self, timeout: float) -> int:
        return self._machine.wait_off(timeout)

    def kill(self) -> None:
        self._machine.kill()

    def qmp(self, command: str, **arguments: object) -> Any:
        return self._machine.qmp(command, **arguments)

    def __enter__(self) -> Self:
        self._machine.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._machine.stop()

    def _restart(self, deadline: float) -> None:
        self._machine.wait_off(max(0.1, deadline - time.monotonic()))
        self._said = self.console
        self._machine.stop()
        self._machine = self._build()
        self._machine.start()


@contextmanager
def rebooting(
    disk: Path, firmware: Firmware = Firmware.BIOS, *, overlay: bool = True, **options: Any
) -> Iterator[Restarting]:
    """A machine, powered on, that keeps its disk and firmware variables over reboots; `options` are `Machine`'s.

    With `overlay`, `disk` itself stays as it is; other drives are written to.
    """
    with TemporaryDirectory(prefix="hostplane-upgrade-") as scratch:
        written = make_overlay(disk, Path(scratch) / "disk.qcow2") if overlay else disk
        kept: dict[str, Any] = {"overlay": False, "reboots": False, "variables": Path(scratch) / "variables.fd"}
        with Restarting(lambda: Machine(written, firmware, **kept, **options)) as machine:
            yield machine
