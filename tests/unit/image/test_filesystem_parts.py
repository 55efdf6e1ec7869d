"""The pure parts of the file systems: checksums, names that keep their hash, features, weights of trees."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hostplane.image.disk import verity
from hostplane.image.disk.filesystems import ext4
from hostplane.image.disk.filesystems.checksum import change_weights, crc32c
from hostplane.image.disk.filesystems.contents import walk, weigh
from hostplane.image.disk.filesystems.xfsinodes import spelled

BLANKS = b" \t\n\v\f\r"


def directory_hash(name: bytes) -> int:
    """How xfs sorts the index of a directory, letter by letter."""
    found = 0
    for letter in name:
        found = letter ^ (found << 7 & 0xFFFFFFFF | found >> 25)
    return found


def test_crc32c_gives_the_published_value() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@given(st.binary(min_size=1, max_size=200), st.data())
@settings(max_examples=100, deadline=None)
def test_a_checksum_follows_from_the_changed_bytes_alone(before: bytes, data: st.DataObject) -> None:
    after = data.draw(st.binary(min_size=len(before), max_size=len(before)))
    crc = crc32c(before)
    for weights, old, new in zip(change_weights(256)[256 - len(before) :], before, after, strict=True):
        crc ^= weights[old ^ new]
    assert crc == crc32c(after)


@given(st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name and b"/" not in name))
@settings(max_examples=300)
def test_a_spelled_name_has_the_same_length_and_hash_and_no_blank(name: bytes) -> None:
    new = spelled(name)
    assume(new is not None)
    assert new is not None
    assert len(new) == len(name)
    assert directory_hash(new) == directory_hash(name)
    assert not any(letter in BLANKS + b"\0/" for letter in new)
    assert new[:1] not in (b":", b"$")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), min_size=1).map(lambda text: "x" + text))
def test_a_name_that_needs_no_other_spelling_keeps_its_own(name: str) -> None:
    assume(not any(letter in BLANKS or letter == 0x2F for letter in os.fsencode(name)))
    assert spelled(os.fsencode(name)) == os.fsencode(name)


@given(st.text("abc-_ ü", min_size=2, max_size=30))
def test_usual_names_with_blanks_can_be_spelled(name: str) -> None:
    assert spelled(name.encode()) is not None


def test_features_are_a_base_and_changes() -> None:
    assert ext4.features(("extent", "64bit"), ("^64bit", "^never_there", "orphan_file", "extent")) == (
        "extent",
        "orphan_file",
    )


def test_boot_file_systems_have_neither_journal_nor_checksums() -> None:
    assert not {"has_journal", "metadata_csum", "64bit"} & set(ext4.BOOT_FEATURES)
    assert "has_journal" not in ext4.ROOT_FEATURES
    assert {"has_journal", "resize_inode"} <= set(ext4.STATE_FEATURES)


def test_a_tree_is_walked_in_the_order_of_its_names_and_links_are_not_followed(tmp_path: Path) -> None:
    for name in ("b/2", "b/10", "a", "Ä/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c").symlink_to("b")
    names = [os.path.relpath(path, tmp_path) for path, _ in walk(tmp_path)]
    assert names == [".", "a", "b", "b/10", "b/2", "c", "Ä", "Ä/x"]


def test_a_file_of_two_names_weighs_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 5000)
    alone = weigh(tmp_path, 4096)
    os.link(tmp_path / "one", tmp_path / "two")
    both = weigh(tmp_path, 4096)
    assert (both.inodes, both.data_blocks, both.file_bytes) == (alone.inodes, alone.data_blocks, 5000)


def test_a_hash_tree_is_as_large_as_it_was_said_to_be(tmp_path: Path) -> None:
    for mib in (1, 2, 17):
        image = tmp_path / f"{mib}"
        image.write_bytes(os.urandom(mib << 20))
        one = verity.append(image, uuid="0f8c8134-76df-59a0-b3d3-fa2f55a8dd71", salt=b"salt")
        assert one.hashoffset == mib << 20
        assert image.stat().st_size == one.hashoffset + verity.tree_size(one.hashoffset)
        assert len(one.roothash) == 64
