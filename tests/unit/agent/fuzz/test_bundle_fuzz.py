"""What a stranger may put into a registry: every document ends as what it should be, or as one HostError."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from hostplane.agent.bundle import frame, manifest, patch, signature, trust
from hostplane.agent.bundle.blockindex import (
    COPY,
    ENTRY,
    EXTENT,
    FETCH,
    FRAME,
    HEADER,
    ZERO,
    BlockIndex,
    Frame,
    PatchIndex,
    transpose,
)
from hostplane.agent.bundle.limits import BLOCK, MAX_FRAME_RAW, MAX_PATCH_RAW, MAX_PATCH_WINDOW
from hostplane.image.bundle import signing
from hostplane.image.bundle.ocilayout import open_bundle
from tests.unit.agent.fuzz.spoiling import campaign, refusal, spoiled_bytes, spoiled_json
from tests.unit.image import bundle_play as play


def _made() -> tuple[dict[str, dict[str, Any]], bytes, bytes, list[Frame]]:
    """(documents by name, a block index, its frames blob, the frames) of a small signed bundle."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        play.write(home, play.blocks([*range(1, 40), 0, 0, -1, -2, 3, 3]))
        signing.generate(home / "key", home / "key.pub")
        signing.sign_bundle(home / "bundle", home / "key", key_id="ops")
        opened = open_bundle(home / "bundle")
        layout = opened.layout

        def load(digest: str) -> dict[str, Any]:
            return dict(json.loads(layout.path(digest).read_bytes()))

        top = json.loads((home / "bundle/index.json").read_text())
        index = load(top["manifests"][0]["digest"])
        signed = load(index["manifests"][1]["digest"])
        documents = {
            "layout": json.loads((home / "bundle/oci-layout").read_text()),
            "index": index,
            "manifest": load(opened.manifest.digest),
            "metadata": load(opened.manifest.metadata.digest),
            "signature manifest": signed,
            "signatures": load(signed["layers"][0]["digest"]),
        }
        blocks, frames = opened.manifest.images["root"]
        raw = layout.path(blocks.digest).read_bytes()
        return documents, raw, layout.path(frames.digest).read_bytes(), list(_reader(raw).frames())


def _reader(raw: bytes) -> BlockIndex:
    return BlockIndex(io.BytesIO(raw).read, len(raw))


DOCUMENTS, INDEX, FRAMES, LISTED = _made()
PARSERS: list[Callable[[bytes], Any]] = [
    manifest.parse_layout,
    manifest.parse_index,
    manifest.artifact_type_of,
    manifest.parse_manifest,
    manifest.parse_metadata,
    manifest.parse_signature_manifest,
    signature.parse_signatures,
    trust.parse_chain,
]


@campaign(spoiled_json(*DOCUMENTS.values()))
def test_every_document_is_read_or_refused(raw: bytes) -> None:
    for parse in PARSERS:
        refusal(lambda parse=parse: parse(raw))  # type: ignore[misc]


def read_all(raw: bytes) -> None:
    """What a host does with an index; whatever it accepts must stay inside of the image and the frames' content."""
    index = _reader(raw)
    content = stored = 0
    for one in index.frames():
        assert one.block * BLOCK == content
        assert one.offset == stored
        assert 0 < one.raw <= MAX_FRAME_RAW
        content += one.raw
        stored += one.stored
    at = 0
    for extent in index.extents():
        assert extent.block == at
        at += extent.length
        if extent.op == FETCH:
            assert (extent.source + extent.length) * BLOCK <= content
        elif extent.op == COPY:
            assert extent.source + extent.length <= extent.block
        else:
            assert extent.op == ZERO
    assert at == index.header.blocks
    for entry in index.entries():
        assert int.from_bytes(entry[8:], "big") < index.header.blocks


@campaign(spoiled_bytes(INDEX))
def test_a_spoiled_block_index_stays_inside_of_its_image_or_is_refused(raw: bytes) -> None:
    refusal(lambda: read_all(raw))


numbers = st.one_of(st.integers(0, 60), st.integers(0, (1 << 32) - 1))


def _chunks(records: list[bytes], width: int) -> bytes:
    """One chunk, as a writer packs it."""
    import zlib

    if not records:
        return b""
    packed = zlib.compress(transpose(b"".join(records), width))
    return len(records).to_bytes(4, "big") + len(packed).to_bytes(4, "big") + packed


@st.composite
def made_up_index(draw: st.DrawFn) -> bytes:
    """Well packed nonsense, which gets past every check of form."""
    blocks = draw(st.integers(1, 60))
    raw_sizes = draw(st.lists(st.integers(1, 8), max_size=6))
    frames = b"".join(
        FRAME.pack(draw(st.integers(0, 4)), raw * BLOCK, draw(st.integers(1, raw * BLOCK)), bytes(32), bytes(32))
        for raw in raw_sizes
    )
    extents = [
        EXTENT.pack(draw(st.integers(0, 3)), draw(numbers), draw(numbers)) for _ in range(draw(st.integers(1, 8)))
    ]
    count = draw(st.integers(0, 60))
    entries = sorted(draw(st.binary(min_size=8, max_size=8)) + draw(numbers).to_bytes(4, "big") for _ in range(count))
    extent_chunk, entry_chunk = _chunks(extents, EXTENT.size), _chunks(entries, ENTRY.size)
    header = HEADER.pack(
        b"HPBLOCKS",
        1,
        0,
        BLOCK,
        blocks * BLOCK,
        bytes(32),
        len(raw_sizes),
        len(extents),
        len(entries),
        0,
        len(extent_chunk),
        len(entry_chunk),
    )
    return header + frames + extent_chunk + entry_chunk


@campaign(made_up_index())
def test_a_made_up_block_index_stays_inside_of_its_image_or_is_refused(raw: bytes) -> None:
    refusal(lambda: read_all(raw))


def _stored(one: Frame) -> bytes:
    return FRAMES[one.offset : one.offset + one.stored]


@campaign(
    st.sampled_from(LISTED).flatmap(lambda one: st.tuples(st.just(one), spoiled_bytes(_stored(one)))),
    st.sampled_from([BLOCK, 16 * BLOCK, MAX_FRAME_RAW]),
    st.integers(0, 3),
)
def test_a_spoiled_frame_gives_its_content_or_is_refused(spoiled: tuple[Frame, bytes], size: int, codec: int) -> None:
    """Its hash is made to fit, as whoever signs the index could do; the decoder must keep to the size all the same."""
    one, stored = spoiled
    lied = one._replace(
        codec=codec, raw=size, stored=len(stored), stored_sha256=hashlib.sha256(stored).digest(), raw_sha256=bytes(32)
    )
    assert refusal(lambda: frame.decode(lied, stored))


def _patched() -> tuple[bytes, bytes, Frame]:
    """(a patch index, its first patch's unpacked bytes, that patch)."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        old = random.Random(1).randbytes(40 * BLOCK)
        play.write(home / "old", old, old)
        play.write(home / "new", old[:5000] + b"put in" + old[5000 : 39 * BLOCK + 4090], previous=home / "old/bundle")
        opened = open_bundle(home / "new/bundle")
        assert opened.manifest.patches is not None
        index, blob = opened.manifest.patches.images["root"]
        raw = opened.layout.path(index.digest).read_bytes()
        first = next(PatchIndex(io.BytesIO(raw).read, len(raw)).frames())
        return raw, lzma.decompress(opened.layout.path(blob.digest).read_bytes()[: first.stored]), first


PATCH_INDEX, PATCH, LISTED_PATCH = _patched()


def read_all_patches(raw: bytes) -> None:
    index = PatchIndex(io.BytesIO(raw).read, len(raw))
    content = 0
    for one in index.frames():
        assert 0 < one.stored <= one.raw <= MAX_PATCH_RAW
        content += one.raw
    at = 0
    for extent in index.extents():
        assert extent.op in (ZERO, FETCH)
        assert extent.op == ZERO or (extent.source + extent.length) * BLOCK <= content
        at += extent.length
    assert at == index.header.blocks
    assert not list(index.entries())


@campaign(spoiled_bytes(PATCH_INDEX))
def test_a_spoiled_patch_index_stays_inside_of_its_image_or_is_refused(raw: bytes) -> None:
    refusal(lambda: read_all_patches(raw))


@campaign(st.one_of(spoiled_bytes(PATCH), st.binary(max_size=200)), st.sampled_from([0, 1, -1, BLOCK]))
def test_a_spoiled_patch_reads_no_more_than_its_window_and_gives_what_was_signed(raw: bytes, more: int) -> None:
    """Its hash is made to fit, as whoever signs the index could do."""
    stored, asked = lzma.compress(raw, preset=0), 0
    digest = hashlib.sha256(stored).digest()
    lied = LISTED_PATCH._replace(raw=LISTED_PATCH.raw + more, stored=len(stored), stored_sha256=digest)

    def window(image: int, first: int, blocks: int) -> bytes:
        nonlocal asked
        assert image in (0, 1)
        asked += blocks * BLOCK
        assert asked <= MAX_PATCH_WINDOW
        return bytes(blocks * BLOCK)

    assert refusal(lambda: patch.apply(lied, stored, window))
