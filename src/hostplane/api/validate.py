"""What is accepted and yet will not do what its author meant: warnings that operator and CLI share.

KubeOS accepts all of this in silence, so we accept it too (docs/kubeos.md) and say it on the object. What could never
act at all is refused by the API server before it gets here; objects stored before that are told apart here as well.
Nothing here refuses, changes or fetches anything. What needs a second object (overlaps) is planning's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

from hostplane.agent.settings import lint
from hostplane.agent.settings.request import Request
from hostplane.errors import HostError, Reason, reason

from .host import CONFIGURE, UPGRADE, Host, Settings, SettingsModel
from .kubeos import KubeOS, KubeOSSpec
from .ledger import Ledger
from .nodegroup import NodeGroup
from .osimage import OSImage
from .rollout import Rollout, Step

__all__ = [
    "MAX_DEPTH",
    "MAX_REASONS",
    "check_group",
    "check_os",
    "check_rollout",
    "check_schema_version",
    "refusal",
    "settings_refusal",
]

MAX_REASONS = 20
"""At most so many warnings of one object; they share a condition's message."""
MAX_DEPTH = 32
"""Deeper values of a setting are reported and never handed on; no file we edit nests like that."""

_LABEL_KEY = re.compile(
    r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII
)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", re.ASCII)
_CHECKSUM = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_IMAGE_NAME = re.compile(r"[^\s:/@]+(:[0-9]+)?(/[^\s:/@]+)*(:[\w][\w.-]{0,127}|@sha256:[0-9a-fA-F]{64})?", re.ASCII)

_FILES: dict[str, re.Pattern[str] | None] = {  # where a model's configpath may point; None: it is not looked at
    "kernel.sysctl": None,
    "kernel.sysctl.persist": re.compile(r"/etc/sysctl\.conf|/etc/sysctl\.d/[^/]+\.conf"),
    "grub.cmdline.current": None,
    "grub.cmdline.next": None,
    "kubernetes.kubelet": re.compile(r"/(var/lib/kubelet|etc/kubernetes)/([^/]+/)?[^/]+\.ya?ml"),
    "container.containerd": re.compile(r"/etc/containerd/([^/]+/)?[^/]+\.toml"),
    "pam.limits": None,
}
_BOOT_KEYS = frozenset({"root", "rootfstype", "rootflags", "init", "rdinit", "initrd", "linux"})


def check_schema_version(obj: OSImage | NodeGroup | Rollout | Host | Ledger) -> Reason | None:
    """Why this object must be left alone: its schema has a major version that is not ours; None where it has ours."""
    version = obj.spec.schema_version
    major = version.partition(".")[0]
    return None if major == "1" else reason("SchemaVersionUnknown", version=version[:32])


def refusal(obj: KubeOS | NodeGroup | Rollout) -> Reason | None:
    """Why nothing may be begun from this object: an unknown schema, or a value that nobody could handle."""
    if isinstance(obj, KubeOS):
        return _too_deep(obj.spec.sysconfigs) or _too_deep(obj.spec.upgradeconfigs)
    if isinstance(obj, Rollout):
        return check_schema_version(obj) or settings_refusal(obj.spec.settings)
    return check_schema_version(obj)


def settings_refusal(settings: Settings | None, needs_version: bool = True) -> Reason | None:
    """Why no host could take these settings, in the words a host would use; None where that is the host's to say."""
    if settings is None:
        return None
    too_deep = _too_deep(settings)
    if too_deep is not None:
        return too_deep
    if needs_version and not settings.version:
        return reason("SettingsUnversioned")
    configs = [
        (config.model, config.configpath, [(item.key, item.value, item.operation) for item in config.contents])
        for config in settings.configs
    ]
    try:
        lint.check(Request(version=settings.version, configs=configs))
    except HostError as error:
        return error.reason
    return None


def check_os(os: KubeOS) -> list[Reason]:
    """Warnings about a KubeOS object, at most `MAX_REASONS`, always in the same order."""
    return list(islice(_os(os.spec), MAX_REASONS))


def check_group(group: NodeGroup) -> list[Reason]:
    """Warnings about a NodeGroup, at most `MAX_REASONS`."""
    return list(islice(_group(group), MAX_REASONS))


def check_rollout(rollout: Rollout) -> list[Reason]:
    """Warnings about a Rollout, at most `MAX_REASONS`."""
    return list(islice(_rollout(rollout), MAX_REASONS))


def _os(spec: KubeOSSpec) -> Iterator[Reason]:
    if not _LABEL_VALUE.fullmatch(spec.nodeselector):
        yield reason("SelectorNotALabel", value=_short(spec.nodeselector))
    if not spec.osversion:
        yield reason("OsVersionEmpty", operation=spec.opstype)
    if spec.opstype == "config":
        if spec.sysconfigs is None or not spec.sysconfigs.version:
            yield reason("SettingsVersionEmpty")
        if spec.upgradeconfigs is not None:
            yield reason("UpgradeSettingsIgnored")
    else:
        if not spec.evictpodforce:
            yield reason("DrainCannotSucceed")
    if spec.opstype == "upgrade":
        yield from _payload(spec)
    for field in ("cacert", "clientcert", "clientkey"):
        name = getattr(spec, field) or ""
        if ".." in name.split("/"):
            yield reason("CertificateOutside", field=field, value=_short(name))
    yield from _settings(spec.sysconfigs)
    yield from _settings(spec.upgradeconfigs)


def _payload(spec: KubeOSSpec) -> Iterator[Reason]:
    if not _CHECKSUM.fullmatch(spec.checksum):
        yield reason("ChecksumForm", value=_short(spec.checksum))
    if spec.imagetype != "disk":
        if not _IMAGE_NAME.fullmatch(spec.containerimage):
            yield reason("ContainerImageForm", value=_short(spec.containerimage))
        return
    if spec.imageurl.startswith("https://"):
        if not spec.cacert:
            yield reason("CaMissing")
        if spec.mtls and not (spec.clientcert and spec.clientkey):
            yield reason("ClientCertificateMissing")
    elif spec.imageurl.startswith("http://"):
        if not spec.flag_safe:
            yield reason("HttpNotAllowed", url=_short(spec.imageurl))
    else:
        yield reason("ImageUrlForm", url=_short(spec.imageurl))


def _settings(settings: Settings | None) -> Iterator[Reason]:
    for config in settings.configs if settings else ():
        if config.model not in _FILES:
            yield reason("ModelUnknown", model=_short(config.model))
            continue
        yield from _path(config)
        yield from _contents(config)


def _path(config: SettingsModel) -> Iterator[Reason]:
    allowed = _FILES[config.model]
    if not config.configpath:
        return
    if allowed is None:
        yield reason("ConfigPathIgnored", model=config.model, path=_short(config.configpath))
    elif ".." in config.configpath.split("/") or not allowed.fullmatch(config.configpath):
        yield reason("ConfigPathUnusual", model=config.model, path=_short(config.configpath))


def _contents(config: SettingsModel) -> Iterator[Reason]:
    for key, times in Counter(setting.key for setting in config.contents).items():
        if times > 1:
            yield reason("SettingRepeated", model=config.model, key=_short(key), times=times)
    for setting in config.contents:
        if not setting.key:
            yield reason("SettingKeyEmpty", model=config.model)
        if setting.operation not in ("", "delete"):
            yield reason("SettingOperationUnknown", key=_short(setting.key), operation=_short(setting.operation))
        if config.model.startswith("grub.cmdline.") and setting.key in _BOOT_KEYS:
            yield reason("SettingUnboots", key=setting.key)
        if _is_deeper(setting.value, MAX_DEPTH):
            yield reason("SettingTooDeep", key=_short(setting.key), limit=MAX_DEPTH)


def _too_deep(settings: Settings | None) -> Reason | None:
    for config in settings.configs if settings else ():
        for setting in config.contents:
            if _is_deeper(setting.value, MAX_DEPTH):
                return reason("SettingTooDeep", key=_short(setting.key), limit=MAX_DEPTH)
    return None


def _is_deeper(value: Any, limit: int) -> bool:
    """Whether JSON nests more than `limit` levels; level by level, for recursion is what such a value attacks."""
    level = [value]
    for _ in range(limit + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if not below:
            return False
        level = below
    return True


def _group(group: NodeGroup) -> Iterator[Reason]:
    selector = group.spec.selector
    if not selector.match_labels and not selector.match_expressions:
        yield reason("SelectsEveryNode")
    pairs = [(key, [value]) for key, value in selector.match_labels.items()]
    pairs += [(need.key, need.values) for need in selector.match_expressions]
    for key, values in pairs:
        if not _LABEL_KEY.fullmatch(key):
            yield reason("LabelKeyForm", key=_short(key))
        for value in values:
            if not _LABEL_VALUE.fullmatch(value):
                yield reason("LabelValueForm", key=_short(key), value=_short(value))
    for cap in group.spec.topology:
        if not _LABEL_KEY.fullmatch(cap.key):
            yield reason("LabelKeyForm", key=_short(cap.key))
    drain = group.spec.drain
    if drain.skip and (drain.evict_unmanaged or drain.grace_period_seconds is not None):
        yield reason("DrainPolicyIgnored")


def _rollout(rollout: Rollout) -> Iterator[Reason]:
    spec = rollout.spec
    if spec.operation != UPGRADE and (spec.image or spec.images):
        yield reason("ImageIgnored", operation=spec.operation)
    if spec.operation != CONFIGURE and spec.settings is not None:
        yield reason("SettingsIgnored", operation=spec.operation)
    for number, (before, after) in enumerate(pairwise(spec.steps), start=2):
        if _does_not_grow(before, after):
            yield reason("StepDoesNotGrow", number=number, before=before.nodes, after=after.nodes)
    for name in sorted(set(spec.skip) & set(spec.retry)):
        yield reason("SkippedAndRetried", node=_short(name))
    yield from _settings(spec.settings)


def _does_not_grow(before: Step, after: Step) -> bool:
    """Only like is compared with like: whether 3 is more than 10% depends on the group."""
    if isinstance(before.nodes, int) and isinstance(after.nodes, int):
        return after.nodes <= before.nodes
    shares = [step.nodes.rstrip("%") for step in (before, after) if isinstance(step.nodes, str)]
    return len(shares) == 2 and all(s.isdecimal() for s in shares) and int(shares[1]) <= int(shares[0])


def _short(value: str) -> str:
    """A value for a message: one line, at most 80 characters."""
    line = " ".join(value.split())
    return line if len(line) <= 80 else f"{line[:77]}..."
