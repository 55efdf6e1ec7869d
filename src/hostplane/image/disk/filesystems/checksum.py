"""How a CRC-32C changes with the bytes it covers, so that a few bytes can be changed without reading all of them."""

from __future__ import annotations

from functools import cache

__all__ = ["change_weights", "crc32c"]


@cache
def change_weights(size: int) -> list[list[int]]:
    """By position and by (old byte exclusive-or new byte): what to exclusive-or to the CRC-32C of `size` bytes.

    The lists for fewer bytes are the last ones of those for more.
    """
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    weights = [table]
    while len(weights) < size:
        weights.append([table[value & 255] ^ value >> 8 for value in weights[-1]])
    return weights[::-1]


def crc32c(data: bytes | bytearray) -> int:
    """The CRC-32C of a block of metadata; too slow for data."""
    table = change_weights(1)[0]
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
