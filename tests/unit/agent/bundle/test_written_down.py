"""The page that writes the format down and the code that reads it say the same numbers and names."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane.agent.bundle import blockindex, limits, manifest, patch, signature

PAGE = (Path(__file__).parents[4] / "docs/reference/bundle.md").read_text("utf-8")


@pytest.mark.parametrize(
    "name", [name for name in manifest.__all__ if name.startswith(("TYPE_", "ANNOTATION_IMAGE", "ANNOTATION_BASE"))]
)
def test_media_types_are_written_down(name: str) -> None:
    value = str(getattr(manifest, name))
    assert value in PAGE or value.replace("application/vnd.hostplane.", "…") in PAGE


@pytest.mark.parametrize(
    "words",
    [
        f"| header | {blockindex.HEADER.size} |",
        f"| frames | {blockindex.FRAME.size} each |",
        f"chunks of {blockindex.EXTENT.size} each | operation",
        f"chunks of {blockindex.ENTRY.size} each | first {blockindex.HASH} bytes",
        f"| image | {limits.MAX_IMAGE >> 30} GiB",
        f"| frame: content | {limits.MAX_FRAME_RAW >> 20} MiB",
        f"| frames of an image | {limits.MAX_FRAMES:,};",
        f"| patch | {limits.MAX_PATCH_RAW >> 20} MiB of content; a window of {limits.MAX_PATCH_WINDOW >> 20} MiB "
        f"in at most {limits.MAX_PATCH_WINDOW // limits.BLOCK:,} runs; {limits.MAX_PATCH_OPS:,} copies |",
        f"`{blockindex.PATCH_MAGIC.decode()}` in front",
        f"| runs | 4, then {patch.RUN.size} each |",
        f"| copies | 4, then {patch.COPY.size} each, transposed |",
        f"| block index | {limits.MAX_INDEX >> 20} MiB; extents and entries at most one for each block; "
        f"{limits.CHUNK_RECORDS:,} records a chunk |",
        f"trusted set | {limits.MAX_MANIFEST >> 10} KiB each",
        f"manifests of an index | {limits.MAX_LAYERS} |",
        f"| signatures of a list | {limits.MAX_SIGNATURES},",
        f"| trusted keys of a set | {limits.MAX_KEYS}, and {4 * limits.MAX_KEYS} revoked ones; "
        f"{limits.MAX_TRUST_CHAIN} versions in a file |",
        *(f"| {name} | {number} |" for number, name in enumerate(blockindex.CODECS)),
        *(f"| `{signature.ALGORITHM}` | in use", *(f"`{name}`" for name in signature.RESERVED)),
    ],
)
def test_numbers_are_written_down(words: str) -> None:
    assert words in PAGE


def test_what_is_signed_is_written_down() -> None:
    said = signature.message("bundle", "sha256:", signature.Signature("KEYID", "ALG", "", b"")).decode()
    lines = [line.strip() for line in PAGE.splitlines()]
    for line in said.replace("ALG", signature.ALGORITHM).replace("expires never", "").splitlines():
        assert not line or any(own.startswith(line) for own in lines)
