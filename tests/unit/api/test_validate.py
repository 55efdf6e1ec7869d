"""Every warning: what brings it, and that a sensible object has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from hostplane.api.host import Host
from hostplane.api.kubeos import KubeOS
from hostplane.api.nodegroup import NodeGroup
from hostplane.api.rollout import Rollout
from hostplane.api.validate import MAX_REASONS, check_group, check_os, check_rollout, check_schema_version
from hostplane.errors import catalogue

_EXAMPLES = Path(__file__).parents[3] / "examples"
_SHA = "A0" * 32
_URL = "https://images.example/kubeos.tar"
_CONFIG: dict[str, Any] = {
    "opstype": "config",
    "maxunavailable": 1,
    "osversion": "KubeOS v2",
    "sysconfigs": {"version": "s1", "configs": []},
}
_UPGRADE: dict[str, Any] = {
    "opstype": "upgrade",
    "maxunavailable": 1,
    "osversion": "KubeOS v2",
    "evictpodforce": True,
    "imagetype": "containerd",
    "containerimage": "registry.example:5000/team/kubeos:v2",
    "checksum": _SHA,
}
_DISK = {**_UPGRADE, "imagetype": "disk", "imageurl": _URL, "cacert": "ca.pem"}


def _os(spec: dict[str, Any]) -> list[str]:
    found = msgspec.convert({"metadata": {"name": "n"}, "spec": spec}, KubeOS)
    return [why.name for why in check_os(found)]


def _with(model: str, *contents: dict[str, Any], path: str = "") -> dict[str, Any]:
    configs = [{"model": model, "configpath": path, "contents": list(contents)}]
    return {**_CONFIG, "sysconfigs": {"version": "s1", "configs": configs}}


@pytest.mark.parametrize("spec", [_CONFIG, _UPGRADE, _DISK])
def test_a_sensible_object_has_no_warning(spec: dict[str, Any]) -> None:
    assert _os(spec) == []


@pytest.mark.parametrize("file", sorted(_EXAMPLES.glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_the_examples_have_no_warning_but_for_the_manuals_own(file: Path) -> None:
    body = yaml.safe_load(file.read_text("utf-8"))
    checks: dict[str, Any] = {
        "OS": lambda: check_os(msgspec.convert(body, KubeOS)),
        "NodeGroup": lambda: check_group(msgspec.convert(body, NodeGroup)),
        "Rollout": lambda: check_rollout(msgspec.convert(body, Rollout)),
    }
    assert checks.get(body["kind"], list)() == []


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({**_CONFIG, "nodeselector": "pool a"}, ["SelectorNotALabel"]),
        ({**_CONFIG, "nodeselector": "pool\n"}, ["SelectorNotALabel"]),
        ({**_CONFIG, "osversion": ""}, ["OsVersionEmpty"]),
        ({**_CONFIG, "sysconfigs": None}, ["SettingsVersionEmpty"]),
        ({**_CONFIG, "sysconfigs": {"configs": []}}, ["SettingsVersionEmpty"]),
        ({**_CONFIG, "upgradeconfigs": {"version": "u"}}, ["UpgradeSettingsIgnored"]),
        ({**_UPGRADE, "evictpodforce": False}, ["DrainCannotSucceed"]),
        ({**_UPGRADE, "checksum": ""}, ["ChecksumForm"]),
        ({**_UPGRADE, "checksum": f"sha256:{_SHA}"}, ["ChecksumForm"]),
        ({**_UPGRADE, "checksum": _SHA + "\n"}, ["ChecksumForm"]),
        ({**_UPGRADE, "containerimage": "r/k:v2@sha256:" + _SHA}, ["ContainerImageForm"]),
        ({**_UPGRADE, "containerimage": ""}, ["ContainerImageForm"]),
        ({**_UPGRADE, "imagetype": "docker", "containerimage": "a b"}, ["ContainerImageForm"]),
        ({**_DISK, "cacert": None}, ["CaMissing"]),
        ({**_DISK, "mtls": True, "clientcert": "c.pem"}, ["ClientCertificateMissing"]),
        ({**_DISK, "mtls": True, "clientcert": "c.pem", "clientkey": "k.pem"}, []),
        ({**_DISK, "imageurl": "http://x/y"}, ["HttpNotAllowed"]),
        ({**_DISK, "imageurl": "http://x/y", "flagSafe": True}, []),
        ({**_DISK, "imageurl": ""}, ["ImageUrlForm"]),
        ({**_DISK, "cacert": "../../shadow"}, ["CertificateOutside"]),
        ({**_CONFIG, "clientkey": "a/../../b"}, ["CertificateOutside"]),
        ({**_CONFIG, "clientkey": "team/key..pem"}, []),
    ],
)
def test_warns_about_an_os(spec: dict[str, Any], names: list[str]) -> None:
    assert _os(spec) == names


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (_with("kuberntes.kubelet", {"key": "k"}), ["ModelUnknown"]),
        (_with("pam.limits", path="/etc/security/limits.conf"), ["ConfigPathIgnored"]),
        (_with("kernel.sysctl.persist", path="/etc/sysctl.d/90-x.conf"), []),
        (_with("kernel.sysctl.persist", path="/etc/shadow"), ["ConfigPathUnusual"]),
        (_with("kubernetes.kubelet", path="/var/lib/kubelet/config.yaml"), []),
        (_with("kubernetes.kubelet", path="/var/lib/kubelet/../x.yaml"), ["ConfigPathUnusual"]),
        (_with("container.containerd", path="/etc/containerd/config.toml"), []),
        (_with("kernel.sysctl", {"key": "a", "value": 1}, {"key": "a", "value": 2}), ["SettingRepeated"]),
        (_with("kernel.sysctl", {"value": 1}), ["SettingKeyEmpty"]),
        (_with("kernel.sysctl", {"key": "a", "operation": "append"}), ["SettingOperationUnknown"]),
        (_with("kernel.sysctl", {"key": "a", "operation": "delete"}), []),
        (_with("grub.cmdline.next", {"key": "root", "value": "/dev/sda9"}), ["SettingUnboots"]),
        (_with("kernel.sysctl", {"key": "root", "value": "1"}), []),
    ],
)
def test_warns_about_settings(spec: dict[str, Any], names: list[str]) -> None:
    assert _os(spec) == names
    assert _os({**_UPGRADE, "upgradeconfigs": spec["sysconfigs"]}) == names


@pytest.mark.parametrize(("levels", "names"), [(32, []), (33, ["SettingTooDeep"]), (900, ["SettingTooDeep"])])
def test_warns_about_a_value_that_nests_without_recursing_into_it(levels: int, names: list[str]) -> None:
    lists: Any = 1
    maps: Any = 1
    for _ in range(levels):
        lists, maps = [lists], {"a": maps}
    for value in (lists, maps):
        assert _os(_with("kubernetes.kubelet", {"key": "k", "value": value})) == names


def test_a_flood_of_faults_is_cut_off() -> None:
    contents = [{"key": "x" * 1000, "operation": f"{i}" * 64} for i in range(1000)]
    found = msgspec.convert({"metadata": {}, "spec": _with("kernel.sysctl", *contents)}, KubeOS)
    reasons = check_os(found)
    assert len(reasons) == MAX_REASONS
    assert sum(len(str(why)) for why in reasons) < 8192


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, []),
        ({"selector": {}}, ["SelectsEveryNode"]),
        ({"selector": {"matchLabels": {"a b": "c"}}}, ["LabelKeyForm"]),
        ({"selector": {"matchLabels": {"example.com/a": "c d"}}}, ["LabelValueForm"]),
        (
            {"selector": {"matchExpressions": [{"key": "/x", "operator": "In", "values": ["-"]}]}},
            ["LabelKeyForm", "LabelValueForm"],
        ),
        ({"topology": [{"key": "a/b/c"}]}, ["LabelKeyForm"]),
        ({"drain": {"skip": True}}, []),
        ({"drain": {"skip": True, "gracePeriodSeconds": 0}}, ["DrainPolicyIgnored"]),
        ({"drain": {"skip": True, "evictUnmanaged": True}}, ["DrainPolicyIgnored"]),
    ],
)
def test_warns_about_a_group(changes: dict[str, Any], names: list[str]) -> None:
    spec = {"selector": {"matchLabels": {"role": "worker"}}, **changes}
    found = msgspec.convert({"metadata": {"name": "g"}, "spec": spec}, NodeGroup)
    assert [why.name for why in check_group(found)] == names


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"image": "i"}, []),
        ({"operation": "rollback"}, []),
        ({"operation": "rollback", "image": "i"}, ["ImageIgnored"]),
        ({"image": "i", "settings": {"version": "s"}}, ["SettingsIgnored"]),
        ({"steps": [{"nodes": 1}, {"nodes": 5}, {"nodes": "25%"}, {"nodes": "50%"}]}, []),
        ({"steps": [{"nodes": 5}, {"nodes": 5}]}, ["StepDoesNotGrow"]),
        ({"steps": [{"nodes": "50%"}, {"nodes": "5%"}]}, ["StepDoesNotGrow"]),
        ({"skip": ["a", "b"], "retry": ["b", "c"]}, ["SkippedAndRetried"]),
        (
            {"operation": "configure", "settings": {"version": "s", "configs": [{"model": "x"}]}},
            ["ModelUnknown"],
        ),
    ],
)
def test_warns_about_a_rollout(changes: dict[str, Any], names: list[str]) -> None:
    spec = {"operation": "upgrade", "groups": ["g"], **changes}
    found = msgspec.convert({"metadata": {"name": "r"}, "spec": spec}, Rollout)
    assert [why.name for why in check_rollout(found)] == names


@pytest.mark.parametrize(
    ("version", "known"),
    [("1.0", True), ("1.99", True), ("2.0", False), ("10.0", False), ("", False), ("x" * 99, False)],
)
def test_only_our_major_schema_version_is_known(version: str, known: bool) -> None:
    host = msgspec.convert({"metadata": {"name": "n"}, "spec": {"schemaVersion": version}}, Host)
    why = check_schema_version(host)
    assert (why is None) == known
    assert why is None or (why.name == "SchemaVersionUnknown" and len(str(why)) < 200)


def test_every_entry_of_this_room_is_used() -> None:
    source = (Path(__file__).parents[3] / "src" / "hostplane" / "api" / "validate.py").read_text("utf-8")
    mine = [name for name, entry in catalogue().items() if entry["room"] == "api"]
    assert [name for name in mine if f'"{name}"' not in source] == []
