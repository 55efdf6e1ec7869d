"""Bundles hold what they were made of, byte for byte and the same each time, and notice every change."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostplane.agent.bundle.blockindex import (
    CHUNK_HEAD,
    CODECS,
    COPY,
    EXTENT,
    FETCH,
    FRAME,
    HASH,
    HEADER,
    MAGIC,
    ZERO,
    BlockIndex,
    transpose,
)
from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.bundle.manifest import is_reachable
from hostplane.errors import HostError, HostplaneError, ImageError
from hostplane.image.bundle import framecache, frames
from hostplane.image.bundle.ocilayout import Opened, open_bundle
from hostplane.image.bundle.unpack import NOWHERE, places, read_image, verify
from tests.unit.image import bundle_play as play

IMAGES = st.lists(st.integers(-20, 40) | st.just(0), min_size=1, max_size=120)
SMALL = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROOT = play.blocks([*range(1, 90), 0, 0, *range(-60, -1), 5, 6, 7, 0])


def image(opened: Opened, name: str = "root") -> bytes:
    return b"".join(read_image(opened, name))


def codecs_of(opened: Opened, name: str = "root") -> set[str]:
    index, _ = opened.manifest.images[name]
    with opened.path(index).open("rb") as file:
        return {CODECS[frame.codec] for frame in BlockIndex(file.read, index.size).frames()}


@SMALL
@given(root=IMAGES, boot=IMAGES, codec=st.sampled_from(["none", "deflate", "xz", "zstd"]))
def test_both_images_come_back_as_they_were(tmp_path: Path, root: list[int], boot: list[int], codec: str) -> None:
    play.write(tmp_path, play.blocks(root), play.blocks(boot), codec=codec, frame_bytes=4 * BLOCK)
    opened = open_bundle(tmp_path / "bundle")
    assert image(opened, "root") == play.blocks(root)
    assert image(opened, "boot") == play.blocks(boot)


@SMALL
@given(old=IMAGES, new=IMAGES)
def test_an_image_built_upon_another_comes_back_as_it_was(tmp_path: Path, old: list[int], new: list[int]) -> None:
    play.write(tmp_path / "old", play.blocks(old), frame_bytes=4 * BLOCK)
    play.write(tmp_path / "new", play.blocks(new), frame_bytes=4 * BLOCK, previous=tmp_path / "old" / "bundle")
    opened = open_bundle(tmp_path / "new" / "bundle")
    verify(opened)
    assert image(opened) == play.blocks(new)


@SMALL
@given(root=IMAGES)
def test_the_index_has_each_blocks_hash_sorted(tmp_path: Path, root: list[int]) -> None:
    play.write(tmp_path, play.blocks(root))
    index, _ = open_bundle(tmp_path / "bundle").manifest.images["root"]
    with (tmp_path / "bundle/blobs/sha256" / index.digest[7:]).open("rb") as file:
        entries = list(BlockIndex(file.read, index.size).entries())
    want = [
        hashlib.sha256(play.blocks([number])).digest()[:HASH] + at.to_bytes(4, "big")
        for at, number in enumerate(root)
        if number
    ]
    assert entries == sorted(want)


def test_the_same_input_gives_the_same_bytes_whatever_the_cores_and_the_cache(tmp_path: Path) -> None:
    play.write(tmp_path / "a", ROOT, jobs=1)
    play.write(tmp_path / "b", ROOT, jobs=4, cache=tmp_path / "cache")
    again = play.write(tmp_path / "c", ROOT, cache=tmp_path / "cache")
    assert play.tree(tmp_path / "a/bundle") == play.tree(tmp_path / "b/bundle") == play.tree(tmp_path / "c/bundle")
    assert again.images["root"].cached == again.images["root"].frames > 3


def test_one_more_block_at_the_front_changes_few_frames(tmp_path: Path) -> None:
    numbers = list(range(1, 2000))
    play.write(tmp_path / "a", play.blocks(numbers), cache=tmp_path / "cache")
    moved = play.write(tmp_path / "b", play.blocks([-1, *numbers]), cache=tmp_path / "cache")
    assert moved.images["root"].frames - moved.images["root"].cached <= 3


def test_a_damaged_cache_is_not_believed(tmp_path: Path) -> None:
    first = play.write(tmp_path / "a", ROOT, cache=tmp_path / "cache")
    for path in (path for path in (tmp_path / "cache").rglob("*") if path.is_file()):
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
    second = play.write(tmp_path / "b", ROOT, cache=tmp_path / "cache")
    assert (second.digest, second.images["root"].cached) == (first.digest, 0)


def test_the_cache_forgets_what_was_not_used_for_the_longest_time(tmp_path: Path) -> None:
    for at in range(10):
        path = tmp_path / "shelf" / str(at)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (at, at))
    framecache.trim(tmp_path, 1000)
    assert len(list(path.parent.iterdir())) == 10
    framecache.trim(tmp_path, 800)
    assert sorted(int(path.name) for path in path.parent.iterdir()) == [4, 5, 6, 7, 8, 9]


def test_building_upon_itself_changes_nothing(tmp_path: Path) -> None:
    first = play.write(tmp_path / "a", ROOT)
    second = play.write(tmp_path / "b", ROOT, previous=tmp_path / "a/bundle")
    assert first.digest == second.digest
    assert second.images["root"].reused == first.images["root"].frames


def test_what_is_new_goes_into_frames_of_its_own_when_built_upon_another(tmp_path: Path) -> None:
    numbers = list(range(1, 400))
    play.write(tmp_path / "a", play.blocks(numbers))
    scattered = [number if number % 40 else -number for number in numbers]
    fresh = play.write(tmp_path / "plain", play.blocks(scattered), cache=None)
    built = play.write(tmp_path / "b", play.blocks(scattered), previous=tmp_path / "a/bundle")
    assert built.images["root"].frames - built.images["root"].reused == 1
    assert fresh.images["root"].reused == 0


def test_frames_that_do_not_compress_are_stored_plain(tmp_path: Path) -> None:
    play.write(tmp_path, play.blocks(range(-64, -1)), codec="xz")
    assert codecs_of(open_bundle(tmp_path / "bundle")) == {"none"}


def test_zero_blocks_cost_nothing(tmp_path: Path) -> None:
    small = play.write(tmp_path / "a", play.blocks([1, 2, 3]))
    large = play.write(tmp_path / "b", play.blocks([1, 2, 3]) + bytes(64 << 20))
    assert large.images["root"].stored == small.images["root"].stored
    assert large.size - small.size < 100


@pytest.mark.parametrize("size", [0, 4095, 4097, (16 << 30) + 4096])
def test_an_image_that_no_host_would_take_is_refused_and_nothing_is_written(tmp_path: Path, size: int) -> None:
    boot = tmp_path / "boot.img"
    with boot.open("wb") as file:
        file.truncate(size)
    for name in ("root.img", "sbom", "licences"):
        (tmp_path / name).write_bytes(play.blocks([1]))
    with pytest.raises(ImageError) as caught:
        play.bundle.write(
            tmp_path / "bundle",
            root=tmp_path / "root.img",
            boot=boot,
            metadata=play.METADATA,
            sbom=tmp_path / "sbom",
            licences=tmp_path / "licences",
        )
    assert caught.value.name == "BundleImageUnfit"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boot.img", "licences", "root.img", "sbom"]


def test_metadata_that_no_host_would_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        play.write(tmp_path, ROOT, metadata=msgspec.structs.replace(play.METADATA, version="no spaces"))
    assert caught.value.name == "BundleInvalid"
    assert not (tmp_path / "bundle").exists()


def test_too_many_frames_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAMES", 2)
    with pytest.raises(ImageError) as caught:
        play.write(tmp_path, ROOT)
    assert caught.value.name == "BundleTooManyFrames"


def test_a_bundle_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    play.write(tmp_path, ROOT)
    fresh = play.write(tmp_path, play.blocks([9]))
    assert open_bundle(tmp_path / "bundle").manifest.digest == fresh.digest
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_metadata_says_what_the_recipe_said(tmp_path: Path) -> None:
    play.write(tmp_path, ROOT)
    metadata = open_bundle(tmp_path / "bundle").metadata
    assert (metadata.name, metadata.version, metadata.created) == ("node", "1.2~rc1", 1_700_000_000)
    assert metadata.images["root"].sha256 == hashlib.sha256(ROOT).hexdigest()
    assert metadata.images["root"].verity == ("ab" * 32, 4096, "00ff")
    assert metadata.state_versions == {"containerd": "1.7.2", "kubelet": "1.34.1"}
    assert [is_reachable(metadata, version) for version in ("1.1", "1.0.7", "1.2", "1.10")] == [
        True,
        True,
        False,
        False,
    ]


def parts(opened: Opened) -> dict[str, Path]:
    """Every blob of a bundle that is signed, by what it is."""
    found = {layer.media_type + str(at): opened.path(layer) for at, layer in enumerate(opened.manifest.layers)}
    return {
        **found,
        "manifest": opened.layout.path(opened.manifest.digest),
        "config": opened.path(opened.manifest.config),
    }


def test_blocks_copied_within_an_image_are_where_their_originals_are() -> None:
    extents = [(FETCH, 2, 5), (ZERO, 1, 0), (COPY, 1, 1), (COPY, 2, 0)]
    records = b"".join(EXTENT.pack(*one) for one in extents)
    stored = zlib.compress(transpose(records, EXTENT.size))
    chunk = CHUNK_HEAD.pack(len(extents), len(stored)) + stored
    table = FRAME.pack(0, 7 * BLOCK, 7 * BLOCK, bytes(32), bytes(32))
    head = HEADER.pack(MAGIC, 1, 0, BLOCK, 6 * BLOCK, bytes(32), 1, len(extents), 0, 0, len(chunk), 0)
    reader = BlockIndex(io.BytesIO(head + table + chunk).read, len(head + table + chunk))
    assert list(places(reader)) == [5, 6, NOWHERE, 6, 5, 6]


def refused(directory: Path) -> None:
    """Expect the bundle not to be believed."""
    with pytest.raises(HostplaneError):
        verify(open_bundle(directory))


def test_a_changed_byte_anywhere_is_refused(tmp_path: Path) -> None:
    play.write(tmp_path, ROOT, inventory=tmp_path / "boot.img", sizes=tmp_path / "sbom")
    found = [path for path in (tmp_path / "bundle").rglob("*") if path.is_file()]
    assert len(found) == 12  # 7 layers (three are alike), config, manifest, index, and two files
    for path in found:
        whole = path.read_bytes()
        for at in {0, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            refused(tmp_path / "bundle")
        path.write_bytes(whole[:-1])
        refused(tmp_path / "bundle")
        path.unlink()
        refused(tmp_path / "bundle")
        path.write_bytes(whole)
        verify(open_bundle(tmp_path / "bundle"))


def _without(kind: str) -> Any:
    return lambda manifest: manifest.update(layers=[one for one in manifest["layers"] if kind not in one["mediaType"]])


def _twice(kind: str) -> Any:
    return lambda manifest: manifest["layers"].extend([one for one in manifest["layers"] if kind in one["mediaType"]])


def _set(key: str, value: object) -> Any:
    return lambda manifest: manifest.update({key: value})


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (_without("metadata"), "BundleInvalid"),
        (_without("blockindex"), "BundleInvalid"),
        (_without("frames"), "BundleInvalid"),
        (_without("cyclonedx"), "BundleInvalid"),
        (_without("licences"), "BundleInvalid"),
        (_twice("metadata"), "BundleInvalid"),
        (_twice("frames"), "BundleInvalid"),
        (_set("schemaVersion", 1), "BundleInvalid"),
        (_set("schemaVersion", True), "BundleInvalid"),
        (_set("artifactType", "application/other"), "BundleNotOne"),
        (_set("annotations", {"dev.hostplane.schema": "2.0"}), "BundleSchemaUnknown"),
        (_set("annotations", {}), "BundleInvalid"),
        (_set("annotations", {"a": 1}), "BundleInvalid"),
        (_set("layers", {}), "BundleInvalid"),
        (_set("layers", [1]), "BundleInvalid"),
        (_set("layers", [{}] * 33), "BundleTooLarge"),
        (_set("config", None), "BundleInvalid"),
        (_set("padding", "x" * (256 << 10)), "BundleInvalid"),
    ],
)
def test_a_manifest_that_breaks_the_format_is_refused(tmp_path: Path, change: Any, name: str) -> None:
    play.write(tmp_path, play.blocks([1, 2]))
    play.respell(open_bundle(tmp_path / "bundle"), change)
    with pytest.raises(HostplaneError) as caught:
        open_bundle(tmp_path / "bundle")
    assert caught.value.name == name


def test_layers_and_fields_of_a_newer_minor_schema_are_passed_over(tmp_path: Path) -> None:
    play.write(tmp_path, ROOT)

    def newer(manifest: dict[str, Any]) -> None:
        manifest["annotations"]["dev.hostplane.schema"] = "1.7"
        manifest["layers"].append(dict(manifest["layers"][0], mediaType="application/vnd.hostplane.later.v1"))
        manifest["later"] = {"a": [1]}

    play.respell(open_bundle(tmp_path / "bundle"), newer)
    opened = open_bundle(tmp_path / "bundle")
    assert opened.manifest.annotations["dev.hostplane.schema"] == "1.7"
    verify(opened)


def test_the_images_of_another_bundle_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    play.write(tmp_path / "a", ROOT)
    play.write(tmp_path / "b", play.blocks([7, 8, 9]))
    mine, other = open_bundle(tmp_path / "a/bundle"), open_bundle(tmp_path / "b/bundle")
    for at in (0, 1):
        raw = other.path(other.manifest.images["root"][at]).read_bytes()
        play.replace_layer(open_bundle(tmp_path / "a/bundle"), mine.manifest.images["root"][at].digest, raw)
    with pytest.raises(HostError) as caught:
        verify(open_bundle(tmp_path / "a/bundle"))
    assert caught.value.name == "BundleInvalid"


def test_the_layout_is_what_oci_says(tmp_path: Path) -> None:
    info = play.write(tmp_path, ROOT)
    top = json.loads((tmp_path / "bundle/index.json").read_text())["manifests"]
    assert [one["annotations"] for one in top] == [{"org.opencontainers.image.ref.name": "1.2_rc1"}]
    manifest = json.loads((tmp_path / "bundle/blobs/sha256" / info.digest[7:]).read_text())
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert info.size == sum(layer["size"] for layer in manifest["layers"])
