"""The host as a directory: every path the agent touches lies below one root, `/` on a real host.

Also the two questions every part asks: what the host's own configuration says (`/etc/hostplane/agent.json`), and
whether its administrator forbids any write (`/etc/hostplane/never`). Paths that came from outside are resolved here and
nowhere else, and may not leave the root by `..` or by a symbolic link.
"""

import json
import logging
import os
import subprocess
import time
from typing import Any, Dict, NamedTuple, Optional, Tuple

from hostplane.errors import HostError

__all__ = ["Config", "HostRoot", "ImageName", "Installed"]


_log = logging.getLogger("hostplane.agent")
_REBOOT_SECONDS = 60.0  # for the order to be taken, not for the reboot


class ImageName(NamedTuple):
    """What the running root says it is (`/usr/lib/hostplane/image.json`, made with the image)."""

    name: str = ""
    version: str = ""


class Installed(NamedTuple):
    """What the installer put into the first slot, for the report before the first upgrade."""

    digest: str = ""
    version: str = ""
    size: int = 0


class Config(NamedTuple):
    """`/etc/hostplane/agent.json`; every key is optional, an unknown one is ignored."""

    allowed_uids: Tuple[int, ...] = ()  # users besides root and the agent's own that may talk to it
    allow_unsigned_tar: bool = False  # whether a payload whose only proof is its digest may be staged
    allow_sealing_change: bool = False  # whether a sealed root may follow an unsealed one, and the other way round
    host_uid: str = ""  # the only Host object whose word counts; empty: the first that comes
    boot_tries: int = 3  # how often the loader tries an unproven slot
    check_seconds: float = 60.0  # deadline of each check in checks.d
    checks: Dict[str, float] = {}  # other deadlines for built-in checks (agent/trial/checks.py), by name; 0: not asked
    recheck_seconds: float = 60.0  # how often a trial that awaits its confirmation is checked again
    allowed_failed_units: Tuple[str, ...] = ()  # units that may fail on trial; * and ? are wildcards
    confirm: str = "cluster"  # whose word commits a trial after the checks: cluster, or local: theirs is enough
    etc_policy: str = "keep"  # a conflict in /etc: keep the host's file, or stop the upgrade
    network_policy: str = "stop"  # network settings that cannot be told to another distribution: likewise
    watchdog_seconds: int = 120  # on trial; 0: no watchdog
    stall_seconds: float = 30.0  # a download that gives nothing for so long is dropped and resumed
    fetch_attempts: int = 5  # fruitless attempts in a row before a download fails
    minimum_bytes_per_second: int = 4096  # a download that gives less, counted over so many seconds of waiting for it,
    minimum_over_seconds: float = 300.0  # ends with a reason; 0 bytes: none does
    bytes_per_second: int = 0  # 0: as fast as it comes
    io_bytes_per_second: int = 0  # of the disk, read and written, while an image is staged; 0: as fast as it goes
    io_idle: bool = True  # whether a staging leaves the disk to others
    slot_bytes: int = 0  # size of a slot; 0: as large as the file system allows
    registries: Dict[str, Any] = {}  # fetch.access.Access by HOST or HOST:PORT
    proxy: Any = None  # fetch.access.Proxies; None: the environment's
    installed: Installed = Installed()


_BOUNDS = {
    "boot_tries": (1, 9),
    "check_seconds": (1, 3600),
    "recheck_seconds": (0.1, 3600),
    "watchdog_seconds": (0, 600),
    "stall_seconds": (0.1, 3600),
    "fetch_attempts": (1, 100),
    "minimum_bytes_per_second": (0, 1 << 40),
    "minimum_over_seconds": (0.1, 86400),
    "bytes_per_second": (0, 1 << 40),
    "io_bytes_per_second": (0, 1 << 40),
    "slot_bytes": (0, 1 << 50),
}


_WORDS = {"confirm": ("cluster", "local"), "etc_policy": ("keep", "stop"), "network_policy": ("keep", "stop")}


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


def read_config(raw: str) -> Config:
    """The configuration in `raw`.

    Raises:
        HostError: AgentConfigInvalid naming the key; a typo must not silently become a default.
    """
    try:
        given = json.loads(raw)
        if not isinstance(given, dict):
            raise ValueError("not an object")
        fields: Dict[str, Any] = {}
        for name, default in Config()._asdict().items():
            if _camel(name) not in given:
                continue
            fields[name] = _field(name, default, given[_camel(name)])
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as fault:
        raise HostError("AgentConfigInvalid", detail=str(fault)) from None
    return Config(**fields)


def _field(name: str, default: Any, value: Any) -> Any:
    if name == "installed":
        return Installed(str(value.get("digest", "")), str(value.get("version", "")), int(value.get("size", 0)))
    if name in ("registries", "proxy"):
        from .fetch import access

        return access.parse_registries(value) if name == "registries" else access.parse_proxy(value)
    if name == "allowed_uids":
        return tuple(int(uid) for uid in value)
    if name == "allowed_failed_units":
        return tuple(str(unit) for unit in value)
    if name == "checks":
        return _seconds(value)
    words = _WORDS.get(name)
    if words is not None and value not in words:
        raise ValueError("%s must be %s" % (_camel(name), " or ".join(words)))
    if isinstance(default, (bool, str)):
        if not isinstance(value, type(default)):
            raise ValueError("%s must be %s" % (_camel(name), "true or false" if default is False else "a string"))
        return value
    low, high = _BOUNDS[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError("%s must be a number from %s to %s" % (_camel(name), low, high))
    return type(default)(value)


def _seconds(given: Any) -> Dict[str, float]:
    from .trial.checks import BUILT_IN  # only where it is asked for: it imports this module

    known = {check.name for check in BUILT_IN}
    for name, seconds in dict(given).items():
        if name not in known:
            raise ValueError("checks has no %s, only %s" % (name, ", ".join(sorted(known))))
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= 86400:
            raise ValueError("checks.%s must be a number from 0 to 86400" % name)
    return dict(given)


class HostRoot(object):
    """One host's file-system root."""

    def __init__(self, root: str, config: Optional[Config] = None) -> None:
        """`config` None: the host's own. Raises HostError AgentConfigInvalid."""
        self.root = os.path.realpath(root)
        self.config = self._configured() if config is None else config

    @classmethod
    def lenient(cls, root: str) -> "HostRoot":
        """With the defaults where the configuration makes no sense: for who has to act whatever it says."""
        try:
            return cls(root)
        except HostError as fault:
            _log.error("the defaults count: %s", fault)
            return cls(root, Config())

    def _configured(self) -> Config:
        path = self.path("etc/hostplane/agent.json")
        if not os.path.exists(path):
            return Config()
        try:
            with open(path, encoding="utf-8") as handle:
                raw = handle.read()
        except (OSError, UnicodeDecodeError) as fault:
            raise HostError("AgentConfigInvalid", detail=str(fault)) from None
        return read_config(raw)

    def path(self, relative: str) -> str:
        """A path of our own choosing below the root."""
        return os.path.join(self.root, relative)

    def inside(self, path: str) -> str:
        """The real path of `path`, an absolute path on this host that somebody else chose.

        Raises:
            ValueError: saying why, when it is not absolute, has `..` in it, or leads out of the root.
        """
        if "\0" in path or not path.startswith("/"):
            raise ValueError("not an absolute path")
        if ".." in path.split("/"):
            raise ValueError("it contains ..")
        real = os.path.realpath(self.root + "/" + path.lstrip("/"))
        if real != self.root and not real.startswith(self.root.rstrip("/") + "/"):
            raise ValueError("a symbolic link leads out of the host's root")
        return real

    @property
    def is_vetoed(self) -> bool:
        """Whether the administrator forbids every write."""
        return os.path.lexists(self.path("etc/hostplane/never"))

    def refuse_if_vetoed(self) -> None:
        """Raises HostError VetoedByHost where the administrator forbids every write."""
        if self.is_vetoed:
            raise HostError("VetoedByHost")

    def _text(self, relative: str) -> str:
        with open(self.path(relative), encoding="utf-8", errors="replace") as handle:
            return handle.read()

    def active_slot(self) -> str:
        """The slot this boot runs from, as the loader told the kernel.

        Raises:
            HostError: ActiveSlotUnknown.
        """
        try:
            words = self.kernel_line().split()
        except OSError:
            words = []
        for word in words:
            if word in ("hostplane.slot=A", "hostplane.slot=B"):
                return word[-1]
        raise HostError("ActiveSlotUnknown")

    def kernel_line(self) -> str:
        """What the loader told the kernel. Raises OSError."""
        return self._text("proc/cmdline")

    def boot_id(self) -> str:
        """The kernel's id of this boot."""
        try:
            return self._text("proc/sys/kernel/random/boot_id").strip()
        except OSError:
            raise HostError("BootIdUnknown") from None

    def image(self) -> ImageName:
        """What the running root says it is; nothing where it was not built by Hostplane."""
        try:
            said = json.loads(self._text("usr/lib/hostplane/image.json"))
            return ImageName(str(said.get("name", "")), str(said.get("version", "")))
        except (OSError, ValueError, AttributeError):
            return ImageName()

    def os_version(self) -> str:
        """VERSION_ID of the running image, else its PRETTY_NAME, else nothing."""
        try:
            lines = self._text("etc/os-release").splitlines()
        except OSError:
            return ""
        pairs = dict(line.partition("=")[::2] for line in lines)
        return (pairs.get("VERSION_ID") or pairs.get("PRETTY_NAME") or "").strip("\"'")[:256]

    def boot_seconds(self) -> float:
        """Seconds on the boot clock, which counts sleep and knows no time zone and no wrong date."""
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", 7))  # Python 3.7 named it; 7 in every Linux

    def reboot(self) -> None:
        """Ask for a reboot. A host that is a directory gets the file its machine waits for."""
        if self.root == "/":
            # -i: a package manager's lock must not leave a drained host, or one on trial, waiting; delays are kept.
            subprocess.check_call(["systemctl", "-i", "reboot"], timeout=_REBOOT_SECONDS)
            return
        directory = self.path("run/hostplane")
        os.makedirs(directory, exist_ok=True)
        fresh = os.path.join(directory, "reboot.new")
        with open(fresh, "w"):
            pass
        os.replace(fresh, os.path.join(directory, "reboot"))
