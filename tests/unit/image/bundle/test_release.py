"""The OSImage of a bundle says what the bundle holds, where it is, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from hostplane.api.osimage import OSImageSpec
from hostplane.cli.image import osimage as verb
from hostplane.errors import ImageError
from hostplane.image.bundle.inspection import Inspection, inspect
from hostplane.image.bundle.release import object_name, osimage
from tests.unit.image import bundle_play as play
from tests.unit.image.bundle.test_inspection import INVENTORY, built

REF = "oci://registry.example/node:1.2"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    inventory = {**INVENTORY, "osRelease": {"ID": "some", "PRETTY_NAME": "Some OS 9"}}
    return built(tmp_path / "out", play.blocks([1, 2, 3]), inventory=inventory)


def test_everything_but_the_address_comes_from_the_bundle(bundle: Path) -> None:
    found = inspect(bundle)
    manifest = osimage([(found, REF)])
    assert manifest["metadata"] == {"name": "node-1.2-rc1"}
    spec = msgspec.convert(manifest["spec"], OSImageSpec)
    assert (spec.distro, spec.version, spec.pretty_name) == ("some", "1.2~rc1", "Some OS 9")
    assert spec.reachable_from == ["1.1", "1.0.*"]
    assert spec.state_versions == {"containerd": "1.7.2", "kubelet": "1.34.1"}
    (variant,) = spec.variants
    assert (variant.architecture, variant.format, variant.ref) == ("amd64", "bundle", REF)
    assert (variant.digest, variant.size, variant.sbom_digest) == (found.digest, found.size, found.sbom_digest)
    assert variant.verity_root_hash == "ab" * 32


def another(found: Inspection, **metadata: Any) -> Inspection:
    return msgspec.structs.replace(found, metadata={**found.metadata, **metadata})


def test_two_architectures_are_one_release(bundle: Path) -> None:
    found = inspect(bundle)
    manifest = osimage([(found, REF), (another(found, arch="aarch64"), REF + "-arm64")], "edge")
    assert manifest["metadata"]["name"] == "edge"
    assert [variant["architecture"] for variant in manifest["spec"]["variants"]] == ["amd64", "arm64"]


@pytest.mark.parametrize("other", [{"arch": "aarch64", "version": "1.3"}, {"arch": "aarch64", "distro": "else"}, {}])
def test_what_is_not_one_release_is_refused(bundle: Path, other: dict[str, str]) -> None:
    found = inspect(bundle)
    with pytest.raises(ImageError) as refused:
        osimage([(found, REF), (another(found, **other), REF)])
    assert refused.value.name == "ReleasesDiffer"


@pytest.mark.parametrize(
    ("text", "name"),
    [("node-1.2~rc1", "node-1.2-rc1"), ("Node_OS-2+b", "node-os-2-b"), ("a..b-.-c", "a.b.c"), ("-x-", "x")],
)
def test_any_name_becomes_one_that_kubernetes_takes(text: str, name: str) -> None:
    assert object_name(text) == name


def test_the_verb_prints_what_can_be_applied(bundle: Path) -> None:
    done = CliRunner().invoke(verb.command, [str(bundle), "--ref", REF], catch_exceptions=False)
    assert done.exit_code == 0
    assert yaml.safe_load(done.output) == osimage([(inspect(bundle), REF)])


def test_each_bundle_needs_its_address(bundle: Path) -> None:
    done = CliRunner().invoke(verb.command, [str(bundle), str(bundle), "--ref", REF])
    assert done.exit_code == 2
