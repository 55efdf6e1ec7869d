"""A stream of pieces, read like a file: what unpackers ask for."""

from typing import Iterator, List

__all__ = ["Reader"]


class Reader(object):
    """Pieces as a file that is read from front to back."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, fewer at the end only; all that is left without one. Raises what the pieces raise."""
        parts: List[bytes] = []
        left = size
        while left:
            piece, self._rest = self._rest or next(self._pieces, b""), b""
            if not piece:
                break
            if 0 <= left < len(piece):
                piece, self._rest = piece[:left], piece[left:]
            parts.append(piece)
            left -= len(piece) if left > 0 else 0
        return b"".join(parts)
