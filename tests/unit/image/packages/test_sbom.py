"""The bill of materials keeps to its schema, lists what it was given, and is the same each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from hostplane.image.backends import Lock, Locked, Package
from hostplane.image.packages import lock, sbom
from hostplane.image.recipe import Packages, Recipe

EPOCH = 1717200000
PACKAGES = [
    Package(
        name="libc6",
        version="2.36-9+deb12u1",
        arch="amd64",
        source="glibc",
        licence="LGPL-2.1-or-later AND LicenseRef-own",
        homepage="https://www.gnu.org/software/libc/",
        supplier="GNU Libc Maintainers",
    ),
    Package(name="g++", version="1:12~rc+1", arch="all", homepage="not a link", licence=""),
]
RPM = Package(name="bash", version="1:5.2-1.oe2403", arch="x86_64", licence="GPL-3.0-or-later")


def _recipe(locked: Path | None = None) -> Recipe:
    packages = Packages(lock=str(locked) if locked else None)
    return Recipe(name="node", version="1.0", distro="openEuler", release="24.03", packages=packages)


def _written(tmp_path: Path, packages: list[Package], recipe: Recipe, kind: str = "deb") -> tuple[str, dict[str, Any]]:
    path = tmp_path / "sbom.cdx.json"
    sbom.write(packages, recipe, EPOCH, path, kind=kind)
    text = path.read_text("utf-8")
    return text, json.loads(text)


def test_it_keeps_to_the_schema(tmp_path: Path) -> None:
    text, _ = _written(tmp_path, PACKAGES, _recipe())
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_the_same_packages_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    first, _ = _written(tmp_path, PACKAGES, _recipe())
    second, _ = _written(tmp_path, PACKAGES[::-1], _recipe())
    assert first == second
    other, _ = _written(tmp_path, PACKAGES[:1], _recipe())
    assert json.loads(first)["serialNumber"] != json.loads(other)["serialNumber"]


def test_each_package_is_a_component_with_its_url(tmp_path: Path) -> None:
    _, found = _written(tmp_path, PACKAGES, _recipe())
    urls = {each["name"]: each["purl"] for each in found["components"]}
    assert urls["libc6"].startswith("pkg:deb/openeuler/libc6@2.36-9%2Bdeb12u1?arch=amd64&")
    assert "source=glibc" in urls["libc6"]
    assert found["metadata"]["timestamp"] == "2024-06-01T00:00:00+00:00"
    assert found["metadata"]["component"]["type"] == "operating-system"
    assert "externalReferences" not in next(each for each in found["components"] if each["name"] == "g++")


def test_an_rpm_has_its_epoch_apart(tmp_path: Path) -> None:
    _, found = _written(tmp_path, [RPM], _recipe(), "rpm")
    purl = found["components"][0]["purl"]
    assert purl == "pkg:rpm/openeuler/bash@5.2-1.oe2403?arch=x86_64&distro=openeuler-24.03&epoch=1"
    assert found["components"][0]["version"] == RPM.version


def test_a_digest_is_named_where_the_lock_knows_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.lock"
    locked = Locked(name="libc6", version=PACKAGES[0].version, arch="amd64", sha256="ab" * 32)
    stale = Locked(name="g++", version="1:11", arch="all", sha256="cd" * 32)
    lock.write(Lock(distro="d", release="1", arch="x86_64", backend="deb", packages=(locked, stale)), path)
    _, found = _written(tmp_path, PACKAGES, _recipe(path))
    hashes = {each["name"]: each.get("hashes") for each in found["components"]}
    assert hashes == {"libc6": [{"alg": "SHA-256", "content": "ab" * 32}], "g++": None}
