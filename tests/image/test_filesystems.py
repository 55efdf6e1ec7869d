"""Every image holds what its tree holds, passes its file system's own check, and comes out the same twice."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from hostplane.errors import ImageError
from hostplane.image.building.process import Runner
from hostplane.image.disk.filesystems import erofs, ext4, fat, xfs
from hostplane.image.stage import Run
from tests.image.richtree import EPOCH, Facts, add_socket, facts, plant, seen_in

UUID = "0f8c8134-76df-59a0-b3d3-fa2f55a8dd71"
OLD_FLOOR = ("-m", "crc=1,finobt=0,rmapbt=0,reflink=0,bigtime=0,inobtcount=0", "-i", "sparse=0,nrext64=0")
NEW_FLOOR = ("-m", "crc=1,finobt=1,rmapbt=0,reflink=1,bigtime=1,inobtcount=1", "-i", "sparse=1,nrext64=0")
NEWEST = ("-m", "crc=1,rmapbt=1,bigtime=1", "-i", "nrext64=1")
CENTOS_7 = ("^metadata_csum", "^metadata_csum_seed", "^orphan_file", "^casefold", "^64bit")
MIB = 1 << 20

Make = Callable[[Path, Path, Run], int]


def make_ext4(changes: tuple[str, ...] = (), block_size: int = 4096) -> Make:
    features = ext4.features(ext4.ROOT_FEATURES, changes)

    def make(tree: Path, target: Path, run: Run) -> int:
        return ext4.make(
            tree,
            target,
            size=None,
            label="ROOT",
            uuid=UUID,
            features=features,
            epoch=EPOCH,
            run=run,
            block_size=block_size,
        )

    return make


def make_xfs(options: tuple[str, ...]) -> Make:
    def make(tree: Path, target: Path, run: Run) -> int:
        return xfs.make(tree, target, size=None, label="ROOT", uuid=UUID, options=options, epoch=EPOCH, run=run)

    return make


def make_erofs(tree: Path, target: Path, run: Run) -> int:
    return erofs.make(tree, target, uuid=UUID, epoch=EPOCH, run=run)


MAKERS: dict[str, tuple[str, Make]] = {
    "ext4": ("ext4", make_ext4()),
    "ext4 of CentOS 7": ("ext4", make_ext4(CENTOS_7)),
    "ext4 of 1 KiB blocks": ("ext4", make_ext4(block_size=1024)),
    "xfs": ("xfs", make_xfs(NEW_FLOOR)),
    "xfs of CentOS 7": ("xfs", make_xfs(OLD_FLOOR)),
    "xfs of today": ("xfs", make_xfs(NEWEST)),
    "erofs": ("erofs", make_erofs),
}
CHECKS: Mapping[str, Sequence[str]] = {
    "ext4": ("e2fsck", "-fn"),
    "xfs": ("xfs_repair", "-n"),
    "erofs": ("fsck.erofs",),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert os.geteuid() == 0, "device nodes and capabilities can only be made as root"
    return plant(tmp_path_factory.mktemp("rich") / "tree")


@pytest.fixture(scope="module")
def planted(tree: Path) -> Facts:
    return facts(tree)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    log = tmp_path / "log"
    return Runner(tmp_path, log.open("ab", buffering=0), log)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked(kind: str, image: Path) -> None:
    done = subprocess.run([*CHECKS[kind], str(image)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", MAKERS)
def test_an_image_holds_all_that_its_tree_holds(
    name: str, tree: Path, planted: Facts, run: Run, tmp_path: Path
) -> None:
    kind, make = MAKERS[name]
    size = make(tree, tmp_path / "image", run)
    assert size == (tmp_path / "image").stat().st_size
    assert size % MIB == 0
    checked(kind, tmp_path / "image")
    found = seen_in(tmp_path / "image", kind, tmp_path / "at")
    wanted = planted
    if kind == "xfs":  # a file of several names becomes several files
        wanted = {path: {**fact, "names": [path]} if "names" in fact else fact for path, fact in planted.items()}
    assert found.keys() == wanted.keys()
    assert {path: fact for path, fact in found.items() if fact != wanted[path]} == {}


@pytest.mark.parametrize("name", ["ext4", "xfs", "erofs"])
def test_the_same_content_gives_the_same_bytes_however_it_came_about(
    name: str, tree: Path, run: Run, tmp_path: Path
) -> None:
    """Another directory, made in another order and at another time, with other access times."""
    _, make = MAKERS[name]
    make(tree, tmp_path / "one", run)
    again = plant(tmp_path / "again", seed=2)
    for path in again.rglob("*"):
        if path.lstat().st_size and stat.S_ISREG(path.lstat().st_mode):
            path.read_bytes()
    make(again, tmp_path / "two", run)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


@pytest.mark.parametrize("name", ["ext4", "xfs", "erofs"])
def test_a_socket_does_no_harm(name: str, run: Run, tmp_path: Path) -> None:
    kind, make = MAKERS[name]
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(b"x")
    add_socket(tmp_path / "tree")
    os.utime(tmp_path / "tree", (EPOCH, EPOCH))
    make(tmp_path / "tree", tmp_path / "image", run)
    checked(kind, tmp_path / "image")
    assert (seen_in(tmp_path / "image", kind, tmp_path / "at").keys() - {"socket"}) == {".", "file"}


@pytest.mark.parametrize("name", ["ext4", "erofs"])
def test_an_image_is_little_larger_than_its_content(name: str, run: Run, tmp_path: Path) -> None:
    _, make = MAKERS[name]
    (tmp_path / "tree").mkdir()
    for number in range(120):
        (tmp_path / f"tree/{number}").write_bytes(os.urandom(1 << 20))
    assert 120 * MIB <= make(tmp_path / "tree", tmp_path / "image", run) <= 126 * MIB


def test_a_growing_file_system_is_sparse_checked_and_the_same_twice(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tree/deep/inside").mkdir(parents=True)
    for kind in ("ext4", "xfs"):
        seen = set()
        for number in range(2):
            image = tmp_path / f"{kind}-{number}"
            if kind == "ext4":
                features = ext4.features(ext4.STATE_FEATURES, ())
                ext4.make(
                    tmp_path / "tree",
                    image,
                    size=512 * MIB,
                    label="PERSIST",
                    uuid=UUID,
                    features=features,
                    epoch=EPOCH,
                    run=run,
                )
            else:
                xfs.make(
                    tmp_path / "tree",
                    image,
                    size=512 * MIB,
                    label="PERSIST",
                    uuid=UUID,
                    options=NEW_FLOOR,
                    epoch=EPOCH,
                    run=run,
                )
            assert image.stat().st_size == 512 * MIB
            assert image.stat().st_blocks * 512 < 120 * MIB
            checked(kind, image)
            seen.add(digest(image))
        assert len(seen) == 1


def test_content_that_does_not_fit_a_given_size_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(os.urandom(20 * MIB))
    (tmp_path / "large").mkdir()
    (tmp_path / "large/file").write_bytes(os.urandom(330 * MIB))
    tree, image = tmp_path / "tree", tmp_path / "image"

    def into_ext4() -> int:
        features = ext4.BOOT_FEATURES
        return ext4.make(
            tree, image, size=16 * MIB, label="BOOTSTATE", uuid=UUID, features=features, epoch=EPOCH, run=run
        )

    def into_fat() -> int:
        return fat.make(tree, image, size=16 * MIB, label="ESP", uuid=UUID, epoch=EPOCH, run=run)

    def into_xfs() -> int:
        large, size = tmp_path / "large", 300 * MIB
        return xfs.make(large, image, size=size, label="DATA", uuid=UUID, options=NEW_FLOOR, epoch=EPOCH, run=run)

    for make in (into_ext4, into_fat, into_xfs):
        with pytest.raises(ImageError) as refused:
            make()
        assert refused.value.name == "ContentTooLarge"


def test_a_feature_that_mke2fs_does_not_know_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with pytest.raises(ImageError, match="time_travel") as refused:
        make_ext4(("time_travel",))(tmp_path / "tree", tmp_path / "image", run)
    assert refused.value.name == "Ext4FeatureUnknown"


def test_xfs_refuses_attributes_that_an_inode_cannot_hold(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(b"x")
    os.setxattr(tmp_path / "tree/file", "user.long", b"x" * 300)
    with pytest.raises(ImageError, match="/file") as refused:
        make_xfs(NEW_FLOOR)(tmp_path / "tree", tmp_path / "image", run)
    assert refused.value.name == "XfsAttributesUnfit"


def test_xfs_takes_larger_inodes_where_attributes_need_them(run: Run, tmp_path: Path) -> None:
    """From 19 to 21 pieces of a directory fill an inode of 512 bytes to where no label fits beside them."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"x")
    for number in range(5):
        os.setxattr(tree / "file", f"user.note-{number}", bytes([number]) * 200)
    for count in (1250, 1350, 1450, 2600):
        (tree / str(count)).mkdir()
        for number in range(count):
            (tree / str(count) / f"a-name-of-the-usual-length-{number:04}").write_bytes(b"x")
        os.setxattr(tree / str(count), "security.selinux", b"system_u:object_r:usr_t:s0\0")
    for path in tree.rglob("*"):
        os.utime(path, (EPOCH, EPOCH))
    make_xfs(NEW_FLOOR)(tree, tmp_path / "image", run)
    checked("xfs", tmp_path / "image")
    found = {path: {**fact, "names": [path]} if "names" in fact else fact for path, fact in facts(tree).items()}
    assert seen_in(tmp_path / "image", "xfs", tmp_path / "at") == found


@pytest.mark.parametrize("name", [" ", ":", "$"])
def test_xfs_refuses_a_name_it_cannot_be_told(name: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / name).write_bytes(b"x")
    with pytest.raises(ImageError) as refused:
        make_xfs(NEW_FLOOR)(tmp_path / "tree", tmp_path / "image", run)
    assert refused.value.name == "XfsNameUnfit"


@pytest.mark.parametrize("size", [16 * MIB, 64 * MIB, 600 * MIB])
def test_a_fat_volume_holds_its_tree_and_is_the_same_twice(size: int, run: Run, tmp_path: Path) -> None:
    vendor = tmp_path / "tree/EFI/openEuler"
    vendor.mkdir(parents=True)
    (tmp_path / "tree/EFI/BOOT").mkdir()
    (vendor / "grubx64.efi").write_bytes(os.urandom(2 * MIB))
    (vendor / "a long name with blanks.cfg").write_bytes(b"stub")
    (tmp_path / "tree/EFI/BOOT/BOOTX64.EFI").write_bytes(os.urandom(MIB))
    seen = set()
    for number in range(2):
        (vendor / "grubx64.efi").touch()
        image = tmp_path / f"esp-{number}"
        fat.make(tmp_path / "tree", image, size=size, label="ESP", uuid=UUID, epoch=EPOCH, run=run)
        seen.add(digest(image))
    assert len(seen) == 1
    subprocess.run(["fsck.vfat", "-n", str(image)], check=True, capture_output=True, timeout=60)
    subprocess.run(["mcopy", "-s", "-i", str(image), "::/EFI", str(tmp_path / "out")], check=True, timeout=60)
    for path in (tmp_path / "tree/EFI").rglob("*.*"):
        assert (tmp_path / "out" / path.relative_to(tmp_path / "tree/EFI")).read_bytes() == path.read_bytes()


def test_fat_refuses_what_it_cannot_hold(run: Run, tmp_path: Path) -> None:
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice/grub.cfg").write_bytes(b"")
    (tmp_path / "twice/GRUB.CFG").write_bytes(b"")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/link").symlink_to("file")
    for tree, name in (("twice", "FatNameTwice"), ("linked", "FatFileKind")):
        with pytest.raises(ImageError) as refused:
            fat.make(tmp_path / tree, tmp_path / "image", size=MIB, label="ESP", uuid=UUID, epoch=EPOCH, run=run)
        assert refused.value.name == name
