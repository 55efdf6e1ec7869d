"""The node: its name and clock, kernel modules and settings, and Kubernetes' own programs."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from pathlib import Path

from hostplane.errors import reason
from hostplane.image.reading.positions import written
from hostplane.image.reading.rules.boot import MODULE
from hostplane.image.reading.rules.case import Case, Fault, Rule, error, existing, warning
from hostplane.image.reading.rules.packages import backend_of
from hostplane.image.recipe import Arch, Backend

__all__ = ["RULES"]

_HOSTNAME = re.compile(r"(?=.{1,64}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_SYSCTL = re.compile(r"-?[a-z0-9_]+([./][A-Za-z0-9_*:@-]+)+")
_EPOCHS = range(315532800, 1 << 31)
"""From 1980, where FAT's time begins, to the end of the time that old xfs and ext4 can tell."""
_MACHINES = {Arch.X86_64: 62, Arch.AARCH64: 183}
"""e_machine of an ELF program."""


def hostname_is_a_name(case: Case) -> Iterator[Fault]:
    path, value = ("hostname",), case.recipe.hostname
    if value is not None and not _HOSTNAME.fullmatch(value):
        yield error(path, reason("HostnameInvalid", key=written(path), value=value))


def timezone_is_known(case: Case) -> Iterator[Fault]:
    path, value = ("timezone",), case.recipe.timezone
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # unknown, not a name, a directory of names
        yield error(path, reason("TimezoneUnknown", key=written(path), value=value))


def times_can_be_told(case: Case) -> Iterator[Fault]:
    path, value = ("source_date_epoch",), case.recipe.source_date_epoch
    if value is not None and value not in _EPOCHS:
        why = reason("EpochOutside", key=written(path), value=value, least=_EPOCHS.start, most=_EPOCHS.stop - 1)
        yield error(path, why)


def modules_are_names(case: Case) -> Iterator[Fault]:
    for field in ("modules_load", "modules_block"):
        for index, name in enumerate(getattr(case.recipe, field)):
            if not MODULE.fullmatch(name):
                path = (field, index)
                yield error(path, reason("ModuleNameInvalid", key=written(path), value=name))


def kept_modules_are_names(case: Case) -> Iterator[Fault]:
    for index, name in enumerate(case.recipe.slim.modules_keep):
        if not re.fullmatch(r"[A-Za-z0-9_.*?/-]+", name) or ".." in name:
            path = ("slim", "modules_keep", index)
            yield error(path, reason("ModuleNameInvalid", key=written(path), value=name))


def no_module_is_both_loaded_and_blocked(case: Case) -> Iterator[Fault]:
    loaded = {name.replace("-", "_") for name in (*case.recipe.modules_load, *case.recipe.boot.modules)}
    for index, name in enumerate(case.recipe.modules_block):
        if name.replace("-", "_") in loaded:
            path = ("modules_block", index)
            yield error(path, reason("ModuleBothWays", key=written(path), value=name))


def sysctls_are_names(case: Case) -> Iterator[Fault]:
    for name in case.recipe.sysctl:
        if not _SYSCTL.fullmatch(name) or ".." in name:
            path = ("sysctl", name)
            yield error(path, reason("SysctlNameInvalid", key=written(path), value=name))


def sysctl_values_are_one_line(case: Case) -> Iterator[Fault]:
    for name, value in case.recipe.sysctl.items():
        if isinstance(value, str) and not (value.strip() and value.replace("\t", " ").isprintable()):
            path = ("sysctl", name)
            yield error(path, reason("SysctlValueInvalid", key=written(path), value=repr(value)))


def kubernetes_files_exist(case: Case) -> Iterator[Fault]:
    yield from existing(("kubernetes", "kubelet"), case.recipe.kubernetes.kubelet)
    yield from existing(("kubernetes", "cni_plugins"), case.recipe.kubernetes.cni_plugins)


def kubelet_is_for_this_processor(case: Case) -> Iterator[Fault]:
    path, value = ("kubernetes", "kubelet"), case.recipe.kubernetes.kubelet
    if not value or not Path(value).exists():
        return
    head = b""
    if Path(value).is_file():
        with Path(value).open("rb") as file:
            head = file.read(20)
    is_elf = head[:4] == b"\x7fELF" and len(head) == 20
    if not is_elf or int.from_bytes(head[18:20], "little") != _MACHINES[case.recipe.arch]:
        yield error(path, reason("KubeletForeign", key=written(path), value=value, arch=case.recipe.arch.value))


def kubelet_comes_from_somewhere(case: Case) -> Iterator[Fault]:
    path, kubernetes = ("kubernetes", "version"), case.recipe.kubernetes
    has_package = any("kube" in name for name in case.recipe.packages.include)
    if kubernetes.version is not None and kubernetes.kubelet is None and not has_package:
        yield warning(path, reason("KubeletNowhere", key=written(path), value=kubernetes.version))


def runtime_is_one_of_the_distribution(case: Case) -> Iterator[Fault]:
    path, value = ("kubernetes", "runtime"), case.recipe.kubernetes.runtime
    is_packaged = case.recipe.packages.defaults and backend_of(case) is not Backend.TREE
    if case.profile is None or value == "none" or not is_packaged or value in case.profile.runtime_packages:
        return
    known = ", ".join((*case.profile.runtime_packages, "none"))
    yield error(path, reason("RuntimeForeign", key=written(path), value=value, distro=case.profile.title, known=known))


RULES: tuple[Rule, ...] = (
    hostname_is_a_name,
    timezone_is_known,
    times_can_be_told,
    modules_are_names,
    kept_modules_are_names,
    no_module_is_both_loaded_and_blocked,
    sysctls_are_names,
    sysctl_values_are_one_line,
    kubernetes_files_exist,
    kubelet_is_for_this_processor,
    kubelet_comes_from_somewhere,
    runtime_is_one_of_the_distribution,
)
