"""Our own kinds by kubectl: the examples are accepted, what contradicts itself is refused with a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from hostplane.api.crds import DEFINITIONS
from hostplane.errors import LocalError
from hostplane.local.controlplane import ControlPlane

_EXAMPLES = Path(__file__).parents[3] / "examples" / "native"
_KINDS = {definition.resource.kind: definition.resource for definition in DEFINITIONS}
_DIGEST = "sha256:" + "0" * 64
_WINDOW = {"start": "22:00", "duration": "4h"}
_GROUP: dict[str, Any] = {"selector": {}}
_ROLLOUT: dict[str, Any] = {"operation": "upgrade", "groups": ["g", "h"], "image": "i"}
_VARIANT = {"architecture": "amd64", "format": "rootTar", "ref": "https://x/y", "digest": _DIGEST, "size": 1}
_IMAGE: dict[str, Any] = {"distro": "debian", "version": "2", "variants": [_VARIANT]}
_GRANT = {"seq": 7, "operation": "upgrade", "digest": _DIGEST, "stage": "Reserved"}
_BASES = {"NodeGroup": _GROUP, "Rollout": _ROLLOUT, "OSImage": _IMAGE, "Host": {}, "Ledger": {}}


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane, without our objects before and after."""
    clear = ("delete", "osimages,nodegroups,rollouts,hosts,ledgers", "--all")
    control_plane.kubectl(*clear)
    yield control_plane
    control_plane.kubectl(*clear)


@pytest.mark.parametrize("file", sorted(_EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_an_example_is_stored_as_written(cluster: ControlPlane, file: Path) -> None:
    written = yaml.safe_load(file.read_text("utf-8"))
    stored = json.loads(cluster.kubectl("apply", f"--filename={file}", "--output=json"))
    assert _within(written["spec"], stored["spec"])
    assert stored["spec"]["schemaVersion"] == "1.0"
    msgspec.convert(stored, _KINDS[written["kind"]].type)


def test_defaults_are_there_to_be_read(cluster: ControlPlane) -> None:
    group = _would_store(cluster, "NodeGroup", _GROUP)["spec"]
    assert (group["mode"], group["maxUnavailable"], group["drain"]["deadlineSeconds"]) == ("Managed", 1, 1800)
    rollout = _would_store(cluster, "Rollout", _ROLLOUT)["spec"]
    assert (rollout["failureThreshold"], rollout["trialSeconds"]) == (1, 7200)
    assert _would_store(cluster, "Ledger", None, name="cluster")["spec"] == {"schemaVersion": "1.0", "nextSeq": 1}


def test_columns_answer_how_far_it_is(cluster: ControlPlane) -> None:
    _store(cluster, "Rollout", _ROLLOUT, name="columns")
    status = {"status": {"phase": "Running", "summary": "3 of 12 done", "counts": {"failed": 1}}}
    patch = ("--subresource=status", "--type=merge", f"--patch={json.dumps(status)}")
    cluster.kubectl("patch", "rollout/columns", *patch)
    row = cluster.kubectl("get", "ro", "columns", "--output=wide")
    assert all(word in row for word in ("upgrade", "Running", "3 of 12 done", "FAILED"))
    for resource in _KINDS.values():
        assert "error" not in cluster.kubectl("get", resource.plural, "--output=wide").lower()


_PERCENT = "give a count of at least 1, or a share from 1% to 100%"
_REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    **{
        f"maxUnavailable {value!r}": ("NodeGroup", {"maxUnavailable": value}, _PERCENT)
        for value in (0, -1, "0%", "101%", "-5%", "1.5%", "all", "", "5", "%")
    },
    "a whole pool at a time, in words": ("NodeGroup", {"maxUnavailable": True}, "must be of type integer,string"),
    "failureThreshold 0": ("Rollout", {"failureThreshold": 0}, _PERCENT),
    "a step of nobody": ("Rollout", {"steps": [{"nodes": 0}]}, _PERCENT),
    "a zone cap of 0": ("NodeGroup", {"topology": [{"key": "z", "maxUnavailable": 0}]}, _PERCENT),
    "two caps of one key": ("NodeGroup", {"topology": [{"key": "z"}, {"key": "z"}]}, "Duplicate value"),
    **{
        f"a window of {value!r}": ("NodeGroup", {"windows": [{**_WINDOW, "duration": value}]}, "at most 168h")
        for value in ("169h", "10081m", "0h", "4", "4d", "-1h", "1h30m", "")
    },
    "a window at 24:00": ("NodeGroup", {"windows": [{**_WINDOW, "start": "24:00"}]}, "should match"),
    "Monday twice": ("NodeGroup", {"windows": [{**_WINDOW, "weekdays": ["Mon", "Mon"]}]}, "Duplicate value"),
    "Monday in full": ("NodeGroup", {"windows": [{**_WINDOW, "weekdays": ["Monday"]}]}, 'supported values: "Mon"'),
    "another mode": ("NodeGroup", {"mode": "Off"}, 'supported values: "Managed", "Hidden"'),
    "In without values": (
        "NodeGroup",
        {"selector": {"matchExpressions": [{"key": "k", "operator": "In"}]}},
        "In and NotIn need values",
    ),
    "no groups": ("Rollout", {"groups": []}, "should have at least 1 items"),
    "a group twice": ("Rollout", {"groups": ["g", "g"]}, "Duplicate value"),
    "an upgrade to nothing": ("Rollout", {"image": None}, "an upgrade names an image, or images by group"),
    "an upgrade to an empty name": ("Rollout", {"image": ""}, "an upgrade names an image, or images by group"),
    "image and images": ("Rollout", {"images": {"g": "i", "h": "i"}}, "give either image or images, not both"),
    "images for a stranger": (
        "Rollout",
        {"image": None, "images": {"g": "i", "h": "i", "x": "i"}},
        "images names a group that is not in groups",
    ),
    "images for half": ("Rollout", {"image": None, "images": {"g": "i"}}, "names one for every group"),
    "configure nothing": ("Rollout", {"operation": "configure"}, "configure needs settings"),
    "another operation": ("Rollout", {"operation": "reboot"}, 'supported values: "upgrade", "rollback", "configure"'),
    "two payloads for one architecture": ("OSImage", {"variants": [_VARIANT, _VARIANT]}, "Duplicate value"),
    "no payload": ("OSImage", {"variants": []}, "should have at least 1 items"),
    "a short digest": ("OSImage", {"variants": [{**_VARIANT, "digest": "sha256:00"}]}, "should match"),
    "an empty payload": ("OSImage", {"variants": [{**_VARIANT, "size": 0}]}, "greater than or equal to 1"),
    "grant 0": ("Host", {"grant": {**_GRANT, "seq": 0}}, "greater than or equal to 1"),
    "another stage": ("Host", {"grant": {**_GRANT, "stage": "Go"}}, 'supported values: "Reserved", "Switch"'),
    "another ledger": ("Ledger", {}, "there is one Ledger, and its name is cluster"),
    **{
        f"schema {version} of {kind}": (kind, {"schemaVersion": version}, "spec.schemaVersion in body should match")
        for kind in _BASES
        for version in ("2.0", "0.9", "1", "")
    },
}


@pytest.mark.parametrize("name", _REFUSED)
def test_refuses(cluster: ControlPlane, name: str) -> None:
    kind, changes, sentence = _REFUSED[name]
    with pytest.raises(LocalError) as caught:
        _would_store(cluster, kind, {**_BASES[kind], **changes})
    assert sentence in str(caught.value)


_ACCEPTED: dict[str, tuple[str, dict[str, Any]]] = {
    "one in a hundred": ("NodeGroup", {"maxUnavailable": "1%"}),
    "all at once": ("NodeGroup", {"maxUnavailable": "100%"}),
    "a week": ("NodeGroup", {"windows": [{**_WINDOW, "duration": "168h"}]}),
    "a later minor version": ("NodeGroup", {"schemaVersion": "1.27"}),
    "images by group": ("Rollout", {"image": None, "images": {"g": "i", "h": "j"}}),
    "a rollback without image": ("Rollout", {"operation": "rollback", "image": None}),
    "a configure": ("Rollout", {"operation": "configure", "image": None, "settings": {"version": "s1"}}),
    "as many groups as there may be": ("Rollout", {"groups": [f"g{i}".ljust(253, "x") for i in range(64)]}),
}


@pytest.mark.parametrize("name", _ACCEPTED)
def test_accepts(cluster: ControlPlane, name: str) -> None:
    kind, changes = _ACCEPTED[name]
    _would_store(cluster, kind, {**_BASES[kind], **changes})


@pytest.mark.parametrize(
    ("kind", "first", "then", "sentence"),
    [
        ("OSImage", _IMAGE, {"version": "3"}, "an OSImage is immutable"),
        ("OSImage", _IMAGE, {"stateVersions": {"kubelet": "1.35"}}, "an OSImage is immutable"),
        ("Rollout", _ROLLOUT, {"operation": "rollback"}, "operation is fixed"),
        ("Host", {"grant": _GRANT}, {"grant": {**_GRANT, "seq": 6}}, "grant.seq only grows"),
    ],
)
def test_refuses_to_change(
    cluster: ControlPlane, kind: str, first: dict[str, Any], then: dict[str, Any], sentence: str
) -> None:
    name = f"fixed-{sorted(then)[0].lower()}"
    _store(cluster, kind, first, name=name)
    with pytest.raises(LocalError) as caught:
        cluster.kubectl("patch", kind.lower(), name, "--type=merge", f"--patch={json.dumps({'spec': then})}")
    assert sentence in str(caught.value)


def _manifest(kind: str, spec: dict[str, Any] | None, name: str) -> str:
    body = _KINDS[kind].manifest(name)
    if spec is not None:
        body["spec"] = {key: value for key, value in spec.items() if value is not None}
    return json.dumps(body)


def _would_store(cluster: ControlPlane, kind: str, spec: dict[str, Any] | None, name: str = "sample") -> Any:
    """The object as the API server would store it; it does all but that."""
    command = ("create", "--dry-run=server", "--filename=-", "--output=json")
    return json.loads(cluster.kubectl(*command, stdin=_manifest(kind, spec, name)))


def _store(cluster: ControlPlane, kind: str, spec: dict[str, Any], name: str) -> None:
    cluster.kubectl("apply", "--filename=-", stdin=_manifest(kind, spec, name))


def _within(part: Any, whole: Any) -> bool:
    """Whether `whole` says all that `part` says; defaults may have joined."""
    if isinstance(part, dict):
        return all(key in whole and _within(value, whole[key]) for key, value in part.items())
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(_within, part, whole))
    return bool(part == whole)
