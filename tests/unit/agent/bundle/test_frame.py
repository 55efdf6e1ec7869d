"""A frame is its content exactly, or it is refused: whatever its stored bytes would unpack to."""

from __future__ import annotations

import hashlib
import lzma
import tracemalloc
import zlib

import pytest
import zstandard

from hostplane.agent.bundle.blockindex import CODECS, Frame
from hostplane.agent.bundle.frame import decode
from hostplane.agent.bundle.limits import BLOCK
from hostplane.errors import HostError

CONTENT = b"".join(b"%8d" % number for number in range(BLOCK // 2))


def frame(codec: str, stored: bytes, content: bytes = CONTENT, raw: int | None = None) -> Frame:
    digests = hashlib.sha256(content).digest(), hashlib.sha256(stored).digest()
    return Frame(0, CODECS.index(codec), len(content) if raw is None else raw, len(stored), *digests, 0, 0)


def pack(codec: str, content: bytes) -> bytes:
    if codec == "deflate":
        return zlib.compress(content)
    if codec == "xz":
        return lzma.compress(content, preset=0)
    return zstandard.ZstdCompressor().compress(content) if codec == "zstd" else content


@pytest.mark.parametrize("codec", CODECS)
def test_content_comes_back(codec: str) -> None:
    stored = pack(codec, CONTENT)
    assert decode(frame(codec, stored), stored) == CONTENT


@pytest.mark.parametrize("codec", CODECS)
def test_stored_bytes_are_proven_before_they_are_decoded(codec: str) -> None:
    stored = pack(codec, CONTENT)
    with pytest.raises(HostError) as caught:
        decode(frame(codec, stored), stored[:-1] + b"?")
    assert caught.value.name == "BundleDigestMismatch"


@pytest.mark.parametrize("codec", CODECS)
def test_content_is_proven_after(codec: str) -> None:
    stored = pack(codec, CONTENT[::-1])
    with pytest.raises(HostError) as caught:
        decode(frame(codec, stored), stored)
    assert caught.value.name == "BundleDigestMismatch"


@pytest.mark.parametrize("codec", ["deflate", "xz", "zstd"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda codec: pack(codec, CONTENT + b"x"),
        lambda codec: pack(codec, CONTENT[:-1]),
        lambda codec: pack(codec, b""),
        lambda codec: pack(codec, CONTENT)[:-1],
        lambda codec: pack(codec, CONTENT) + b"x",
        lambda codec: pack(codec, CONTENT) * 2,
        lambda codec: pack(codec, CONTENT[: BLOCK // 2]) + pack(codec, CONTENT[BLOCK // 2 :]),
        lambda codec: b"no stream at all",
    ],
)
def test_anything_but_one_stream_of_the_announced_size_is_refused(codec: str, spoil: object) -> None:
    stored = spoil(codec)  # type: ignore[operator]
    with pytest.raises(HostError) as caught:
        decode(frame(codec, stored), stored)
    assert caught.value.name in ("BundleInvalid", "BundleDigestMismatch")


@pytest.mark.parametrize("codec", ["deflate", "xz", "zstd"])
def test_a_bomb_costs_no_memory(codec: str) -> None:
    stored = pack(codec, bytes(48 << 20))
    tracemalloc.start()
    with pytest.raises(HostError):
        decode(frame(codec, stored), stored)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20


def test_xz_may_not_ask_for_a_window_larger_than_a_frame() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 64 << 20}]
    stored = lzma.compress(CONTENT, filters=filters)
    with pytest.raises(HostError) as caught:
        decode(frame("xz", stored), stored)
    assert caught.value.name == "BundleInvalid"
