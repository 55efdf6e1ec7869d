"""Disk, tars, qcow2 and bundle: whole, alike twice, and with all that the root has."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from pathlib import Path

import pytest

from hostplane.agent import gpt
from hostplane.agent.bootstate import parse
from hostplane.errors import ImageError, RecipeError
from hostplane.image.boot import grub
from hostplane.image.disk import layout
from hostplane.image.disk.disk import copy_data
from hostplane.image.disk.layout import Layout
from hostplane.image.recipe import Output, Partition, StateFs
from tests.image.richtree import EPOCH, facts, plant, seen_in
from tests.image.sealing import PERSISTENT, Sealing, booted, digest, recipe

MIB = 1 << 20
EXTRA = (Partition(label="DATA", size_mib=310, fs=StateFs.XFS), Partition(label="LOGS", size_mib=64))


@pytest.fixture(scope="module")
def boot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return booted(tmp_path_factory.mktemp("boot"))


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same tree, made twice."""
    here = tmp_path_factory.mktemp("trees")
    return plant(here / "one", seed=1), plant(here / "two", seed=2)


@pytest.fixture(scope="module")
def done(trees: tuple[Path, Path], boot: Path, tmp_path_factory: pytest.TempPathFactory) -> Sealing:
    """Everything of an ext4 root, once."""
    here = tmp_path_factory.mktemp("done") / "run"
    sealing = Sealing(here, trees[0], recipe(partitions=EXTRA, persist_dirs=("backup/daily",)), boot)
    sealing.run()
    return sealing


def tool(*words: str) -> str:
    run = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def partition(disk: Path, plan: Layout, label: str, target: Path) -> Path:
    """One partition of a disk as a sparse file."""
    region = plan[label]
    tool(
        *("dd", f"if={disk}", f"of={target}", "bs=1M", "conv=sparse", "status=none"),
        *(f"skip={region.offset // MIB}", f"count={region.size // MIB}"),
    )
    os.truncate(target, region.size)
    return target


@pytest.mark.parametrize("fs", ["ext4", "xfs", "erofs"])
def test_the_same_root_gives_the_same_bytes_twice(
    fs: str, trees: tuple[Path, Path], boot: Path, tmp_path: Path
) -> None:
    made = recipe(fs, persist_fs=PERSISTENT[fs], verity=fs == "erofs")
    seen = []
    for number, tree in enumerate(trees):
        sealed, packed, report = Sealing(tmp_path / str(number), tree, made, boot).run()
        told = {name: digest(packed / name) for name in ("disk.qcow2", "root.tar", "os.tar", "bundle")}
        told |= {path.name: digest(path) for path in sealed.iterdir()}
        told["report"] = json.dumps({**report, "seconds": None, "outputs": sorted(report["outputs"])})
        seen.append((packed / "disk.raw", told))
    assert seen[0][1] == seen[1][1]
    tool("qemu-img", "compare", "-s", "-f", "raw", "-F", "raw", str(seen[0][0]), str(seen[1][0]))
    tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(seen[0][0]), str(seen[0][0].with_suffix(".qcow2")))


def test_the_disk_has_every_partition_at_its_place(done: Sealing, tmp_path: Path) -> None:
    disk, plan = done.here / "pack/out/disk.raw", layout.plan(done.recipe)
    assert "No problems found" in tool("sgdisk", "-v", str(disk))
    assert "No errors detected" in tool("sfdisk", "--verify", str(disk))
    told = json.loads(tool("sfdisk", "--json", str(disk)))["partitiontable"]
    assert told["id"].lower() == plan.disk_guid
    found = {row["name"]: (row["start"] * 512, row["size"] * 512, row["uuid"].lower()) for row in told["partitions"]}
    assert found == {region.label: (region.offset, region.size, region.guid) for region in plan.regions}
    assert gpt.read_disk(str(disk)) == gpt.Reading(plan.table(), True, True)
    for label, check in {
        "BOOTSTATE": "e2fsck -fn",
        "BOOT-A": "e2fsck -fn",
        "ROOT-A": "e2fsck -fn",
        "PERSIST": "e2fsck -fn",
        "LOGS": "e2fsck -fn",
        "DATA": "xfs_repair -n",
        "ESP": "fsck.vfat -n",
    }.items():
        image = partition(disk, plan, label, tmp_path / label)
        tool(*check.split(), str(image))
        assert tool("blkid", "-o", "value", "-s", "LABEL", str(image)).strip() == label.removesuffix("-A")
        image.unlink()


def test_slot_a_is_the_sealed_image_and_slot_b_is_empty(done: Sealing, tmp_path: Path) -> None:
    disk, plan = done.here / "pack/out/disk.raw", layout.plan(done.recipe)
    for label, name in (("ROOT", "root.img"), ("BOOT", "slot-boot.img")):
        sealed = done.here / "seal/out" / name
        written = partition(disk, plan, f"{label}-A", tmp_path / "a")
        os.truncate(written, sealed.stat().st_size)
        assert digest(written) == digest(sealed)
        empty = partition(disk, plan, f"{label}-B", tmp_path / "b")
        assert empty.stat().st_blocks == 0
        written.unlink()
        empty.unlink()


def test_the_boot_state_says_a_and_each_copy_has_a_block_of_its_own(done: Sealing, tmp_path: Path) -> None:
    plan = layout.plan(done.recipe)
    state = str(partition(done.here / "pack/out/disk.raw", plan, "BOOTSTATE", tmp_path / "state"))
    blocks = []
    for name in ("env1", "env2", "args1", "args2"):
        blocks += tool("debugfs", "-R", f"blocks /{name}", state).split()
        tool("debugfs", "-R", f"dump /{name} {tmp_path / name}", state)
        assert (tmp_path / name).stat().st_size == 1024
    assert len(set(blocks)) == 4
    first = parse((tmp_path / "env1").read_bytes())
    assert first == parse((tmp_path / "env2").read_bytes())
    assert first is not None
    assert (first.first, first.a_ok, first.b_ok, first.b_left) == ("A", True, False, 0)
    assert (tmp_path / "args1").read_text().splitlines()[:4] == [
        "# GRUB Environment Block",
        "seq=0",
        "A_args=",
        "B_args=",
    ]
    assert tool("debugfs", "-R", "cat /grub/grub.cfg", state) == grub.config(plan, done.recipe)
    features = tool("dumpe2fs", "-h", state)
    assert "metadata_csum" not in features
    assert "has_journal" not in features


def test_a_bios_finds_its_core(done: Sealing, boot: Path) -> None:
    plan = layout.plan(done.recipe)
    at = plan["BIOS-BOOT"].offset
    code, core = grub.bios_boot((boot / "boot.img").read_bytes(), (boot / "core.img").read_bytes(), at // 512)
    with (done.here / "pack/out/disk.raw").open("rb") as disk:
        assert disk.read(440) == code
        disk.seek(at)
        assert disk.read(len(core)) == core


def test_the_boot_image_holds_kernel_initramfs_and_what_the_image_says(done: Sealing, boot: Path) -> None:
    image = str(done.here / "seal/out/slot-boot.img")
    assert tool("debugfs", "-R", "cat /slot.cfg", image) == grub.slot_config(done.recipe)
    about = json.loads(tool("debugfs", "-R", "cat /image.json", image))
    assert (about["name"], about["version"], about["root"]["fs"]) == ("rich", "1.0", "ext4")
    assert f"Size: {(boot / 'vmlinuz').stat().st_size}" in tool("debugfs", "-R", "stat /vmlinuz", image)


def test_capabilities_access_lists_labels_and_names_survive_every_output(
    done: Sealing, trees: tuple[Path, Path], tmp_path: Path
) -> None:
    planted, out = facts(trees[0]), done.here / "pack/out"
    offset = layout.plan(done.recipe)["ROOT-A"].offset
    assert seen_in(out / "disk.raw", "ext4", tmp_path / "at", offset) == planted
    for name, more in (("root.tar", set[str]()), ("os.tar", {"boot", "boot/vmlinuz", "boot/initramfs.img"})):
        target = tmp_path / name
        target.mkdir()
        unpack = ("tar", "--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*", "--selinux", "-xpf")
        tool(*unpack, str(out / name), "-C", str(target))
        found = facts(target)
        assert found.keys() - planted.keys() == more
        unlike = {path: fact for path, fact in planted.items() if fact != found[path] and path != "."}
        assert unlike == {}


def test_an_os_tar_has_the_kernel_where_kubeos_looks_for_it(done: Sealing, boot: Path, tmp_path: Path) -> None:
    tool("tar", "-xf", str(done.here / "pack/out/os.tar"), "-C", str(tmp_path), "./boot")
    assert digest(tmp_path / "boot/vmlinuz") == digest(boot / "vmlinuz")
    assert digest(tmp_path / "boot/initramfs.img") == digest(boot / "initrd.img")


def test_the_report_has_sizes_digests_room_and_times(done: Sealing) -> None:
    report = json.loads((done.here / "pack/out/report.json").read_bytes())
    root = done.here / "seal/out/root.img"
    assert report["images"]["root"]["sha256"] == digest(root)
    assert report["growthLeft"]["ROOT"] == 512 * MIB - root.stat().st_size
    assert report["outputs"]["os.tar"]["sha256"] == digest(done.here / "pack/out/os.tar")
    assert report["outputs"]["disk.raw"]["onDisk"] < 300 * MIB < report["outputs"]["disk.raw"]["size"]
    assert report["bundle"]["digest"].startswith("sha256:")
    assert set(report["seconds"]) == {"disk.raw", "disk.qcow2", "root.tar", "os.tar", "bundle"}
    assert report["evidence"]["level"]
    assert report["kernel"] == "6.1.0-test"


def test_two_disk_sizes_share_their_images_and_cost_the_same(
    trees: tuple[Path, Path], boot: Path, tmp_path: Path
) -> None:
    small = Sealing(tmp_path / "small", trees[0], recipe(size_gib=3, outputs=(Output.RAW,)), boot)
    large = Sealing(tmp_path / "large", trees[0], recipe(size_gib=200, outputs=(Output.RAW,)), boot)
    (first, _, _), (second, packed, report) = small.run(), large.run()
    assert digest(first / "root.img") == digest(second / "root.img")
    assert (packed / "disk.raw").stat().st_size == 200 << 30
    assert report["outputs"]["disk.raw"]["onDisk"] < 500 * MIB
    assert report["seconds"]["disk.raw"] < 60


@pytest.mark.parametrize("fs", [StateFs.EXT4, StateFs.XFS])
def test_persist_grows_with_the_disk(fs: StateFs, trees: tuple[Path, Path], boot: Path, tmp_path: Path) -> None:
    sealing = Sealing(tmp_path / "run", trees[0], recipe(size_gib=3, outputs=(Output.RAW,), persist_fs=fs), boot)
    _, packed, _ = sealing.run()
    disk = packed / "disk.raw"
    os.truncate(disk, 8 << 30)
    longer = gpt.grow_disk(str(disk), lambda: None)
    assert longer is not None
    assert (longer.last + 1) * 512 == (8 << 30) - MIB
    assert "No problems found" in tool("sgdisk", "-v", str(disk))
    region = layout.plan(sealing.recipe)["PERSIST"]
    image = partition(disk, layout.plan(sealing.recipe), "PERSIST", tmp_path / "persist")
    os.truncate(image, (8 << 30) - MIB - region.offset)
    if fs is StateFs.EXT4:
        tool("resize2fs", str(image))
        tool("e2fsck", "-fn", str(image))
    else:
        at = tmp_path / "at"
        at.mkdir()
        steps = 'mount -o loop "$1" "$2" && xfs_growfs "$2"'
        tool("unshare", "--mount", "sh", "-ec", steps, "sh", str(image), str(at))
        tool("xfs_repair", "-n", str(image))


@pytest.mark.parametrize("fs", ["ext4", "xfs", "erofs"])
def test_a_sealed_root_proves_itself_and_shows_one_changed_byte(
    fs: str, trees: tuple[Path, Path], boot: Path, tmp_path: Path
) -> None:
    sealing = Sealing(tmp_path / "run", trees[0], recipe(fs, verity=True), boot)
    out = sealing.seal()
    told = json.loads((out / "seal.json").read_bytes())["root"]
    root, seal = out / "root.img", told["verity"]
    assert root.stat().st_size == told["size"] > seal["hashoffset"]
    verify = ["veritysetup", "verify", f"--hash-offset={seal['hashoffset']}", str(root), str(root), seal["roothash"]]
    tool(*verify)
    line = tool("debugfs", "-R", "cat /slot.cfg", str(out / "slot-boot.img"))
    assert f"root=/dev/mapper/hostplane-root hostplane.verity={seal['roothash']}" in line
    assert f"hostplane.hashoffset={seal['hashoffset']}" in line
    with root.open("r+b") as image:
        image.seek(seal["hashoffset"] // 2)
        byte = image.read(1)
        image.seek(-1, os.SEEK_CUR)
        image.write(bytes((byte[0] ^ 1,)))
    assert subprocess.run(verify, capture_output=True, timeout=60, check=False).returncode != 0


def test_a_root_that_does_not_fit_its_partition_is_refused_and_a_tight_one_warned_of(
    boot: Path, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/file").write_bytes(os.urandom(90 * MIB))
    tight = Sealing(tmp_path / "tight", tmp_path / "root", recipe(root_mib=96), boot)
    (warning,) = json.loads((tight.seal() / "seal.json").read_bytes())["warnings"]
    assert "disk.root_mib" in warning["remedy"]
    assert any("warning" in line for line in tight.lines)
    with pytest.raises(RecipeError) as refused:
        Sealing(tmp_path / "full", tmp_path / "root", recipe(root_mib=80), boot).seal()
    assert refused.value.name == "ImageTooLarge"


@pytest.mark.parametrize("output", [Output.RAW, Output.QCOW2, Output.OS_TAR, Output.BUNDLE])
def test_a_root_without_a_kernel_becomes_nothing_that_boots(output: Output, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "boot").mkdir()
    made = recipe(outputs=(Output.ROOT_TAR, output))
    sealing = Sealing(tmp_path / "run", tmp_path / "root", made, tmp_path / "boot")
    sealing.seal()
    with pytest.raises(ImageError, match=output.value) as refused:
        sealing.pack()
    assert refused.value.name == "OutputNeedsKernel"


def test_a_building_machine_without_room_is_named_as_such(trees: tuple[Path, Path], boot: Path, tmp_path: Path) -> None:
    sealing = Sealing(tmp_path / "run", trees[0], recipe(outputs=(Output.RAW,)), boot)
    sealing.seal()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * MIB, before[1]))
    try:
        with pytest.raises(ImageError) as refused:
            sealing.pack()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.value.name == "MachineFull"


def test_compiled_python_still_counts_after_its_sources_time_was_brought_back(boot: Path, tmp_path: Path) -> None:
    """Else Python compiles it again at every start, since the root cannot be written."""
    library = tmp_path / "root/usr/lib/python3"
    library.mkdir(parents=True)
    (library / "module.py").write_text("value = 1\n")
    tool("python3", "-m", "compileall", "-q", str(library))
    sealing = Sealing(tmp_path / "run", tmp_path / "root", recipe(outputs=(Output.ROOT_TAR,)), boot)
    sealing.seal()
    (compiled,) = (library / "__pycache__").iterdir()
    head = compiled.read_bytes()[:16]
    assert int.from_bytes(head[8:12], "little") == EPOCH


def test_holes_are_not_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as sparse:
        sparse.truncate(10 << 30)
        sparse.seek(5 << 30)
        sparse.write(b"middle")
    begun = time.monotonic()
    with target.open("wb") as copy:
        copy.truncate(20 << 30)
        copy_data(source, copy.fileno(), 3 << 30)
    assert time.monotonic() - begun < 5
    assert target.stat().st_blocks * 512 < MIB
    with target.open("rb") as copy:
        copy.seek(8 << 30)
        assert copy.read(6) == b"middle"
