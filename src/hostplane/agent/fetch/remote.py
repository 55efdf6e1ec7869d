"""Bytes of one document, from whichever of several places has them, going on where the last one broke off.

Places are asked in order, those that broke off before after the others. A place that says it does not have it, or that
may not be read, is left out; one that dropped the connection comes round again. Only rounds in which no place gave a
byte count as attempts. A place that answers a range with the whole, or with another range, is not asked for ranges
again: its whole answer is read and what nobody wants is dropped.
"""

import logging
import re
from typing import Callable, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from hostplane.errors import HostError

from .access import shown
from .endpoint import Endpoint
from .pace import DroppedError, MissingError, Pace
from .transport import Answer

__all__ = ["Remote", "Span"]

_log = logging.getLogger("hostplane.agent")
_RANGE = re.compile(r"\Abytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)\Z")

Span = Tuple[int, Optional[int]]
"""First byte and the one after the last; None: to the end, wherever that is."""


class _Body(object):
    """An answer that is at byte `at` of the document; `end` None: unknown."""

    def __init__(self, answer: Answer, at: int, end: Optional[int], total: Optional[int]) -> None:
        self._answer, self._pieces = answer, answer.pieces()
        self.at, self.end, self.total = at, end, total
        self._rest = b""

    def has(self, at: int) -> bool:
        return self.at <= at and (self.end is None or at < self.end)

    def read(self, at: int, end: Optional[int]) -> bytes:
        """Bytes from `at` on, before `end`; nothing at the end of the document."""
        while True:
            piece, self._rest = self._rest or next(self._pieces, b""), b""
            if not piece:
                return b""
            skipped = min(len(piece), max(0, at - self.at))
            self.at += skipped
            piece = piece[skipped:]
            if piece:
                wanted = piece if end is None else piece[: end - at]
                self._rest = piece[len(wanted) :]
                self.at += len(wanted)
                return wanted

    def is_over(self, at: int) -> bool:
        return self.end is not None and at >= self.end

    def close(self) -> None:
        if self.at == self.end and not self._rest and self._answer.length is not None:
            next(self._pieces, b"")  # lets it end, so that the connection is kept
        self._answer.close()


class Remote(object):
    """`endpoints` in the order they are asked; the last is where the document comes from, the others are copies."""

    def __init__(self, endpoints: Sequence[Endpoint], pace: Pace) -> None:
        self._endpoints, self._pace = list(endpoints), pace
        self._last = self._endpoints[0]
        self._is_told = False

    def distrust(self) -> None:
        """What came last was wrong: ask its place after the others, and for no ranges when it happens again.

        However much of one reading was wrong counts as once.
        """
        if not self._is_told:
            self._is_told = True
            self._last.is_ranged = self._last.is_ranged and not self._last.has_lied
            self._last.has_lied = self._last.is_doubted = True

    def document(self, path: str, limit: int, headers: Mapping[str, str]) -> bytes:
        """A small document of unknown size; more than `limit` bytes are cut after the first too many.

        Raises:
            MissingError when every place says that it does not have it. HostError, Cancelled.
        """
        found = b""
        for piece in self.spans(path, 0, [(0, None)], headers):
            found += piece
            if len(found) > limit:
                break
        return found[: limit + 1]

    def spans(
        self,
        path: str,
        size: int,
        spans: Iterable[Span],
        headers: Optional[Mapping[str, str]] = None,
        expect: Optional[Callable[[int], None]] = None,
    ) -> Iterator[bytes]:
        """The bytes of ascending, disjoint `spans` of a document of `size` bytes (0: unknown), one after the other.

        `expect` is told the size when a server says it.

        Raises:
            MissingError. HostError: PayloadUnreachable, PayloadTruncated, PayloadSizeMismatch, PayloadRefused,
                PayloadTooSlow... Cancelled.
        """
        reading = _Reading(self._endpoints, self._pace, path, size, headers or {})
        self._is_told = False
        try:
            for start, end in spans:
                at = start
                while end is None or at < end:
                    piece = reading.piece(at, end, expect)
                    if not piece:
                        break
                    self._last = reading.endpoint
                    at += len(piece)
                    yield piece
        finally:
            reading.close()


class _Reading(object):
    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        pace: Pace,
        path: str,
        size: int,
        headers: Mapping[str, str],
    ) -> None:
        self._left: List[Endpoint] = sorted(endpoints, key=lambda one: one.is_doubted)
        self._origin = endpoints[-1]
        self._pace, self._path, self._size, self._headers = pace, path, size, headers
        self._turn, self._rounds, self._came = 0, 0, 0
        self._refusal: Optional[HostError] = None
        self._body: Optional[_Body] = None

    @property
    def endpoint(self) -> Endpoint:
        return self._left[self._turn]

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None

    def piece(self, at: int, end: Optional[int], expect: Optional[Callable[[int], None]]) -> bytes:
        """The next bytes; nothing at the end of a document of unknown size."""
        while True:
            try:
                body = self._ready(at, end, expect)
                if end is None and body.is_over(at):
                    return b""
                found = body.read(at, end)
                if not found and (end is not None or body.total not in (None, at)):
                    raise DroppedError("the connection was closed early")
                if found:
                    self._rounds, self._came = 0, self._came + len(found)
                return found
            except DroppedError as fault:
                self.close()
                self._next(at, fault)
            except HostError as refusal:
                self.close()
                self._leave_out(refusal)

    def _ready(self, at: int, end: Optional[int], expect: Optional[Callable[[int], None]]) -> _Body:
        """An answer that has the bytes from `at` on, or is over there."""
        body = self._body
        if body is not None and (body.has(at) or (end is None and body.is_over(at))):
            if not self.endpoint.has_lied or all(one.has_lied for one in self._left):
                return body
        self.close()
        body = self._body = self._open(at, end)
        if expect is not None and body.total is not None:
            expect(body.total)
        return body

    def _next(self, at: int, fault: DroppedError) -> None:
        _log.info("%s broke off: %s", self.endpoint.shown, fault)
        self.endpoint.is_doubted = True
        if isinstance(self._refusal, MissingError) and self._origin not in self._left:
            return self._leave_out(self._refusal)  # nothing to wait for: where it comes from does not have it
        where, self._turn = shown(self.endpoint.shown + self._path), (self._turn + 1) % len(self._left)
        if self._turn:
            return None
        self._rounds += 1
        if self._rounds >= self._pace.limits.attempts:
            if self._came:
                raise HostError("PayloadTruncated", got=at, want=self._size or "unknown") from None
            raise HostError("PayloadUnreachable", url=where, detail=str(fault)[:200]) from None
        return self._pace.back_off(self._rounds, fault.retry_after)

    def _leave_out(self, refusal: HostError) -> None:
        if self.endpoint is self._origin or self._refusal is None:
            self._refusal = refusal
        self.endpoint.is_doubted = self.endpoint.is_doubted or refusal.name == "PayloadTooSlow"
        if len(self._left) == 1:
            raise self._refusal
        _log.info("%s is left out: %s", self.endpoint.shown, refusal)
        del self._left[self._turn]
        self._turn %= len(self._left)

    def _open(self, at: int, end: Optional[int]) -> _Body:
        if self.endpoint.has_lied:  # perhaps only just now: rather one that has not
            self._turn = next((turn for turn, one in enumerate(self._left) if not one.has_lied), self._turn)
        endpoint, headers = self.endpoint, dict(self._headers)
        is_whole = at == 0 and (end is None or end == self._size)
        if endpoint.is_ranged and not is_whole:
            is_open = end is None or end == self._size
            headers["Range"] = "bytes=%d-" % at if is_open or end is None else "bytes=%d-%d" % (at, end - 1)
        answer = endpoint.ask(self._path, headers)
        is_answered = False
        try:
            body = self._body_of(answer, at, end) if "Range" in headers else self._whole(answer)
            is_answered = body is not None
        finally:
            if not is_answered:
                answer.close()
        if body is None:
            endpoint.is_ranged = False
            return self._open(at, end)
        if answer.status == 200 and "Range" in headers:
            endpoint.is_ranged = False
        return body

    def _body_of(self, answer: Answer, at: int, end: Optional[int]) -> Optional[_Body]:
        """The answer to a range; None when it is not what was asked for."""
        if answer.status == 200:
            return self._whole(answer)
        match = _RANGE.match(answer.header("Content-Range"))
        if answer.status != 206 or match is None:
            return None
        first, last = int(match.group(1)), int(match.group(2))
        total = self._size or None if match.group(3) == "*" else int(match.group(3))
        if first != at or last < first or (self._size and total != self._size) or (total and last >= total):
            return None
        if answer.length is not None and answer.length != last - first + 1:
            return None
        return _Body(answer, first, last + 1, total)

    def _whole(self, answer: Answer) -> _Body:
        if answer.status != 200:
            raise HostError("PayloadRefused", url=shown(self.endpoint.shown + self._path), status=answer.status)
        if self._size and answer.length is not None and answer.length != self._size:
            raise HostError("PayloadSizeMismatch", got=answer.length, want=self._size)
        return _Body(answer, 0, answer.length, self._size or answer.length)
