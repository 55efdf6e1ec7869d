"""What KubeOS accepts is accepted, and stored whole; what could never act is refused with a sentence. By kubectl."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from hostplane.api.kubeos import KubeOS, KubeOSSpec, OSInstance
from hostplane.errors import LocalError
from hostplane.local.controlplane import ControlPlane

_EXAMPLES = Path(__file__).parents[3] / "examples" / "kubeos"
_LEAST: dict[str, Any] = {"opstype": "config", "maxunavailable": 1}
_UPGRADE: dict[str, Any] = {**_LEAST, "opstype": "upgrade", "osversion": "KubeOS v2"}
_DISK = {**_UPGRADE, "imagetype": "disk", "imageurl": "https://images.example/kubeos.tar"}


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane, without KubeOS's objects before and after."""
    clear = ("delete", "os,osinstances", "--all", "--all-namespaces")
    control_plane.kubectl(*clear)
    yield control_plane
    control_plane.kubectl(*clear)


def test_every_sample_is_accepted_and_every_column_shows(cluster: ControlPlane) -> None:
    cluster.kubectl("apply", f"--filename={_EXAMPLES / 'upgrade.yaml'}", f"--filename={_EXAMPLES / 'config.yaml'}")
    cluster.kubectl("apply", f"--filename={_EXAMPLES / 'rollback.yaml'}")  # the same object, another operation
    cluster.kubectl("apply", f"--filename={_EXAMPLES / 'upgrade.yaml'}")
    cluster.kubectl("apply", f"--filename={_EXAMPLES / 'osinstance.yaml'}")
    cluster.kubectl(
        "patch",
        "osinstance/node-1",
        "--subresource=status",
        "--type=merge",
        '--patch={"status": {"sysconfigs": {"version": "s2"}, "upgradeconfigs": {"version": "u2"}}}',
    )
    cluster.kubectl(
        "patch", "os/pool-a", "--subresource=status", "--type=merge", '--patch={"status": {"summary": "1 of 4"}}'
    )
    assert _table(cluster, "os", "pool-a") == {
        "NAME": "pool-a",
        "OS VERSION": "KubeOS v2",
        "SYSCONFIG VERSION": "s1",
        "UPGRADECONFIG VERSION": "u1",
        "PROGRESS": "1 of 4",
    }
    assert _table(cluster, "osinstances", "node-1") == {
        "NAME": "node-1",
        "NODESTATUS": "idle",
        "SYSCONFIG-VERSION-CURRENT": "s2",
        "SYSCONFIG-VERSION-DESIRED": "s2",
        "UPGRADECONFIG-VERSION-CURRENT": "u2",
        "UPGRADECONFIG-VERSION-DESIRED": "",
    }


@pytest.mark.parametrize("file", sorted(_EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_stored_sample_keeps_every_field_it_had(cluster: ControlPlane, file: Path) -> None:
    written = yaml.safe_load(file.read_text("utf-8"))
    written["metadata"]["name"] = f"stored-{file.stem}"
    stored = _apply(cluster, written)
    assert {name: stored["spec"][name] for name in written["spec"]} == written["spec"]
    msgspec.convert(stored, KubeOS if written["kind"] == "OS" else OSInstance)


def test_the_least_object_is_stored_with_every_field_that_kubeos_decodes(cluster: ControlPlane) -> None:
    stored = _would_store(cluster, _os(**_LEAST))
    optional = {"cacert", "clientcert", "clientkey", "sysconfigs", "upgradeconfigs", "timewindow"}
    fields = {field.encode_name for field in msgspec.structs.fields(KubeOSSpec)}
    assert fields - stored["spec"].keys() == optional
    assert stored["spec"]["nodeselector"] == "no-label"
    assert stored["spec"]["timeinterval"] == 15
    assert stored["spec"]["executionmode"] == "parallel"


def test_an_osinstance_is_stored_with_the_fields_that_kubeos_decodes(cluster: ControlPlane) -> None:
    stored = _would_store(cluster, _object("OSInstance", {"namespacedname": {"name": "pool-a"}}))
    assert stored["spec"] == {"nodestatus": "", "namespacedname": {"name": "pool-a", "namespace": ""}}


_ACCEPTED: dict[str, dict[str, Any]] = {
    "config without imagetype": _LEAST,
    "config with an empty imagetype": {**_LEAST, "imagetype": ""},
    "config with any imagetype": {**_LEAST, "imagetype": "docker", "containerimage": ""},
    "rollback without imagetype": {**_LEAST, "opstype": "rollback", "osversion": "KubeOS v1"},
    "rollback with an empty imagetype": {**_LEAST, "opstype": "rollback", "imagetype": "", "checksum": ""},
    "disk with imageurl, without flagSafe and mtls": _DISK,
    "disk over http": {**_DISK, "imageurl": "http://10.0.0.1:8080/kubeos.tar", "flagSafe": True},
    "containerd without imageurl": {**_UPGRADE, "imagetype": "containerd", "containerimage": "r/k:v2"},
    "docker by digest": {**_UPGRADE, "imagetype": "docker", "containerimage": "r/k@sha256:00"},
    "a placeholder for the checksum": {**_DISK, "checksum": "<digest hex>"},
    "every node": {**_LEAST, "nodeselector": "all-label"},
    "nodes without the label": {**_LEAST, "nodeselector": "no-label"},
    "nodes with an empty label": {**_LEAST, "nodeselector": ""},
    "the longest label": {**_LEAST, "nodeselector": "a" * 63},
    "timeinterval 0": {**_LEAST, "timeinterval": 0},
    "both ends empty": {**_LEAST, "timewindow": {"starttime": "", "endtime": ""}},
    "a window across midnight": {**_LEAST, "timewindow": {"starttime": "22:00:00", "endtime": "04:00:00"}},
    "a window of dates": {
        **_LEAST,
        "timewindow": {"starttime": "2028-02-29 23:59:59", "endtime": "2028-03-01 00:00:00"},
    },
    "settings without contents": {**_LEAST, "sysconfigs": {"version": "", "configs": [{"model": "x"}]}},
    "any value of a setting": {
        **_LEAST,
        "sysconfigs": {"configs": [{"contents": [{"key": "k", "value": value} for value in (1, 1.5, True, "s")]}]},
    },
    "lists and maps as values": {
        **_LEAST,
        "sysconfigs": {"configs": [{"contents": [{"key": "k", "value": [{"a": [1]}]}, {"value": {"b": {}}}]}]},
    },
    "an unknown operation": {**_LEAST, "sysconfigs": {"configs": [{"contents": [{"operation": "append"}]}]}},
    "nulls": {**_LEAST, "imageurl": None, "timewindow": None, "sysconfigs": {"version": None}, "cacert": None},
    "more nodes than there can be": {**_LEAST, "maxunavailable": 10**9},
}


@pytest.mark.parametrize("name", _ACCEPTED)
def test_accepts(cluster: ControlPlane, name: str) -> None:
    stored = _would_store(cluster, _os(**_ACCEPTED[name]))
    assert msgspec.convert(stored, KubeOS).spec.opstype == stored["spec"]["opstype"]


_WINDOW = "write YYYY-MM-DD HH:MM:SS or HH:MM:SS"
_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "maxunavailable 0": ({**_LEAST, "maxunavailable": 0}, "maxunavailable is at least 1"),
    "maxunavailable -1": ({**_LEAST, "maxunavailable": -1}, "maxunavailable is at least 1"),
    "maxunavailable 10%": ({**_LEAST, "maxunavailable": "10%"}, "must be of type integer"),
    "no maxunavailable": ({"opstype": "config"}, "spec.maxunavailable: Required value"),
    "no opstype": ({"maxunavailable": 1}, "spec.opstype: Required value"),
    "another opstype": ({**_LEAST, "opstype": "downgrade"}, 'supported values: "upgrade", "config", "rollback"'),
    "another imagetype": ({**_LEAST, "imagetype": "podman"}, "spec.imagetype: Unsupported value"),
    "another executionmode": ({**_LEAST, "executionmode": "all"}, "spec.executionmode: Unsupported value"),
    "an upgrade without imagetype": (_UPGRADE, "an upgrade needs imagetype disk, containerd or docker"),
    "disk without imageurl": ({**_UPGRADE, "imagetype": "disk"}, "needs an imageurl that begins with http:// or"),
    "disk by ftp": ({**_DISK, "imageurl": "ftp://x/y"}, "needs an imageurl that begins with http:// or"),
    "containerd without image": (
        {**_UPGRADE, "imagetype": "containerd"},
        "containerd or docker needs a containerimage",
    ),
    "docker without image": ({**_UPGRADE, "imagetype": "docker"}, "containerd or docker needs a containerimage"),
    "only starttime": ({**_LEAST, "timewindow": {"starttime": "22:00:00", "endtime": ""}}, "give both starttime and"),
    "only endtime": ({**_LEAST, "timewindow": {"starttime": "", "endtime": "22:00:00"}}, "give both starttime and"),
    "endtime missing": ({**_LEAST, "timewindow": {"starttime": "22:00:00"}}, "timewindow.endtime: Required value"),
    "hour 24": ({**_LEAST, "timewindow": {"starttime": "24:00:00", "endtime": "01:00:00"}}, _WINDOW),
    "one digit": ({**_LEAST, "timewindow": {"starttime": "9:00:00", "endtime": "10:00:00"}}, _WINDOW),
    "no seconds": ({**_LEAST, "timewindow": {"starttime": "09:00", "endtime": "10:00"}}, _WINDOW),
    "ISO form": (
        {**_LEAST, "timewindow": {"starttime": "2026-01-01T09:00:00Z", "endtime": "2026-01-02T09:00:00Z"}},
        _WINDOW,
    ),
    "30 February": (
        {**_LEAST, "timewindow": {"starttime": "2026-02-30 09:00:00", "endtime": "2026-03-01 09:00:00"}},
        _WINDOW,
    ),
    "mixed forms": (
        {**_LEAST, "timewindow": {"starttime": "09:00:00", "endtime": "2026-03-01 09:00:00"}},
        "have the same form",
    ),
    "equal ends": (
        {**_LEAST, "timewindow": {"starttime": "09:00:00", "endtime": "09:00:00"}},
        "this window would never be open",
    ),
    "dates backwards": (
        {**_LEAST, "timewindow": {"starttime": "2026-03-02 09:00:00", "endtime": "2026-03-01 09:00:00"}},
        "endtime lies before starttime",
    ),
    "a selector with a blank": ({**_LEAST, "nodeselector": "pool a"}, "nodeselector is a label value"),
    "a selector of 64": ({**_LEAST, "nodeselector": "a" * 64}, "nodeselector is a label value"),
    "a selector with a line break": ({**_LEAST, "nodeselector": "pool\n"}, "nodeselector is a label value"),
    "timeinterval -1": ({**_LEAST, "timeinterval": -1}, "timeinterval is a number of seconds, 0 or more"),
    "an endless version": ({**_LEAST, "osversion": "v" * 257}, "may not be more than 256"),
    "too many settings": (
        {**_LEAST, "sysconfigs": {"configs": [{"contents": [{"key": "k"}] * 1025}]}},
        "must have at most 1024 items",
    ),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_refuses(cluster: ControlPlane, name: str) -> None:
    spec, sentence = _REFUSED[name]
    with pytest.raises(LocalError) as caught:
        _would_store(cluster, _os(**spec))
    assert sentence in str(caught.value)


def test_an_object_from_before_the_rules_can_still_be_labelled_and_reported_on(cluster: ControlPlane) -> None:
    """A cluster that adopts these definitions holds objects that only KubeOS's own ever checked."""
    crd = "customresourcedefinitions/os.upgrade.openeuler.org"
    now = json.loads(cluster.kubectl("get", crd, "--output=json"))
    lax = json.loads(json.dumps(now))
    schema = lax["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del schema["x-kubernetes-validations"], schema["properties"]["maxunavailable"]["x-kubernetes-validations"]
    try:
        _replace(cluster, lax)
        _until(cluster, _os(**{**_UPGRADE, "maxunavailable": 0}), accepted=True)
    finally:
        _replace(cluster, now)
    _until(cluster, _os(**{**_LEAST, "maxunavailable": 0}, name="probe"), accepted=False)
    cluster.kubectl("label", "os/sample", "team=edge")
    cluster.kubectl("patch", "os/sample", "--subresource=status", "--type=merge", '--patch={"status": {"total": 3}}')
    stored = json.loads(cluster.kubectl("get", "os/sample", "--output=json"))
    assert msgspec.convert(stored, KubeOS).spec.maxunavailable == 0
    cluster.kubectl(
        "patch", "os/sample", "--type=merge", '--patch={"spec": {"maxunavailable": 1, "opstype": "config"}}'
    )


def _object(kind: str, spec: dict[str, Any], name: str = "sample") -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "upgrade.openeuler.org/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def _os(name: str = "sample", **spec: Any) -> dict[str, Any]:
    return _object("OS", spec, name)


def _apply(cluster: ControlPlane, manifest: dict[str, Any]) -> Any:
    return json.loads(cluster.kubectl("apply", "--filename=-", "--output=json", stdin=json.dumps(manifest)))


def _would_store(cluster: ControlPlane, manifest: dict[str, Any]) -> Any:
    """The object as the API server would store it; it does all but that."""
    command = ("create", "--dry-run=server", "--filename=-", "--output=json")
    return json.loads(cluster.kubectl(*command, stdin=json.dumps(manifest)))


def _replace(cluster: ControlPlane, crd: dict[str, Any]) -> None:
    crd["metadata"].pop("resourceVersion", None)
    cluster.kubectl("replace", "--filename=-", stdin=json.dumps(crd))


def _until(cluster: ControlPlane, manifest: dict[str, Any], *, accepted: bool) -> None:
    """The server takes up a changed definition a moment after it is stored."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            _apply(cluster, manifest)
        except LocalError:
            if not accepted:
                return
        else:
            if accepted:
                return
    pytest.fail("the changed definition was not taken up in 30 s")


def _table(cluster: ControlPlane, kind: str, name: str) -> dict[str, str]:
    """One row of `kubectl get` by column; cells are read by the positions of the header."""
    header, row = cluster.kubectl("get", kind, name).splitlines()[:2]
    starts = [match.start() for match in re.finditer(r"\S+(?: \S+)*", header)]
    ends = [*starts[1:], None]
    return {header[a:b].strip(): row[a:b].strip() for a, b in zip(starts, ends, strict=True)}
