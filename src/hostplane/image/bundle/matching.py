"""Where new bytes come from in old ones: copies that may differ in a byte here and there, as rebuilt programs do.

Both sides are marked at anchors, places that a fixed pattern of two bytes picks, so that nothing is looked up but
there; 24 equal bytes at an anchor begin a copy, which is extended both ways as long as half of every 32 bytes are
right. The same inputs give the same copies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["GRAM", "SPARSE", "Copy", "anchors", "copies", "difference"]

GRAM = 24
"""Bytes that must be equal where a copy begins."""
_FIRST = rb"[\x00\x03\x12\x24\x2f\x41\x48\x61\x65\x6e\x74\x89\xc0\xe8\xf3\xff]"
_SECOND = rb"[\x01\x05\x0f\x20\x38\x44\x50\x63\x69\x6f\x73\x85\x8b\xb0\xd2\xfe]"
_DENSE = re.compile(_FIRST + _SECOND)
"""Bytes that are common in programs and in text: about every thirtieth place."""
SPARSE = re.compile(_FIRST + _SECOND + rb"[\x02\x07\x10\x28\x31\x40\x4c\x54\x5f\x64\x6c\x72\x83\xc3\xe9\xf8]")
_STEP = 32
_EXACT = 4096
_LEAST = 32


class Copy(NamedTuple):
    """`length` bytes of the new side from `at` on are nearly those of the old one from `source` on."""

    at: int
    source: int
    length: int


def anchors(content: bytes, pattern: re.Pattern[bytes] = _DENSE) -> Iterator[tuple[int, bytes]]:
    """(place, the bytes that begin there) of each anchor."""
    for found in pattern.finditer(content, 0, max(0, len(content) - GRAM)):
        at = found.start()
        yield at, content[at : at + GRAM]


def copies(new: bytes, old: bytes) -> Iterator[Copy]:
    """What of `new` is in `old`, ascending and disjoint."""
    table: dict[bytes, int] = {}
    for at, gram in anchors(old):
        table.setdefault(gram, at)
    done = shift = 0
    for at, gram in anchors(new):
        if at < done:
            continue
        source = table.get(gram)
        if source is None:
            continue
        if at + shift >= 0 and old[at + shift : at + shift + GRAM] == gram:
            source = at + shift  # go on beside the copy before
        back = _backwards(new, old, at, source, at - done)
        length = back + _forwards(new, old, at, source)
        if length >= _LEAST:
            yield Copy(at - back, source - back, length)
            done, shift = at - back + length, source - at


def difference(new: bytes, old: bytes) -> bytes:
    """What has to be added to `old`, byte by byte and modulo 256, to make `new`, which is as long."""
    if new == old:
        return bytes(len(new))
    low, high = (int.from_bytes(bytes((byte,)) * len(new), "little") for byte in (0x7F, 0x80))
    one, two = int.from_bytes(new, "little"), int.from_bytes(old, "little")
    return (((one | high) - (two & low)) ^ ((one ^ ~two) & high)).to_bytes(len(new), "little")


def _is_near(one: bytes, two: bytes) -> bool:
    if one == two:
        return True
    wrong = int.from_bytes(one, "little") ^ int.from_bytes(two, "little")
    return wrong.to_bytes(len(one), "little").count(0) * 2 >= len(one)


def _forwards(new: bytes, old: bytes, at: int, source: int) -> int:
    done, most = 0, min(len(new) - at, len(old) - source)
    while done < most:
        size = min(_EXACT, most - done)
        one, two = new[at + done : at + done + size], old[source + done : source + done + size]
        if one != two:
            for step in range(0, size, _STEP):
                if not _is_near(one[step : step + _STEP], two[step : step + _STEP]):
                    return done + step
        done += size
    return done


def _backwards(new: bytes, old: bytes, at: int, source: int, most: int) -> int:
    done, most = 0, min(most, source)
    while done < most:
        size = min(_STEP, most - done)
        one, two = new[at - done - size : at - done], old[source - done - size : source - done]
        if not _is_near(one, two):
            while done < most and new[at - done - 1] == old[source - done - 1]:
                done += 1
            return done
        done += size
    return done
