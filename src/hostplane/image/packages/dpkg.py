"""A dpkg root while packages go into it, and what must not be left in it afterwards.

While it lasts: no service starts, no initramfs, boot menu or manual index is made (the boot stage makes the initramfs,
once). Afterwards: no log, cache, lock, machine-id, host key or back-up copy with a moment's time in it, so that the
same packages give the same root. What a package brought stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hostplane.image.root.rootglob import matches, remove
from hostplane.image.root.rootpath import within

__all__ = ["normalise", "quiet"]

_IDLE = ("/usr/sbin/update-initramfs", "/usr/sbin/update-grub", "/usr/bin/dracut", "/usr/bin/mandb")
"""Programs that do nothing while packages are installed."""
_ASIDE = ".hostplane"
_POLICY = "usr/sbin/policy-rc.d"

_LEFTOVERS = (
    "etc/*-",  # passwd-, shadow-, subuid-: back-ups
    "etc/ssh/ssh_host_*",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/aux-cache",
    "var/cache/man/*",
    "var/lib/apt/lists/*",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/available",
    "var/lib/dpkg/lock*",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/systemd/credential.secret",
    "var/lib/systemd/random-seed",
    "var/lib/ucf/*.[0-9]",
    "var/log/*.log",
    "var/log/apt/*",
    "dev/*",
    "run/*",
    "tmp/*",
    "var/tmp/*",
)
_DAY = 86400


@contextmanager
def quiet(root: Path) -> Iterator[None]:
    """Nothing starts and nothing is generated for booting in `root`, for as long as the block runs.

    An earlier block that was killed is cleaned up after, too.
    """
    diversions, policy = within(root, "/var/lib/dpkg/diversions"), within(root, _POLICY)
    before = diversions.read_text(encoding="utf-8") if diversions.exists() else ""
    own = "".join(f"{path}\n{path}{_ASIDE}\n:\n" for path in _IDLE)
    before = before.replace(own, "")
    diversions.write_text(before + own, encoding="utf-8")
    for path in _IDLE:
        idle = _inside(root, path)
        if idle.exists() and not idle.is_symlink():
            idle.rename(_inside(root, path + _ASIDE))
        if not idle.is_symlink():
            idle.symlink_to("/bin/true")
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)
        for path in _IDLE:
            _inside(root, path).unlink(missing_ok=True)
            aside = _inside(root, path + _ASIDE)
            if aside.exists():
                aside.rename(_inside(root, path))
        after = diversions.read_text(encoding="utf-8")
        for path in _IDLE:  # dpkg sorts them anew
            after = after.replace(f"{path}\n{path}{_ASIDE}\n:\n", "")
        diversions.write_text(after, encoding="utf-8")


def _inside(root: Path, path: str) -> Path:
    return within(root, path, follow=False)


def normalise(root: Path, epoch: int) -> None:
    """Take out of `root` what differs from one installation of the same packages to the next.

    `epoch` in seconds is the day that accounts were last changed.
    """
    for pattern in _LEFTOVERS:
        for path in matches(root, pattern):
            remove(path)
    machine_id = within(root, "/etc/machine-id", follow=False)
    if machine_id.exists() and not machine_id.is_symlink():
        machine_id.write_bytes(b"")
    _date_accounts(within(root, "/etc/shadow"), epoch // _DAY)
    for path in matches(root, "/var/cache/debconf/*.dat"):
        _sort_stanzas(path)


def _date_accounts(path: Path, day: int) -> None:
    if not path.is_file():
        return
    lines = [line.split(":") for line in path.read_text(encoding="utf-8").splitlines()]
    for fields in lines:
        if len(fields) > 2 and fields[2] not in ("", "0"):
            fields[2] = str(day)
    path.write_text("".join(":".join(fields) + "\n" for fields in lines), encoding="utf-8")


def _sort_stanzas(path: Path) -> None:
    """debconf writes its databases in the order of a hash."""
    stanzas = sorted(part.strip("\n") for part in path.read_text(encoding="utf-8").split("\n\n") if part.strip())
    path.write_text("".join(f"{stanza}\n\n" for stanza in stanzas), encoding="utf-8")
