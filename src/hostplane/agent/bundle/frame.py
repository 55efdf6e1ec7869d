"""A frame's content from its stored bytes: proven before they are decoded, bounded while, proven again after.

none, deflate and xz are the standard library's; zstd needs Python 3.14 or the zstandard module and is refused without.
A decoder is never given a window larger than the largest frame, whatever the stored bytes ask for.
"""

import hashlib
import importlib
import lzma
import zlib
from typing import Any

from hostplane.agent.bundle.blockindex import CODECS, Frame
from hostplane.agent.bundle.limits import MAX_FRAME_RAW
from hostplane.agent.bundle.strict import invalid
from hostplane.errors import HostError

__all__ = ["decode"]

_XZ_MEMORY = MAX_FRAME_RAW + (1 << 20)
_ZSTD_WINDOW = MAX_FRAME_RAW


def decode(frame: Frame, stored: bytes) -> bytes:
    """The content of `frame`.

    Raises:
        HostError: BundleDigestMismatch, BundleInvalid, BundleCodecUnknown (no decoder here).
    """
    part = "frame %d" % frame.number
    _check(part, stored, frame.stored_sha256)
    codec = CODECS[frame.codec]
    try:
        if codec == "none":
            raw = stored
        elif codec == "deflate":
            raw = _bounded(zlib.decompressobj(), stored, frame.raw)
        elif codec == "xz":
            raw = _bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY), stored, frame.raw)
        else:
            raw = _zstd(stored, frame.raw)
    except (zlib.error, lzma.LZMAError, EOFError, ValueError) as fault:
        raise invalid(part, "it cannot be unpacked: %s" % fault) from fault
    _check(part, raw, frame.raw_sha256)
    return raw


def _check(part: str, content: bytes, want: bytes) -> None:
    got = hashlib.sha256(content).digest()
    if got != want:
        raise HostError("BundleDigestMismatch", part=part, got="sha256:" + got.hex(), want="sha256:" + want.hex())


def _bounded(unpacker: Any, stored: bytes, size: int) -> bytes:
    """All of `stored` through `unpacker`, when that is exactly one stream of `size` bytes."""
    pieces = [unpacker.decompress(stored, size)]  # type: list[bytes]
    got = len(pieces[0])
    while not unpacker.eof:  # the trailer may need another call; more content than announced ends the loop
        rest = getattr(unpacker, "unconsumed_tail", b"")
        piece = unpacker.decompress(rest, 1)
        if piece or (not rest and getattr(unpacker, "needs_input", True)):
            raise ValueError("its size is not the one announced")
        got += len(piece)
    if got != size or unpacker.unused_data:
        raise ValueError("its size is not the one announced")
    return pieces[0]


def _zstd(stored: bytes, size: int) -> bytes:
    try:
        import zstandard
    except ImportError:
        return _zstd_of_the_library(stored, size)
    try:
        unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj(read_across_frames=False)
        if zstandard.frame_content_size(stored) != size:
            raise ValueError("its size is not the one announced")
        raw = unpacker.decompress(stored)  # type: bytes
        if not unpacker.eof or unpacker.unused_data:
            raise ValueError("it is not one whole stream")
    except zstandard.ZstdError as fault:
        raise ValueError(str(fault)) from fault
    return raw


def _zstd_of_the_library(stored: bytes, size: int) -> bytes:
    try:
        zstd = importlib.import_module("compression.zstd")  # type: Any
    except ImportError as fault:
        raise HostError("BundleCodecUnknown", codec="zstd") from fault
    options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW.bit_length() - 1}
    try:
        return _bounded(zstd.ZstdDecompressor(options=options), stored, size)
    except zstd.ZstdError as fault:
        raise ValueError(str(fault)) from fault
