"""A patch gives exactly the content that was signed, or one refusal, and reads nothing but the blocks it may."""

from __future__ import annotations

import hashlib
import lzma
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostplane.agent.bundle import patch
from hostplane.agent.bundle.blockindex import Frame, transpose
from hostplane.agent.bundle.limits import BLOCK, MAX_PATCH_OPS, MAX_PATCH_RAW, MAX_PATCH_WINDOW
from hostplane.errors import HostError
from hostplane.image.bundle.matching import difference

OLD = random.Random(1).randbytes(8 * BLOCK)
NEW = OLD[4 * BLOCK + 17 : 5 * BLOCK] + b"new" + OLD[: 2 * BLOCK]
CONTENT = NEW.ljust(3 * BLOCK, b"!")


def window(image: int, first: int, blocks: int) -> bytes:
    assert (image, blocks) == (1, 8)
    assert first == 5
    return OLD


def packed(runs: list[tuple[int, int, int]], copies: list[tuple[int, int, int]], rest: bytes) -> bytes:
    table = transpose(b"".join(patch.COPY.pack(*one) for one in copies), patch.COPY.size) if copies else b""
    listed = b"".join(patch.RUN.pack(*one) for one in runs)
    raw = patch.COUNT.pack(len(runs)) + listed + patch.COUNT.pack(len(copies)) + table + rest
    return lzma.compress(raw, lzma.FORMAT_XZ, lzma.CHECK_NONE)


RUNS = [(1, 5, 8)]
COPIES = [(0, 4 * BLOCK + 17, BLOCK - 17), (3, 0, 2 * BLOCK)]
REST = bytes(3 * BLOCK - 17) + b"new" + b"!" * (len(CONTENT) - len(NEW))
STORED = packed(RUNS, COPIES, REST)


def of(stored: bytes, content: bytes = CONTENT) -> Frame:
    digests = hashlib.sha256(content).digest(), hashlib.sha256(stored).digest()
    return Frame(0, 2, len(content), len(stored), *digests, 0, 0)


def refusal(one: Frame, stored: bytes) -> HostError:
    with pytest.raises(HostError) as caught:
        patch.apply(one, stored, window)
    return caught.value


def test_copies_corrections_and_new_bytes_make_the_content() -> None:
    assert patch.apply(of(STORED), STORED, window) == CONTENT
    changed = bytearray(CONTENT)
    changed[7] = (changed[7] + 200) % 256
    rest = bytearray(REST)
    rest[7] = 200
    stored = packed(RUNS, COPIES, bytes(rest))
    assert patch.apply(of(stored, bytes(changed)), stored, window) == changed


@given(st.binary(min_size=1, max_size=200), st.randoms(use_true_random=False))
def test_what_the_builder_takes_away_the_host_adds(new: bytes, chance: random.Random) -> None:
    old = chance.randbytes(len(new))
    assert patch.shifted(old, difference(new, old)) == new


def test_another_base_is_noticed() -> None:
    with pytest.raises(HostError) as caught:
        patch.apply(of(STORED), STORED, lambda *run: bytes(8 * BLOCK))
    assert caught.value.name == "BundleDigestMismatch"


def test_stored_bytes_are_proven_before_anything_is_read() -> None:
    one = of(STORED)

    def never(*run: int) -> bytes:
        raise AssertionError("read")

    with pytest.raises(HostError) as caught:
        patch.apply(one, STORED[:-1] + b"x", never)
    assert caught.value.name == "BundleDigestMismatch"


@pytest.mark.parametrize(
    "stored",
    [
        packed([(2, 5, 8)], COPIES, REST),
        packed([(1, 5, 0)], COPIES, REST),
        packed([(1, 0, MAX_PATCH_WINDOW // BLOCK), (0, 0, 1)], COPIES, REST),
        packed([(1, 0, 1)] * (MAX_PATCH_WINDOW // BLOCK + 1), COPIES, REST),
        packed(RUNS, [(0, 8 * BLOCK - 1, 2)], REST),
        packed(RUNS, [(0, 0, 8 * BLOCK)], REST),
        packed(RUNS, [(len(REST), 0, 1)], REST),
        packed(RUNS, [(0, 0, 1)] * (MAX_PATCH_OPS + 1), REST),
        packed(RUNS, COPIES, REST + b"x"),
        packed(RUNS, COPIES, REST[:-1]),
        lzma.compress(b"", lzma.FORMAT_XZ),
        lzma.compress(b"\0\0\0\2", lzma.FORMAT_XZ),
        lzma.compress(bytes(MAX_PATCH_RAW + (2 << 20)), lzma.FORMAT_XZ),
        STORED + STORED,
        STORED[:-8],
        b"nothing of the kind",
    ],
)
def test_what_breaks_the_format_is_refused(stored: bytes) -> None:
    assert refusal(of(stored), stored).name == "BundleInvalid"
