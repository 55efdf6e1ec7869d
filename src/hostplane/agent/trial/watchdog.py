"""The watchdog of a trial: a device that reboots the host unless it is fed in time.

A device of the machine's is taken where there is one that can be stopped again, else the kernel's own (`softdog`). A
softdog that the initramfs has armed is taken over. Feeding stops with the process, whatever ends it; only `close`
stops the device, by the agreed last letter, and says whether it did: a kernel built to never stop a watchdog does not,
and then it has to be fed on. A device that somebody else holds (systemd's own) is left to them.
"""

import array
import fcntl
import logging
import os
import subprocess
from typing import Callable, List, NamedTuple, Optional

from .. import journal

__all__ = ["Device", "Dog", "Pack", "devices", "load_softdog", "open_pack"]

SOFTWARE = "Software Watchdog"
_SET_OPTIONS, _KEEP_ALIVE, _SET_TIMEOUT, _GET_TIMEOUT = 0x80045704, 0x80045705, 0xC0045706, 0x80045707
_DISABLE = 0x0001
_SHORTER = (1, 2, 4, 8)
_TOOL_SECONDS = 30.0


class Device(NamedTuple):
    """A watchdog as the kernel lists it."""

    path: str
    identity: str
    can_stop: bool
    is_running: bool


def devices(sysfs: str = "/sys/class/watchdog", dev: str = "/dev") -> List[Device]:
    """All of them, the machine's own before the kernel's."""
    try:
        names = sorted(os.listdir(sysfs))
    except OSError:
        names = []
    found = []
    for name in names:

        def said(attribute: str, name: str = name) -> str:
            try:
                with open(os.path.join(sysfs, name, attribute), encoding="ascii", errors="replace") as file:
                    return file.read().strip()
            except OSError:
                return ""

        is_running = said("state") == "active"
        found.append(Device(os.path.join(dev, name), said("identity"), said("nowayout") != "1", is_running))
    return sorted(found, key=lambda device: device.identity == SOFTWARE)


def load_softdog() -> None:
    """Have the kernel's own watchdog; where it has none, nothing happens."""
    try:
        subprocess.run(
            ["modprobe", "softdog", "nowayout=0"], stderr=subprocess.DEVNULL, timeout=_TOOL_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        pass


class Dog(object):
    """One open device."""

    def __init__(self, path: str, seconds: int, ioctl: Callable[..., int] = fcntl.ioctl) -> None:
        """Open it, which starts it. Raises OSError."""
        self.path, self._ioctl = path, ioctl
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self.seconds = self._set_timeout(seconds)

    def _set_timeout(self, seconds: int) -> int:
        """The time it has now: the one asked for, or the longest it takes of halves of that."""
        for part in _SHORTER:
            wish = array.array("i", [seconds // part])
            try:
                self._ioctl(self._descriptor, _SET_TIMEOUT, wish, True)
                return wish[0]
            except OSError:
                continue
        given = array.array("i", [0])
        try:
            self._ioctl(self._descriptor, _GET_TIMEOUT, given, True)
        except OSError:
            return 10  # unknown: fed as one of the short ones
        return given[0] or 10

    def feed(self) -> None:
        """It waits anew."""
        try:
            self._ioctl(self._descriptor, _KEEP_ALIVE, array.array("i", [0]), True)
        except OSError:
            try:
                os.write(self._descriptor, b"\0")
            except OSError:
                pass

    def close(self) -> bool:
        """Stop it and let go; False where it cannot be stopped, then it is still open and has to be fed."""
        try:
            self._ioctl(self._descriptor, _SET_OPTIONS, array.array("i", [_DISABLE]), True)
        except OSError:
            return False
        os.write(self._descriptor, b"V")
        os.close(self._descriptor)
        return True


class Pack(object):
    """The watchdogs of one trial; an empty one does nothing."""

    def __init__(self, dogs: List[Dog]) -> None:
        self._dogs = dogs

    @property
    def seconds(self) -> Optional[int]:
        """The shortest time until one of them bites; None without any."""
        return min((dog.seconds for dog in self._dogs), default=None)

    def feed(self) -> None:
        """All of them."""
        for dog in self._dogs:
            dog.feed()

    def close(self) -> bool:
        """Stop them; False while one is left that cannot be stopped."""
        left = []
        for dog in self._dogs:
            if dog.close():
                journal.record("WatchdogClosed", "watchdog %s stopped" % dog.path)
            else:
                left.append(dog)
        self._dogs = left
        return not left


def open_pack(
    seconds: int,
    find: Callable[[], List[Device]] = devices,
    load: Callable[[], None] = load_softdog,
    start: Callable[[str, int], Dog] = Dog,
) -> Pack:
    """Open the machine's watchdog, or the kernel's; and whatever runs already. `seconds` 0: only stop what runs."""
    dogs: List[Dog] = []
    known = find()
    if seconds and not any(device.can_stop for device in known):
        load()
        known = find()
    for is_second_try in (False, True):
        for device in known:
            is_armed = device.is_running and device.identity == SOFTWARE
            if is_armed or (seconds and device.can_stop and not dogs):
                try:
                    dogs.append(start(device.path, seconds or 60))
                    journal.record(
                        "WatchdogOpened",
                        "watchdog %s (%s) bites after %d s" % (device.path, device.identity, dogs[-1].seconds),
                    )
                except OSError as fault:
                    journal.record(
                        "WatchdogMissing", "watchdog %s: %s" % (device.path, fault.strerror), logging.WARNING
                    )
        if dogs or not seconds or is_second_try or any(device.identity == SOFTWARE for device in known):
            break
        load()  # the machine's own is somebody else's
        known = [device for device in find() if device.identity == SOFTWARE]
    if seconds and not dogs:
        journal.record("WatchdogMissing", "no watchdog: a host that hangs on trial stays so", logging.WARNING)
    return Pack(dogs)
