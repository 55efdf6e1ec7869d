"""Makes the plan of a request: what every file, link, kernel argument and parameter will be, and what follows.

Whatever can be refused is refused while planning; planning writes nothing, so the same code shows a difference, finds
drift and applies. An edit sees what the edits before it made, so several models may share a file.
"""

import functools
import os
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

from . import containerd, doors, entry, files, grubcmdline, kubelet, pamlimits, policy, reactions, sysctl, typed
from .entry import Entry
from .plan import Change, Parameter, Plan
from .request import Request, request_digest
from .wish import Edit, Warn, Wish, key_path, refuse

__all__ = ["Planner"]

_OURS = (
    "/etc/hostplane",
    "/var/lib/hostplane",
    "/run",
    "/boot/hostplane",
    "/proc",
    "/sys",
    "/dev",
    "/usr/lib/hostplane",
    "/persist",  # all of these once more, by another name
)
_KUBEOS_MODELS = frozenset(
    (sysctl.RUNTIME, sysctl.PERSISTENT, grubcmdline.CURRENT, grubcmdline.NEXT)
    + (kubelet.MODEL, containerd.MODEL, pamlimits.MODEL)
)
_UNIT_PLACES = (files.UNIT_DIRECTORY, "/usr/lib/systemd/system/", "/lib/systemd/system/")


class _Format(NamedTuple):
    """A model that edits a text: its file, places another path may point to, whether it may be made, its edit."""

    file: str
    places: Tuple[str, ...]
    may_make: bool
    edit: Edit


_FORMATS: Dict[str, _Format] = {
    sysctl.PERSISTENT: _Format("/etc/sysctl.conf", ("/etc/sysctl.d/*.conf",), True, sysctl.edit),
    kubelet.MODEL: _Format(
        kubelet.FILE,
        ("/var/lib/kubelet/*.yaml", "/var/lib/kubelet/*.yml", "/etc/kubernetes/*.yaml", "/etc/kubernetes/*.yml"),
        False,
        kubelet.edit,
    ),
    containerd.MODEL: _Format(containerd.FILE, ("/etc/containerd/*.toml",), False, containerd.edit),
    pamlimits.MODEL: _Format(pamlimits.FILE, (), False, pamlimits.edit),
    kubelet.TYPED: _Format(kubelet.FILE, (), False, kubelet.edit_typed),
    containerd.TYPED: _Format(containerd.FILE, (), False, containerd.edit_typed),
    typed.LIMITS: _Format(typed.LIMITS_FILE, (), True, typed.edit_limits),
    typed.SYSCTL: _Format(typed.SYSCTL_FILE, (), True, typed.edit_sysctl),
    typed.HOSTNAME: _Format(typed.HOSTNAME_FILE, (), True, typed.edit_hostname),
}
_IGNORES_PATH = frozenset((pamlimits.MODEL, sysctl.RUNTIME, grubcmdline.CURRENT, grubcmdline.NEXT))


def _is_usual(path: str, places: Sequence[str]) -> bool:
    """Whether `path` lies directly in one of the directories, with the ending."""
    for place in places:
        directory, ending = place.split("*")
        name = path[len(directory) :]
        if path.startswith(directory) and path.endswith(ending) and name and "/" not in name and name[0] != ".":
            return True
    return False


class Planner(object):
    """Plans one request. `base` gives what a path counts as before the request (undo: without earlier settings)."""

    def __init__(self, host: HostRoot, active: str, request: Request, is_verified: bool = False) -> None:
        self._host, self._active, self._request = host, active, request
        self._is_verified = is_verified
        self._policy: Optional[policy.Policy] = None
        self._was: Dict[str, Optional[Entry]] = {}
        self._now: Dict[str, Optional[Entry]] = {}
        self._tells: Dict[str, List[str]] = {}
        self._keys: Dict[str, List[str]] = {}
        self._models: Dict[str, Set[str]] = {}
        self._parameters: Dict[str, Tuple[str, str, List[str]]] = {}
        self._programs: List[str] = []
        self._check_seconds = reactions.CHECK_SECONDS
        self._warnings: List[str] = []
        self._acts: Dict[str, Callable[[str, List[Wish]], None]] = {
            sysctl.RUNTIME: self._runtime,
            typed.SYSCTL: self._sysctl,
            typed.HOSTNAME: self._hostname,
            typed.NTP: self._servers,
            typed.DNS: self._servers,
            grubcmdline.CURRENT: self._arguments,
            grubcmdline.NEXT: self._arguments,
            reactions.ARGUMENTS_MODEL: self._arguments,
            files.FILES: self._files,
            files.UNITS: self._units,
            reactions.CHECK_MODEL: self._checks,
        }

    # --- the way of a plan

    def start_from(self, path: str, wanted: Optional[Entry], tells: Sequence[str], models: Sequence[str]) -> None:
        """Undo: `path` counts as `wanted` before the request's own settings."""
        self._look(path)
        self._now[path] = wanted
        self._tells[path], self._models[path], self._keys[path] = list(tells), set(models), ["undo"]

    def start_parameter(self, path: str, value: str) -> None:
        """Undo: the kernel parameter is to be `value` again."""
        real = self._host.path("proc/sys/" + path)
        if os.path.isfile(real):
            self._want_parameter(path, value, "undo")

    def plan(self) -> Plan:
        """The whole plan.

        Raises:
            HostError: SettingsModelUnknown, SettingRefused, SettingsPathRefused, SettingsFileMissing,
                SettingsFileInvalid, SettingsUnsigned, SettingsPolicyInvalid, BootArgumentsTooLong.
        """
        for model, path, settings in self._request.configs:
            self._check_model(model)
            wishes = [Wish(*setting) for setting in settings]
            if model in self._acts:
                if path and model not in _IGNORES_PATH:
                    raise HostError("SettingsPathRefused", path=path[:200], detail="%s takes none" % model)
                self._acts[model](model, wishes)
            else:
                self._format(model, path, wishes)
        return self._made()

    def _made(self) -> Plan:
        changes, held, held_values = [], {}, {}
        for path, after in self._now.items():
            was = self._was[path]
            if entry.holds(was, after):
                held[path] = was
            else:
                tells, models = _once(self._tells.get(path, ())), sorted(self._models.get(path, ()))
                changes.append(Change(path, was, after, tuple(tells), tuple(models), tuple(self._keys.get(path, ()))))
        parameters = []
        for path, (was_value, value, keys) in self._parameters.items():
            if was_value.split() == value.split():
                held_values[path] = was_value
            else:
                parameters.append(Parameter(path, was_value, value, tuple(keys)))
        models = sorted({model for change in changes for model in change.models})
        effects = [reactions.EFFECTS[model] for model in models if model in reactions.EFFECTS]
        return Plan(
            changes,
            parameters,
            _once([tell for change in changes for tell in change.tells]),
            _once([unit for effect in effects for unit in effect.checks]),
            self._programs,
            self._check_seconds,
            any(change.path == entry.ARGUMENTS + self._active or _is_grub(change) for change in changes),
            self._warnings,
            held,
            held_values,
        )

    def _check_model(self, model: str) -> None:
        known = set(_FORMATS) | set(self._acts)
        if self._request.is_kubeos:
            known &= _KUBEOS_MODELS
        if model not in known:
            raise HostError("SettingsModelUnknown", model=model[:64] or '""', known=", ".join(sorted(known)))
        if {model, "*"} & self._allowed().signed and not self._request.is_kubeos:
            self._require_signature("the model " + model)

    def _allowed(self) -> policy.Policy:
        if self._policy is None:
            self._policy = policy.load(self._host)
        return self._policy

    def _require_signature(self, what: str) -> None:
        if not self._is_verified:
            digest = request_digest(self._request.version, self._request.configs)
            policy.require_signature(self._host, what, digest, self._request.signatures)
            self._is_verified = True

    # --- files

    def _look(self, path: str) -> Optional[Entry]:
        """What `path` will be after what was planned so far."""
        if path not in self._now:
            self._was[path] = self._now[path] = entry.read(self._host, path)
        return self._now[path]

    def _resolved(self, path: str) -> str:
        """The path, absolute on the host, that `path` leads to. Raises HostError SettingsPathRefused."""
        try:
            real = self._host.inside(path)
            self._check_place(real)
        except ValueError as fault:
            raise HostError("SettingsPathRefused", path=path[:200], detail=str(fault)) from None
        return "/" + os.path.relpath(real, self._host.root) if self._host.root != "/" else real

    def _check_place(self, real: str) -> None:
        for ours in _OURS:
            home = self._host.inside(ours)
            if real == home or real.startswith(home + "/"):
                raise ValueError("it is not a place for settings")

    def _format(self, model: str, config_path: str, wishes: List[Wish]) -> None:
        form = _FORMATS[model]
        path = config_path if form.places and config_path else form.file
        if config_path and not form.places and model not in _IGNORES_PATH:
            raise HostError("SettingsPathRefused", path=config_path[:200], detail="%s takes none" % model)
        real = self._resolved(path)
        if path != form.file and not self._request.is_kubeos:
            for one in {path, real}:
                if not _is_usual(one, form.places) and not policy.is_allowed(one, self._allowed().paths):
                    self._require_signature("the path " + one)
        if model == sysctl.PERSISTENT:
            self._guard_programs(model, wishes)
        for wish in wishes if model in doors.MODELS and not self._request.is_kubeos else ():
            if doors.opens(model, key_path(model, wish), wish.is_delete):
                self._require_signature("the key " + wish.key)
        self._edit(model, real, form.edit, wishes, form.may_make, form.file == real and path == form.file)

    def _edit(
        self, model: str, path: str, edit: Edit, wishes: List[Wish], may_make: bool, is_own_place: bool = False
    ) -> None:
        before = self._look(path)
        directory = os.path.dirname(self._host.path(path[1:]))
        if before is None and not (may_make and (is_own_place or os.path.isdir(directory))):
            raise HostError("SettingsFileMissing", path=path)
        try:
            text = before.data.decode("utf-8") if before is not None else ""
            after = edit(text, wishes, self._warn)
        except ValueError as fault:
            raise HostError("SettingsFileInvalid", path=path, detail=str(fault)[:300]) from None
        self._note(model, path, [wish.key for wish in wishes if _would_change(edit, text, wish)])
        if after != text:
            made = Entry(after.encode("utf-8"))
            if before is not None:
                made = made._replace(mode=before.mode, uid=before.uid, gid=before.gid)
            self._now[path] = None if not after and path in _OWN_FILES else made

    def _note(self, model: str, path: str, keys: Sequence[str], tells: Sequence[str] = ()) -> None:
        effect = reactions.EFFECTS.get(model, reactions.Effect())
        self._models.setdefault(path, set()).add(model)
        self._tells.setdefault(path, []).extend(list(effect.tells) + list(tells))
        self._keys.setdefault(path, []).extend("%s %s" % (model, key) for key in keys)

    def _warn(self, words: str) -> None:
        self._warnings.append(words)

    # --- models with a way of their own

    def _runtime(self, model: str, wishes: List[Wish]) -> None:
        for path, value in sysctl.runtime_writes(wishes, self._warn):
            if typed.names_program(path) and not self._request.is_kubeos:
                self._require_signature("the kernel parameter " + path)
            self._want_parameter(path, value, "%s %s" % (model, path.replace("/", ".")))

    def _guard_programs(self, model: str, wishes: List[Wish]) -> None:
        for wish in wishes:
            if not wish.is_delete and not self._request.is_kubeos:
                key = wish.key.strip().lstrip("-").strip()
                path = sysctl.parameter_path(model, wish._replace(key=key)) if key else ""
                if typed.names_program(path) or set(path) & set("*?["):  # who reads the file knows patterns
                    self._require_signature("the kernel parameter " + path)

    def _sysctl(self, model: str, wishes: List[Wish]) -> None:
        self._guard_programs(model, wishes)
        self._format(model, "", wishes)
        for path, value in typed.parameters(model, wishes):
            self._want_parameter(path, value, "%s %s" % (model, path.replace("/", ".")))

    def _hostname(self, model: str, wishes: List[Wish]) -> None:
        self._format(model, "", wishes)
        name = typed.host_name(wishes)
        if name:
            self._want_parameter("kernel/hostname", name, "hostname name")

    def _want_parameter(self, path: str, value: str, key: str) -> None:
        real = self._parameter(path)
        keys = self._parameters.get(path, ("", "", []))[2] + [key]
        try:
            with open(real, encoding="utf-8", errors="replace") as handle:
                was = handle.read(65536).strip("\n")
        except OSError:
            was = ""  # one that can only be written
        self._parameters[path] = (was, value, keys)

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

    def _servers(self, model: str, wishes: List[Wish]) -> None:
        for form in typed.NTP_FORMS if model == typed.NTP else typed.DNS_FORMS:
            if not form.signs or any(os.path.exists(self._host.path(sign[1:])) for sign in form.signs):
                break
        else:
            raise refuse(model, wishes[0] if wishes else Wish("", None, ""), "the image has no program that takes it")

        def edit(text: str, given: List[Wish], warn: Warn) -> str:
            return form.edit(model, text, given)

        path = self._resolved(form.file)
        self._edit(model, path, edit, wishes, True, True)
        if form.service:
            self._tells[path].append("restart " + form.service)

    def _arguments(self, model: str, wishes: List[Wish]) -> None:
        other = "B" if self._active == "A" else "A"
        slots = {grubcmdline.CURRENT: [self._active], grubcmdline.NEXT: [other]}.get(model, ["A", "B"])
        for slot in slots:
            if entry.args_files(self._host).are_there:
                edit: Edit = functools.partial(grubcmdline.edit_words, model=model)
                self._edit(model, entry.ARGUMENTS + slot, edit, wishes, True, True)
            else:
                edit = functools.partial(grubcmdline.edit, slot=slot, model=model)
                self._edit(model, self._resolved(grubcmdline.FILE), edit, wishes, False)

    def _wanted(self, model: str, wanted: files.Wanted, key: str) -> None:
        directory, name = os.path.split(wanted.path)
        path = os.path.join(self._resolved(directory), name)
        try:
            self._check_place(self._host.path(path[1:]))
        except ValueError as fault:
            raise HostError("SettingsPathRefused", path=path[:200], detail=str(fault)) from None
        for one in {path, wanted.path}:
            if not policy.is_allowed(one, self._allowed().paths):
                self._require_signature("the path " + one)
        before = self._look(path)
        self._now[path] = wanted.entry
        self._note(model, path, [] if entry.holds(before, wanted.entry) else [key], wanted.tells)

    def _files(self, model: str, wishes: List[Wish]) -> None:
        for wish in wishes:
            self._wanted(model, files.file_wanted(wish), wish.key)

    def _units(self, model: str, wishes: List[Wish]) -> None:
        for wish in wishes:
            for wanted in files.unit_wanted(wish, self._known):
                self._wanted(model, wanted, wish.key)

    def _known(self, name: str) -> files.Known:
        is_masked = False
        for place in _UNIT_PLACES:
            found = self._look(place + name) if place == files.UNIT_DIRECTORY else entry.read(self._host, place + name)
            if found is not None and found.is_link:
                is_masked = is_masked or found.data == b"/dev/null"
            elif found is not None:
                text = found.data.decode("utf-8", "replace")
                return files.Known(place + name, text, is_masked, reactions.is_wanted(self._host, name))
        return files.Known("", "", is_masked)

    def _checks(self, model: str, wishes: List[Wish]) -> None:
        for wish in wishes:
            seconds = reactions.check_wished(wish)
            if seconds:
                self._check_seconds = seconds
                continue
            for place in reactions.CHECK_DIRECTORIES:
                if os.access(self._host.path(place[1:] + "/" + wish.key), os.X_OK):
                    self._programs.append(place + "/" + wish.key)
                    break
            else:
                raise refuse(model, wish, "there is no such program in %s" % " or ".join(reactions.CHECK_DIRECTORIES))


_OWN_FILES = frozenset(
    [typed.LIMITS_FILE, typed.SYSCTL_FILE] + [form.file for form in typed.NTP_FORMS + typed.DNS_FORMS if form.is_ours]
)


def _would_change(edit: Edit, text: str, wish: Wish) -> bool:
    try:
        return edit(text, [wish], lambda words: None) != text
    except ValueError:
        return True


def _is_grub(change: Change) -> bool:
    return change.path.endswith(grubcmdline.FILE)


def _once(words: Sequence[str]) -> List[str]:
    return list(dict.fromkeys(words))
