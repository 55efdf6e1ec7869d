"""A request's settings as one plan, then the plan's writes: what can be refused is refused before anything is written.

Files are replaced in one step, with mode, owner and labels of the old one, so a power cut leaves the old or the new.
Before the first write the plan's outcome is noted; when the same request comes again after a crash, files that have
it already are left alone, so a list never grows twice.
"""

import functools
import hashlib
import json
import logging
import os
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

from . import containerd, grubcmdline, kubelet, pamlimits, sysctl
from .wish import Edit, Wish

__all__ = ["Config", "apply", "request_digest"]

Config = Tuple[str, str, Sequence[Tuple[str, Any, str]]]  # model, path on the host or "", settings
Journal = Dict[str, str]  # file -> SHA-256 it will have; under "" the digest of the request

_log = logging.getLogger("hostplane.agent")
_LIMIT = 4 << 20  # bytes of a settings file
_OURS = ("/etc/hostplane", "/var/lib/hostplane", "/run/hostplane", "/boot/hostplane", "/proc", "/sys", "/dev")
_SYSCTL_FILE = "/etc/sysctl.conf"


def request_digest(version: str, configs: Sequence[Config]) -> str:
    """SHA-256 of a request, to know it again."""
    return _sha256(json.dumps([version, configs], sort_keys=True).encode("ascii"))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _models(active: str) -> Dict[str, Tuple[str, bool, bool, Edit]]:
    """Model -> (its file, whether configpath may name another, whether it may be made, its edit)."""
    other = "B" if active == "A" else "A"
    grub = grubcmdline

    def line(slot: str, model: str) -> Edit:
        return functools.partial(grub.edit, slot=slot, model=model)

    return {
        sysctl.PERSISTENT: (_SYSCTL_FILE, True, True, sysctl.edit),
        grub.CURRENT: (grub.FILE, False, False, line(active, grub.CURRENT)),
        grub.NEXT: (grub.FILE, False, False, line(other, grub.NEXT)),
        kubelet.MODEL: (kubelet.FILE, True, False, kubelet.edit),
        containerd.MODEL: (containerd.FILE, True, False, containerd.edit),
        pamlimits.MODEL: (pamlimits.FILE, False, False, pamlimits.edit),
    }


def apply(
    host: HostRoot, active: str, configs: Sequence[Config], journal: Journal, note: Callable[[Journal], None]
) -> None:
    """Apply `configs` in their order. `journal` is what an interrupted run noted; `note` persists this one's.

    Raises:
        HostError: SettingsModelUnknown, SettingsPathRefused, SettingsFileMissing, SettingsFileInvalid, SettingRefused:
            nothing was written. SettingWriteFailed, VetoedByHost: what comes before it in the list is written.
    """
    request = request_digest("", configs)
    plan = _Plan(host, active, journal if journal.get("") == request else {})
    plan.check_models(configs)
    for model, path, settings in configs:
        plan.add(model, path, [Wish(*setting) for setting in settings])
    outcome = {path: _sha256(content) for path, content in plan.files.items()}
    if outcome:
        note(dict(outcome, **{"": request}))
    for step in plan.steps:
        host.refuse_if_vetoed()
        step()


class _Plan(object):
    def __init__(self, host: HostRoot, active: str, journal: Journal) -> None:
        self._host, self._journal = host, journal
        self._models = _models(active)
        self.files: Dict[str, bytes] = {}
        self.steps: List[Callable[[], None]] = []

    def check_models(self, configs: Sequence[Config]) -> None:
        for model, _, _ in configs:
            if model != sysctl.RUNTIME and model not in self._models:
                known = ", ".join(sorted([sysctl.RUNTIME] + list(self._models)))
                raise HostError("SettingsModelUnknown", model=model[:64] or '""', known=known)

    def add(self, model: str, config_path: str, wishes: List[Wish]) -> None:
        if model == sysctl.RUNTIME:
            for key, value in sysctl.runtime_writes(wishes, _log.warning):
                self.steps.append(functools.partial(_write_parameter, self._parameter(key), value))
            return
        default, may_move, may_make, edit = self._models[model]
        path = self._resolve(config_path if may_move and config_path else default)
        before = self.files.get(path)
        if before is None:
            before = _load(path, may_make)
            if before is not None and self._journal.get(path) == _sha256(before):
                return  # an interrupted run of this very request got as far as this file
        try:
            after = edit((before or b"").decode("utf-8"), wishes, _log.warning).encode("utf-8")
        except ValueError as fault:
            raise HostError("SettingsFileInvalid", path=path, detail=str(fault)[:300]) from None
        if after == before:
            return
        if path not in self.files:
            self.steps.append(lambda: _replace(path, self.files[path]))
        self.files[path] = after

    def _resolve(self, path: str) -> str:
        try:
            real = self._host.inside(path)
            for ours in _OURS:
                home = self._host.inside(ours)
                if real == home or real.startswith(home + "/"):
                    raise ValueError("it is not a place for settings")
        except ValueError as fault:
            raise HostError("SettingsPathRefused", path=path[:200], detail=str(fault)) from None
        return real

    def _parameter(self, key: str) -> str:
        try:
            path = self._host.inside("/proc/sys/" + key)
            if not path.startswith(self._host.inside("/proc/sys") + "/"):
                raise ValueError("it leads out of /proc/sys")
        except ValueError as fault:
            raise HostError("SettingRefused", model=sysctl.RUNTIME, key=key, detail=str(fault)) from None
        if not os.path.isfile(path) or not os.access(path, os.W_OK):
            detail = "the kernel does not offer it for writing"
            raise HostError("SettingRefused", model=sysctl.RUNTIME, key=key, detail=detail)
        return path


def _load(path: str, may_make: bool) -> Optional[bytes]:
    try:
        with open(path, "rb") as handle:
            content = handle.read(_LIMIT + 1)
    except FileNotFoundError:
        if may_make and os.path.isdir(os.path.dirname(path)):
            return None
        raise HostError("SettingsFileMissing", path=path) from None
    except OSError as fault:
        raise HostError("SettingsFileInvalid", path=path, detail=fault.strerror) from fault
    if len(content) > _LIMIT:
        raise HostError("SettingsFileInvalid", path=path, detail="it is larger than %d bytes" % _LIMIT)
    return content


def _write_parameter(path: str, value: str) -> None:
    try:
        with open(path, "wb", buffering=0) as handle:
            handle.write((value + "\n").encode("utf-8"))
    except OSError as fault:
        raise HostError("SettingWriteFailed", path=path, detail=fault.strerror) from fault


def _replace(path: str, content: bytes) -> None:
    """The new file in the old one's place, in one step, with its mode, owner and labels."""
    fresh = path + ".hostplane-new"
    try:
        with open(fresh, "wb") as handle:
            handle.write(content)
            _dress(path, handle.fileno())
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(fresh, path)
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as fault:
        try:
            os.unlink(fresh)
        except OSError:
            pass
        raise HostError("SettingWriteFailed", path=path, detail=fault.strerror) from fault


def _dress(old: str, descriptor: int) -> None:
    try:
        found = os.stat(old)
    except FileNotFoundError:
        os.fchmod(descriptor, 0o644)
        return
    mine = os.fstat(descriptor)
    if (mine.st_uid, mine.st_gid) != (found.st_uid, found.st_gid):
        os.fchown(descriptor, found.st_uid, found.st_gid)
    if mine.st_mode != found.st_mode:
        os.fchmod(descriptor, found.st_mode & 0o7777)
    try:
        for name in os.listxattr(old):
            os.setxattr(descriptor, name, os.getxattr(old, name))
    except OSError:
        pass  # a file system without labels has none to keep
