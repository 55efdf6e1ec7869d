"""What a built disk says of itself before anybody upgraded it, and what its os.tar becomes on another host's slot."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hostplane.agent import firmware
from hostplane.agent.bundle.manifest import digest_of
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.payload import installed
from hostplane.image.disk import layout
from hostplane.image.recipe import Output, StageName
from tests.image.richtree import Facts, facts, plant
from tests.image.sealing import Sealing, booted, recipe
from tests.image.test_sealed_outputs import partition, tool
from tests.unit.agent.payload.test_tarroot import Disk

SHIM = b"$Version: 15.8 $"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Sealing:
    here = tmp_path_factory.mktemp("fresh")
    tree, boot = plant(here / "tree"), booted(here / "boot")
    (tree / "usr/lib/hostplane").mkdir(parents=True)
    for name in ("agent.pyz", "mounts"):
        (tree / "usr/lib/hostplane" / name).write_bytes(b"agent")
    (boot / "boot.json").write_text('{"kernel": "6.1.0-test", "grub": "2.06-13"}')
    (boot / "esp/EFI/BOOT/BOOTX64.EFI").write_bytes(SHIM)
    made = recipe(outputs=(Output.RAW, Output.BUNDLE, Output.OS_TAR))
    sealing = Sealing(here / "run", tree, made, boot)
    sealing.run()
    return sealing


def bootstate(done: Sealing, tmp_path: Path) -> HostRoot:
    """A host that sees the disk's BOOTSTATE and runs what is in slot A."""
    image = partition(done.here / "pack/out/disk.raw", layout.plan(done.recipe), "BOOTSTATE", tmp_path / "bootstate")
    (tmp_path / "boot").mkdir()
    tool("debugfs", "-R", f"rdump / {tmp_path / 'boot'}", str(image))
    shutil.move(tmp_path / "boot", tmp_path / "boot.read")
    (tmp_path / "boot").mkdir()
    shutil.move(tmp_path / "boot.read", tmp_path / "boot/hostplane")
    for name, content in (
        ("proc/cmdline", "ro hostplane.slot=A"),
        ("usr/lib/hostplane/image.json", '{"name": "rich", "version": "1.0"}'),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(content)
    return HostRoot(str(tmp_path))


def test_a_fresh_disk_names_its_bundle_and_its_loader(done: Sealing, tmp_path: Path) -> None:
    host, packed = bootstate(done, tmp_path), done.here / "pack/out"
    report = json.loads((packed / "report.json").read_bytes())
    found = installed.read(host)
    assert (found.digest, found.version) == (report["bundle"]["digest"], "1.0")
    assert found.size == report["bundle"]["size"]
    documents = installed.documents(host)
    assert documents is not None
    assert digest_of(documents[0]) == found.digest
    assert firmware.read(host) == {"shim": "15.8", "grub": "2.06-13", "esp": "rich 1.0"}


def test_a_disk_without_a_bundle_names_its_version(done: Sealing, tmp_path: Path) -> None:
    made = recipe(outputs=(Output.RAW,))
    alone = Sealing(tmp_path / "run", done.root, made, done.earlier[StageName.BOOT])
    alone.run()
    (tmp_path / "host").mkdir()
    host = bootstate(alone, tmp_path / "host")
    images = json.loads((alone.here / "seal/out/seal.json").read_bytes())
    assert installed.read(host) == ("", "1.0", images["root"]["size"] + images["boot"]["size"])


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_an_os_tar_on_a_slot_is_the_tree_it_was_made_of(done: Sealing, kind: str, tmp_path: Path) -> None:
    tar = (done.here / "pack/out/os.tar").read_bytes()
    with contextlib.closing(Disk(tmp_path, kind, root_mib=320, boot_mib=32)) as disk:
        disk.install(tar)
        seen = facts_of(disk, kind)
        boot = disk.boots()
    assert boot["vmlinuz"] == (done.earlier[StageName.BOOT] / "vmlinuz").read_bytes()
    wanted = {name: fact for name, fact in facts(done.root).items() if not fact["device"]}
    for name in ("boot", "boot/vmlinuz", "boot/initramfs.img"):
        seen.pop(name)
    assert {name: (seen[name], wanted[name]) for name in wanted if seen.get(name) != wanted[name]} == {}
    assert set(seen) == set(wanted)


def facts_of(disk: Disk, kind: str) -> Facts:
    at = disk.directory / "seen"
    at.mkdir()
    code = "import json, pathlib, sys; from tests.image.richtree import facts; "
    code += "print(json.dumps(facts(pathlib.Path(sys.argv[1]))))"
    steps = f'mount --make-rprivate / && mount -t {kind} -o ro "$1" "$2" && exec "$3" -c "$4" "$2"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", steps, "sh", disk.loops["ROOT-B"], str(at), sys.executable, code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=120,
        check=True,
    )
    found: Facts = json.loads(done.stdout)
    return found
