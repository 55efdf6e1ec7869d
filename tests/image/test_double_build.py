"""The same recipe, built twice in empty stores, gives the same bytes in every output; nothing of the root is lost."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.image.richtree import EPOCH, facts, plant, seen_in
from tests.image.sealing import digest
from tests.image.tiny import Tiny

KERNEL = "6.1.0-test"
FLAVOURS = {
    "ext4": ["disk.fs=ext4"],
    "xfs": ["disk.fs=xfs", "disk.persist_fs=xfs"],
    "erofs": ["disk.fs=erofs"],
}
SMALL = [
    "packages.kernel=true",
    "disk.size_gib=3",
    "disk.root_mib=512",
    "disk.boot_mib=64",
    f"source_date_epoch={EPOCH}",
    'image.outputs=["raw", "qcow2", "root-tar", "os-tar", "bundle"]',
    "image.codec=deflate",
    "slim.remove=[]",
]
_MKINITRAMFS = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
cat /usr/share/initramfs > "$2"
"""


def bootable(root: Path) -> None:
    """What the boot stage looks for: a kernel, its modules, and what makes an initramfs of them."""
    (root / "boot").mkdir(exist_ok=True)
    (root / f"boot/vmlinuz-{KERNEL}").write_bytes(b"kernel" * 100_000)
    modules = root / "lib/modules" / KERNEL
    modules.mkdir(parents=True)
    for name in ("modules.dep", "modules.softdep", "modules.builtin", "modules.alias", "modules.order"):
        (modules / name).write_bytes(b"")
    (root / "etc/initramfs-tools").mkdir()
    (root / "etc/initramfs-tools/initramfs.conf").write_text("MODULES=most\n")
    (root / "usr/share").mkdir()
    end = b"070701" + b"0" * 8 * 11 + b"0000000B" + b"0" * 8
    (root / "usr/share/initramfs").write_bytes((end + b"TRAILER!!!\0").ljust(512, b"\0"))
    (root / "usr/sbin").mkdir()
    tool = root / "usr/sbin/mkinitramfs"
    tool.write_text(_MKINITRAMFS)
    tool.chmod(0o755)


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> list[Tiny]:
    """Two directories with the same recipe and the same root, each with a store of its own."""
    found = []
    for number in (1, 2):
        tiny = Tiny(tmp_path_factory.mktemp(f"build-{number}"))
        bootable(tiny.here / "root")
        (tiny.here / "root/srv").mkdir()
        plant(tiny.here / "root/srv/rich", seed=number)
        found.append(tiny)
    return found


def built(tiny: Tiny, flavour: str) -> Path:
    tiny.out = tiny.here / flavour
    overrides = [word for value in (*SMALL, *FLAVOURS[flavour]) for word in ("--set", value)]
    tiny.build(*overrides)
    return tiny.out


def told(out: Path) -> dict[str, Any]:
    """Everything that must be alike, by name."""
    report = json.loads((out / "report.json").read_bytes())
    outputs = {name: digest(out / name) for name in ("disk.qcow2", "root.tar", "os.tar", "bundle")}
    del report["seconds"], report["outputs"]
    return {**outputs, **report}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_two_builds_give_the_same_disk_tars_and_bundle(flavour: str, builds: list[Tiny]) -> None:
    one, two = (built(tiny, flavour) for tiny in builds)
    assert told(one) == told(two)
    subprocess.run(
        ["qemu-img", "compare", "-s", "-f", "raw", "-F", "raw", str(one / "disk.raw"), str(two / "disk.raw")],
        check=True,
        timeout=120,
        capture_output=True,
    )


def test_what_the_root_has_goes_through_all_stages(builds: list[Tiny], tmp_path: Path) -> None:
    """Overlays of layers, copies of copies: capabilities, access lists, labels, device nodes and links are there."""
    out = built(builds[0], "ext4")
    report = json.loads((out / "report.json").read_bytes())
    (offset,) = (each["offset"] for each in report["disk"]["partitions"] if each["label"] == "ROOT-A")
    wanted = facts(builds[0].here / "root/srv/rich")
    seen = seen_in(out / "disk.raw", "ext4", tmp_path / "at", offset)
    found = {path.removeprefix("srv/rich/"): fact for path, fact in seen.items() if path.startswith("srv/rich/")}
    for fact in found.values():
        if "names" in fact:
            fact["names"] = [name.removeprefix("srv/rich/") for name in fact["names"]]
    assert {path: fact for path, fact in wanted.items() if path != "." and found.get(path) != fact} == {}
