"""What is at a path: a file, a link or nothing; read for comparing and undoing, and put there in one step.

Extra kernel arguments are entries too, under a path that no file has (`ARGUMENTS` and the slot), so that plan, journal,
difference and undo treat all settings alike. Nothing here decides; who calls has checked the path.
"""

import base64
import os
import stat
from typing import Any, Dict, NamedTuple, Optional

from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

from .bootargs import ArgsFiles

__all__ = ["ARGUMENTS", "LIMIT", "Entry", "args_files", "decode", "encode", "holds", "put", "read"]

ARGUMENTS = "/boot/hostplane/args#"
LIMIT = 4 << 20  # bytes of a settings file
_FRESH = ".hostplane-new"


class Entry(NamedTuple):
    """A file's bytes, or a link's goal. `mode`, `uid` and `gid` -1: as the one before it has them."""

    data: bytes
    is_link: bool = False
    mode: int = -1
    uid: int = -1
    gid: int = -1


def encode(entry: Optional[Entry]) -> Optional[Dict[str, Any]]:
    """The entry as JSON."""
    if entry is None:
        return None
    return dict(entry._asdict(), data=base64.b64encode(entry.data).decode("ascii"))


def decode(given: Optional[Dict[str, Any]]) -> Optional[Entry]:
    """The entry in JSON that `encode` made. Raises ValueError, TypeError or KeyError for anything else."""
    if given is None:
        return None
    fields = {name: type(default)(given[name]) for name, default in Entry(b"")._asdict().items() if name != "data"}
    return Entry(base64.b64decode(given["data"], validate=True), **fields)


def holds(found: Optional[Entry], wanted: Optional[Entry]) -> bool:
    """Whether what is there is what is wanted; what a wish leaves open does not count."""
    if found is None or wanted is None:
        return found is wanted
    if found.is_link or wanted.is_link:
        return found[:2] == wanted[:2]
    for there, wish in ((found.mode, wanted.mode), (found.uid, wanted.uid), (found.gid, wanted.gid)):
        if min(there, wish) >= 0 and there != wish:
            return False
    return found.data == wanted.data


def args_files(host: HostRoot) -> ArgsFiles:
    """The extra kernel arguments of this host's slots."""
    return ArgsFiles(host.path("boot/hostplane"), host.refuse_if_vetoed)


def read(host: HostRoot, path: str) -> Optional[Entry]:
    """What is at `path`, absolute on the host.

    Raises:
        HostError: SettingsFileInvalid, for what is neither file nor link or is too large.
    """
    if path.startswith(ARGUMENTS):
        return Entry(args_files(host).read().of(path[-1]).encode("ascii", "replace"))
    real = host.path(path[1:])
    try:
        found = os.lstat(real)
        if stat.S_ISLNK(found.st_mode):
            return Entry(os.fsencode(os.readlink(real)), True)
        if not stat.S_ISREG(found.st_mode):
            raise HostError("SettingsFileInvalid", path=path, detail="it is neither a file nor a link")
        with open(real, "rb") as handle:
            content = handle.read(LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as fault:
        raise HostError("SettingsFileInvalid", path=path, detail=fault.strerror) from fault
    if len(content) > LIMIT:
        raise HostError("SettingsFileInvalid", path=path, detail="it is larger than %d bytes" % LIMIT)
    return Entry(content, False, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)


def put(host: HostRoot, path: str, entry: Optional[Entry]) -> None:
    """Put `entry` at `path` in one step, or take away what is there; safe to repeat.

    A cut leaves what was there or what shall be there; a leftover beside it is taken away by the next call.

    Raises:
        HostError: SettingWriteFailed, VetoedByHost.
    """
    host.refuse_if_vetoed()
    if path.startswith(ARGUMENTS):
        args_files(host).set(path[-1], "" if entry is None else entry.data.decode("ascii"))
        return
    real = host.path(path[1:])
    fresh = real + _FRESH
    try:
        _remove(fresh)
        if entry is None:
            _remove(real)
        else:
            os.makedirs(os.path.dirname(real), exist_ok=True)
            _make(fresh, real, entry)
            os.replace(fresh, real)
        if os.path.isdir(os.path.dirname(real)):
            _sync_directory(os.path.dirname(real))
    except OSError as fault:
        try:
            _remove(fresh)
        except OSError:
            pass
        raise HostError("SettingWriteFailed", path=path, detail=fault.strerror or str(fault)) from fault


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        pass


def _make(fresh: str, real: str, entry: Entry) -> None:
    if entry.is_link:
        os.symlink(os.fsdecode(entry.data), fresh)
        return
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
        handle.write(entry.data)
        _dress(real, handle.fileno(), entry)
        handle.flush()
        os.fsync(handle.fileno())


def _sync_directory(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _dress(old: str, descriptor: int, entry: Entry) -> None:
    """Mode and owner as the entry says, else as the old file's; labels as the old file's."""
    mode, uid, gid = 0o644, 0, 0
    is_there = os.path.isfile(old) and not os.path.islink(old)
    mine = os.fstat(descriptor)
    if is_there:
        found = os.stat(old)
        mode, uid, gid = found.st_mode & 0o7777, found.st_uid, found.st_gid
    elif os.geteuid():
        uid, gid = mine.st_uid, mine.st_gid
    uid, gid = (entry.uid if entry.uid >= 0 else uid), (entry.gid if entry.gid >= 0 else gid)
    if (mine.st_uid, mine.st_gid) != (uid, gid):
        os.fchown(descriptor, uid, gid)
    mode = entry.mode if entry.mode >= 0 else mode
    if mine.st_mode & 0o7777 != mode:
        os.fchmod(descriptor, mode)
    if is_there:
        try:
            for name in os.listxattr(old):
                os.setxattr(descriptor, name, os.getxattr(old, name))
        except OSError:
            pass  # a file system without labels has none to keep
