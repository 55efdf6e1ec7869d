"""A fresh disk's first report names the bundle its slot was written from, and only while that is what runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane.agent.hostroot import Installed
from hostplane.agent.payload import installed
from tests.unit.agent.payload.signed import host, made, put

BUNDLE = made("ops", version="1.0")


def built(root: Path, bundle: bool = True) -> None:
    if bundle:
        put(root, "boot/hostplane/installed/manifest.json", BUNDLE.manifest_raw)
    put(root, "boot/hostplane/installed/metadata.json", BUNDLE.metadata_raw)


def test_the_builders_bundle_is_the_running_one(tmp_path: Path) -> None:
    root = host(tmp_path)
    assert installed.read(root) == Installed()
    built(tmp_path)
    found = installed.read(root)
    assert (found.digest, found.version) == (BUNDLE.digest, "1.0")
    assert found.size > 4 * 4096
    assert installed.documents(root) is not None


def test_a_disk_built_without_a_bundle_knows_its_version(tmp_path: Path) -> None:
    built(tmp_path, bundle=False)
    assert installed.read(host(tmp_path)) == Installed("", "1.0", 4096 + 8192)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("boot/hostplane/installed/metadata.json", b"{}"),
        ("boot/hostplane/installed/metadata.json", made(version="1.0", distro="other").metadata_raw),
        ("boot/hostplane/installed/manifest.json", b"{}"),
        ("usr/lib/hostplane/image.json", b'{"name": "node", "version": "3.0"}'),
        ("usr/lib/hostplane/image.json", b'{"name": "other", "version": "1.0"}'),
        ("proc/cmdline", b"hostplane.slot=B"),
    ],
)
def test_what_does_not_describe_the_running_slot_is_passed_over(tmp_path: Path, name: str, content: bytes) -> None:
    root = host(tmp_path)
    built(tmp_path)
    put(tmp_path, name, content)
    assert installed.read(root) == Installed()
