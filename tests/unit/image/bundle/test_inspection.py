"""Inspecting tells what a bundle holds; comparing two tells what an upgrade changes and costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from hostplane.cli.image import diff as diff_verb
from hostplane.cli.image import inspect as inspect_verb
from hostplane.errors import HostError, ImageError
from hostplane.image.bundle.difference import Changed, compare
from hostplane.image.bundle.inspection import inspect
from hostplane.image.bundle.ocilayout import open_bundle
from tests.unit.image import bundle_play as play

SBOM: dict[str, Any] = {
    "bomFormat": "CycloneDX",
    "components": [
        {"type": "library", "name": "openssl", "version": "3.0.1"},
        {"type": "library", "name": "kernel", "version": "6.1"},
        {"type": "operating-system", "name": "node", "version": "1"},
    ],
}
INVENTORY: dict[str, Any] = {
    "schema": "1.0",
    "osRelease": {"ID": "some"},
    "kernels": ["6.1"],
    "setuid": [{"path": "/usr/bin/su", "mode": "4755", "owner": 0, "group": 0}],
    "listeners": [
        {"unit": "sshd.service", "protocol": "tcp", "address": "22", "how": "known service"},
        {"unit": "a.socket", "protocol": "unix", "address": "/run/a", "how": "socket unit"},
    ],
    "enabledUnits": ["sshd.service"],
    "accounts": [{"name": "ops", "uid": 1000, "shell": "/bin/sh", "password": "none", "sshKeys": 1}],
    "later": 1,
}
SIZES: dict[str, Any] = {
    "total": 30,
    "packages": [{"name": "openssl", "size": 10, "files": 1, "installed": 12}, {"name": "kernel", "size": 20}],
    "unowned": {"/opt": 5},
    "removed": {"documentation": 7},
}


def built(directory: Path, root: bytes, **changes: Any) -> Path:
    """A bundle in a build's directory, with the documents above but for `changes`."""
    directory.mkdir(parents=True)
    paths = {}
    for name, value in {"sbom": SBOM, "inventory": INVENTORY, "sizes": SIZES, **changes}.items():
        paths[name] = directory / f"{name}.json"
        paths[name].write_text(json.dumps(value))
    play.write(directory, root, **paths)
    return directory


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return built(tmp_path / "old", play.blocks(range(1, 400)))


@pytest.fixture
def new(tmp_path: Path) -> Path:
    components = [{"name": "openssl", "version": "3.0.2"}, {"name": "curl", "version": "8"}]
    inventory = {**INVENTORY, "setuid": [], "enabledUnits": [], "listeners": [], "capabilities": []}
    inventory["capabilities"] = [{"path": "/usr/bin/ping", "capabilities": "cap_net_raw=ep"}]
    changed = [number if number not in (7, 8) else -number for number in range(1, 400)]
    return built(tmp_path / "new", play.blocks(changed), sbom={"components": components}, inventory=inventory)


def output(command: Any, *words: object) -> str:
    done = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_bundle_tells_everything_it_carries(old: Path) -> None:
    found = inspect(old, verified=True)
    assert [(one.name, one.version, one.size) for one in found.packages] == [
        ("kernel", "6.1", 20),
        ("openssl", "3.0.1", 10),
    ]
    assert found.inventory is not None
    assert [one.path for one in found.inventory.setuid] == ["/usr/bin/su"]
    assert (found.unowned, found.removed) == ({"/opt": 5}, {"documentation": 7})
    assert [(one.name, one.content // 4096) for one in found.images] == [("boot", 2), ("root", 399)]
    manifest = open_bundle(old / "bundle").manifest
    assert (found.digest, found.sbom_digest) == (manifest.digest, manifest.sbom.digest)
    assert found.size == sum(layer.size for layer in manifest.layers)
    assert (found.verified, found.boot_arguments) == (True, ["quiet", "mitigations=auto"])


def test_tables_and_json_say_the_same(old: Path) -> None:
    text = output(inspect_verb.command, old)
    for word in ("/usr/bin/su", "tcp 22", "known service", "openssl", "documentation", "mitigations=auto", "1.0.*"):
        assert word in text
    assert "/run/a" not in text
    found = json.loads(output(inspect_verb.command, old / "bundle", "--json", "--verify"))
    assert (found["kind"], found["signatureState"], found["verified"]) == ("bundle", "None", True)
    assert found["images"][1]["verityRootHash"] == "ab" * 32


def test_a_bundle_without_reports_is_inspected_too(tmp_path: Path) -> None:
    play.write(tmp_path, play.blocks([1]))
    assert inspect(tmp_path).inventory is None
    assert "node" in output(inspect_verb.command, tmp_path)


@pytest.mark.parametrize(
    ("part", "value"),
    [("sbom", []), ("sbom", {"components": [1]}), ("inventory", {"setuid": [{}]}), ("sizes", {"packages": {"a": 1}})],
)
def test_a_report_of_another_form_is_refused_by_name(tmp_path: Path, part: str, value: object) -> None:
    built(tmp_path / "x", play.blocks([1]), **{part: value})
    with pytest.raises(HostError) as caught:
        inspect(tmp_path / "x")
    assert caught.value.name == "BundleInvalid"


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 16))
    for path in (tmp_path / "missing", tmp_path, tmp_path / "file"):
        with pytest.raises(ImageError) as caught:
            inspect(path)
        assert caught.value.name == "InspectNothing"


def test_comparing_names_what_came_went_and_changed(old: Path, new: Path) -> None:
    found = compare(old, new)
    assert found.packages == [
        Changed(name="curl", old="", new="8"),
        Changed(name="kernel", old="6.1", new="", size=-20),
        Changed(name="openssl", old="3.0.1", new="3.0.2"),
    ]
    assert [(one.name, one.new) for one in found.setuid] == [("/usr/bin/su", "")]
    assert [one.name for one in found.capabilities] == ["/usr/bin/ping"]
    assert [one.name for one in found.units] == ["sshd.service"]
    assert [one.name for one in found.listeners] == ["tcp 22 (sshd.service)"]
    assert (found.accounts, found.boot_arguments, found.facts) == ([], [], [])


def test_comparing_tells_the_download(old: Path, new: Path) -> None:
    download = compare(old, new).download
    assert download is not None
    assert (download.missing_blocks, download.blocks, download.missing_frames) == (2, 401, 1)
    assert 0 < download.per_block < download.whole_frames < download.full
    assert download.total == download.whole_frames + download.index


def test_the_same_image_costs_no_frame(old: Path) -> None:
    download = compare(old, old).download
    assert download is not None
    assert (download.missing_blocks, download.whole_frames, download.per_block) == (0, 0, 0)


def test_blocks_of_the_boot_image_are_held_for_the_root_too(tmp_path: Path) -> None:
    play.write(tmp_path / "a", play.blocks([1]), play.blocks([7, 8]))
    play.write(tmp_path / "b", play.blocks([8, 7]), play.blocks([1]))
    download = compare(tmp_path / "a", tmp_path / "b").download
    assert download is not None
    assert download.missing_blocks == 0


def test_building_upon_the_older_bundle_makes_the_download_smaller(tmp_path: Path) -> None:
    numbers = list(range(1, 400))
    changed = [number if number % 40 else -number for number in numbers]
    play.write(tmp_path / "a", play.blocks(numbers))
    play.write(tmp_path / "plain", play.blocks(changed))
    play.write(tmp_path / "upon", play.blocks(changed), previous=tmp_path / "a/bundle")
    plain, upon = (compare(tmp_path / "a", tmp_path / name).download for name in ("plain", "upon"))
    assert plain is not None
    assert upon is not None
    assert (plain.missing_blocks, upon.missing_blocks, upon.missing_frames) == (9, 9, 1)
    assert upon.whole_frames < plain.whole_frames


def test_the_difference_is_printed_both_ways(old: Path, new: Path) -> None:
    text = output(diff_verb.command, old, new)
    for word in ("Packages: 1 added, 1 removed, 1 changed", "3.0.2", "whole frames", "2 of 401 blocks"):
        assert word in text
    found = json.loads(output(diff_verb.command, old, new, "--json"))
    assert found["download"]["missingBlocks"] == 2


def test_facts_that_differ_are_told(tmp_path: Path) -> None:
    play.write(tmp_path / "a", play.blocks([1]))
    later = msgspec.structs.replace(play.METADATA, version="1.3", state_versions={"containerd": "2.0"}, verity=None)
    play.write(tmp_path / "b", play.blocks([1]), metadata=later)
    found = {one.name: (one.old, one.new) for one in compare(tmp_path / "a", tmp_path / "b").facts}
    assert found["version"] == ("1.2~rc1", "1.3")
    assert found["stateVersions.containerd"] == ("1.7.2", "2.0")
    assert found["verity"] == ("ab" * 32, "")
