"""New blocks from an earlier image's: what a patch says is copied from there, corrected byte by byte, and filled up.

    unpacked   runs (4) | runs of the window | copies (4) | copies, transposed | corrections | new bytes
    run        12 bytes: image (1: 0 boot, 1 root) | 0 (3) | first block (4) | blocks (4)
    copy       12 bytes: new bytes before it (4) | place in the window (4) | bytes (4)

The window is the runs' blocks one after the other. A copy's bytes are the window's plus the corrections, modulo 256,
which are zero nearly everywhere; what is left of the new bytes ends the content. Nothing here is believed: stored bytes
are proven before they are unpacked, sizes before anything is read, and the content after it was made, so that a host
whose blocks are not the earlier image's learns just that.
"""

import hashlib
import lzma
import struct
from typing import Callable, List, NamedTuple

from hostplane.agent.bundle.blockindex import Frame, transpose
from hostplane.agent.bundle.limits import BLOCK, MAX_PATCH_OPS, MAX_PATCH_RAW, MAX_PATCH_WINDOW
from hostplane.agent.bundle.strict import invalid
from hostplane.errors import HostError

__all__ = ["COPY", "COUNT", "RUN", "Window", "apply", "shifted"]

COUNT = struct.Struct(">I")
RUN = struct.Struct(">BxxxII")
"""Image (its place in IMAGES), first block, blocks."""
COPY = struct.Struct(">III")
"""New bytes before it, place in the window, bytes."""
_MOST_RUNS = MAX_PATCH_WINDOW // BLOCK
_MOST = MAX_PATCH_RAW + 2 * COUNT.size + _MOST_RUNS * RUN.size + MAX_PATCH_OPS * COPY.size
_MEMORY = 9 << 20
_STEP = 16384
_LOW = int.from_bytes(b"\x7f" * _STEP, "little")
_HIGH = int.from_bytes(b"\x80" * _STEP, "little")

Window = Callable[[int, int, int], bytes]
"""(image, first block, blocks) to the earlier image's bytes."""


class _Unpacked(NamedTuple):
    runs: List[tuple]  # type: ignore[type-arg]  # of int; 3.6 cannot say it
    copies: List[tuple]  # type: ignore[type-arg]
    rest: memoryview
    """Corrections, then new bytes."""


def apply(patch: Frame, stored: bytes, window: Window) -> bytearray:
    """The content of `patch`.

    Raises:
        HostError: BundleDigestMismatch (the part says whether the stored bytes are wrong, or what was made of them),
            BundleInvalid; and what `window` raises.
    """
    part = "patch %d" % patch.number
    _check(part, stored, patch.stored_sha256)
    found = _parse(part, _unpacked(part, stored), patch.raw)
    held = memoryview(b"".join(window(*run) for run in found.runs))
    content, at, new = bytearray(), 0, sum(length for _, _, length in found.copies)
    for before, source, length in found.copies:
        content += found.rest[new : new + before]
        new += before
        for step in range(0, length, _STEP):
            size = min(_STEP, length - step)
            content += shifted(held[source + step : source + step + size], found.rest[at + step : at + step + size])
        at += length
    content += found.rest[new:]
    _check(part + "'s content", content, patch.raw_sha256)
    return content


def shifted(base: "memoryview | bytes", corrections: "memoryview | bytes") -> bytes:
    """`base` plus `corrections`, byte by byte, modulo 256; at most 16384 bytes of each, and as many."""
    one, two = int.from_bytes(base, "little"), int.from_bytes(corrections, "little")
    if not two:
        return bytes(base)
    return (((one & _LOW) + (two & _LOW)) ^ ((one ^ two) & _HIGH)).to_bytes(len(base), "little")


def _unpacked(part: str, stored: bytes) -> bytes:
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
    try:
        raw = unpacker.decompress(stored, _MOST)
        if not unpacker.eof and not unpacker.needs_input:
            raw += unpacker.decompress(b"", 1)  # the trailer may need another call
    except (lzma.LZMAError, EOFError) as fault:
        raise invalid(part, "it cannot be unpacked: %s" % fault) from fault
    if not unpacker.eof or unpacker.unused_data or len(raw) > _MOST:
        raise invalid(part, "it is not one whole stream of the size allowed")
    return raw


def _parse(part: str, raw: bytes, size: int) -> _Unpacked:
    """The parts of an unpacked patch that gives `size` bytes, each inside of its bounds."""
    count, at = _counted(part, raw, 0, RUN.size, _MOST_RUNS)
    runs = list(RUN.iter_unpack(raw[at - count * RUN.size : at]))
    if any(image > 1 or not 0 < blocks <= _MOST_RUNS for image, _, blocks in runs):
        raise invalid(part, "it asks for blocks that there are not")
    window = sum(blocks for _, _, blocks in runs) * BLOCK
    if window > MAX_PATCH_WINDOW:
        raise invalid(part, "it asks for more of the earlier image than it may")
    count, at = _counted(part, raw, at, COPY.size, MAX_PATCH_OPS)
    copies = list(COPY.iter_unpack(transpose(raw[at - count * COPY.size : at], count) if count else b""))
    if any(source + length > window for _, source, length in copies):
        raise invalid(part, "it copies from outside of its window")
    new = size - sum(length for _, _, length in copies)
    if new < sum(before for before, _, _ in copies) or len(raw) - at != size:
        raise invalid(part, "its sizes do not add up")
    return _Unpacked(runs, copies, memoryview(raw)[at:])


def _counted(part: str, raw: bytes, at: int, width: int, most: int) -> "tuple[int, int]":
    """(how many records of `width` stand at `at`, where they end)."""
    if len(raw) - at < COUNT.size:
        raise invalid(part, "it ends too early")
    (count,) = COUNT.unpack_from(raw, at)
    end = at + COUNT.size + count * width
    if count > most or end > len(raw):
        raise invalid(part, "it counts more than there is")
    return count, end


def _check(part: str, content: "bytes | bytearray", want: bytes) -> None:
    got = hashlib.sha256(content).digest()
    if got != want:
        raise HostError("BundleDigestMismatch", part=part, got="sha256:" + got.hex(), want="sha256:" + want.hex())
