"""What is wrong with settings whatever the host: asked by the operator before a host is taken, and at a desk.

Every model is tried on an empty text, so what is said here is what a host would say. What only a host knows (its files,
kernel and programs, its image's policy and trusted keys) is the host's to refuse.
"""

from typing import Callable, Dict, List

from hostplane.errors import HostError

from . import containerd, files, grubcmdline, kubelet, pamlimits, reactions, sysctl, typed
from .request import Request, check_size
from .wish import Wish, refuse

__all__ = ["MODELS", "check"]


def _ignore(words: str) -> None:
    """A warning is KubeOS's business, and told elsewhere."""


def _units(wishes: List[Wish]) -> None:
    for wish in wishes:
        files.unit_wanted(wish, lambda name: files.Known("/" + name, "[Install]\nWantedBy=multi-user.target\n"))


def _files(wishes: List[Wish]) -> None:
    for wish in wishes:
        files.file_wanted(wish)


def _checks(wishes: List[Wish]) -> None:
    for wish in wishes:
        reactions.check_wished(wish)


def _words(wishes: List[Wish]) -> None:
    grubcmdline.edit_words("", wishes, _ignore, reactions.ARGUMENTS_MODEL)


MODELS: Dict[str, Callable[[List[Wish]], object]] = {
    sysctl.RUNTIME: lambda wishes: sysctl.runtime_writes(wishes, _ignore),
    sysctl.PERSISTENT: lambda wishes: sysctl.edit("", wishes, _ignore),
    grubcmdline.CURRENT: _words,
    grubcmdline.NEXT: _words,
    kubelet.MODEL: lambda wishes: kubelet.edit("", wishes, _ignore),
    containerd.MODEL: lambda wishes: containerd.edit("", wishes, _ignore),
    pamlimits.MODEL: lambda wishes: pamlimits.edit("", wishes, _ignore),
    typed.SYSCTL: lambda wishes: typed.edit_sysctl("", wishes, _ignore),
    kubelet.TYPED: lambda wishes: kubelet.edit_typed("", wishes, _ignore),
    containerd.TYPED: lambda wishes: containerd.edit_typed("", wishes, _ignore),
    reactions.ARGUMENTS_MODEL: _words,
    typed.LIMITS: lambda wishes: typed.edit_limits("", wishes, _ignore),
    typed.HOSTNAME: lambda wishes: typed.edit_hostname("", wishes, _ignore),
    typed.NTP: lambda wishes: typed.NTP_FORMS[0].edit(typed.NTP, "", wishes),
    typed.DNS: lambda wishes: typed.DNS_FORMS[0].edit(typed.DNS, "", wishes),
    files.FILES: _files,
    files.UNITS: _units,
    reactions.CHECK_MODEL: _checks,
}


def check(request: Request) -> None:
    """Refuse what no host could take.

    Raises:
        HostError: SettingsTooLarge, SettingsModelUnknown, SettingsPathRefused, SettingRefused.
    """
    check_size(request.version, request.configs)
    for model, path, contents in request.configs:
        _check(model, path, [Wish(*item) for item in contents])


def _check(model: str, path: str, wishes: List[Wish]) -> None:
    if model not in MODELS:
        raise HostError("SettingsModelUnknown", model=model[:64] or '""', known=", ".join(sorted(MODELS)))
    if path and (not path.startswith("/") or ".." in path.split("/") or "\0" in path):
        raise HostError("SettingsPathRefused", path=path[:200], detail="not an absolute path without ..")
    try:
        MODELS[model](wishes)
    except ValueError as fault:
        raise refuse(model, wishes[0], str(fault)[:200]) from None
