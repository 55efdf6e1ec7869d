"""What the API server's bytes mean: list pages, watch events, errors.

Objects are decoded straight from the bytes into their trimmed type. One object that does not fit its type, or is nested
deeper than any decoder recurses, must cost itself only: it is reported as Undecodable beside its healthy neighbours,
with its name and version where those can be read. Nothing here does I/O.
"""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar

import msgspec

from hostplane.errors import (
    ClusterError,
    ConflictError,
    GoneError,
    NotFoundError,
    ThrottledError,
    UnreachableError,
)

__all__ = ["Change", "Lines", "Page", "Undecodable", "decode_change", "decode_object", "decode_page", "refusal"]

T = TypeVar("T")
_EVENT_LIMIT = 8 * 1024 * 1024
_MESSAGE_LIMIT = 1000
_BROKEN = (msgspec.MsgspecError, RecursionError, UnicodeError, OverflowError)


class Undecodable(msgspec.Struct, frozen=True):
    """An object that does not have its type's form. `key` is empty where not even its name could be read."""

    key: str
    resource_version: str
    why: str


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list; `next` continues it, empty at the end."""

    items: list[T]
    undecodable: list[Undecodable]
    resource_version: str
    next: str


class Change(msgspec.Struct, Generic[T], frozen=True):
    """One watch event: an `object` or an `undecodable` one, `gone` or not; with neither, a bookmark."""

    resource_version: str
    object: T | None = None
    gone: bool = False
    undecodable: Undecodable | None = None


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    next: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Identity(msgspec.Struct):
    metadata: _Meta


class _Event(msgspec.Struct, Generic[T]):
    type: str
    object: T


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct, rename="camel"):
    causes: list[_Cause] | None = None
    retry_after_seconds: float = 0


class _Status(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


_list_decoder = msgspec.json.Decoder(_List)
_identity_decoder = msgspec.json.Decoder(_Identity)
_raw_event_decoder = msgspec.json.Decoder(_Event[msgspec.Raw])
_status_decoder = msgspec.json.Decoder(_Status)


_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_event_decoders: dict[Any, msgspec.json.Decoder[_Event[Any]]] = {}


def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    if type_ not in _decoders:
        _decoders[type_] = msgspec.json.Decoder(type_)
    return _decoders[type_]


def _event_decoder(type_: Any) -> msgspec.json.Decoder[_Event[Any]]:
    if type_ not in _event_decoders:
        _event_decoders[type_] = msgspec.json.Decoder(_Event[type_])
    return _event_decoders[type_]


def decode_object(type_: type[T], body: bytes, what: str) -> T:
    """The one object in `body`.

    Raises:
        ClusterError: AnswerUndecodable, naming `what`.
    """
    try:
        decoded: T = _decoder(type_).decode(body)
        return decoded
    except _BROKEN as error:
        raise ClusterError("AnswerUndecodable", what=what, why=str(error)[:_MESSAGE_LIMIT]) from error


def decode_page(type_: type[T], body: bytes, what: str) -> Page[T]:
    """A page of a list, each item on its own.

    Raises:
        ClusterError: AnswerUndecodable, when not even the list itself can be read.
    """
    raw_items: list[msgspec.Raw] | list[bytes]
    try:
        try:
            listing = _list_decoder.decode(body)
            meta, raw_items = listing.metadata, listing.items or []
        except RecursionError:
            members = _members(body)
            meta = msgspec.json.decode(members["metadata"], type=_ListMeta)
            raw_items = _elements(members.get("items", b"[]"))
    except (*_BROKEN, LookupError) as error:
        raise ClusterError("AnswerUndecodable", what=what, why=str(error)[:_MESSAGE_LIMIT]) from error
    decode = _decoder(type_).decode
    items: list[T] = []
    undecodable: list[Undecodable] = []
    for raw in raw_items:
        try:
            items.append(decode(raw))
        except _BROKEN as error:
            undecodable.append(_describe(bytes(raw), error))
    return Page(items, undecodable, meta.resource_version, meta.next)


def decode_change(type_: type[T], line: bytes, what: str) -> Change[T]:
    """A line of a watch.

    Raises:
        ClusterError: the leaf that an ERROR event stands for (GoneError for an expired version), or AnswerUndecodable.
    """
    try:
        event = _event_decoder(type_).decode(line)
        if event.type in ("ADDED", "MODIFIED", "DELETED"):
            item: Any = event.object
            return Change(item.metadata.resource_version, event.object, event.type == "DELETED")
    except _BROKEN as error:
        fault: BaseException = error
    else:
        fault = ValueError(f"unknown event {event.type!r}")
    try:
        try:
            raw_event = _raw_event_decoder.decode(line)
            kind, raw = raw_event.type, bytes(raw_event.object)
        except RecursionError:
            members = _members(line)
            kind, raw = msgspec.json.decode(members["type"], type=str), members["object"]
        if kind == "BOOKMARK":
            return Change(_identity_decoder.decode(raw).metadata.resource_version)
        if kind == "ERROR":
            status = _status_decoder.decode(raw)
            raise _error(status, status.code, status.details.retry_after_seconds if status.details else 0.0)
    except (*_BROKEN, LookupError) as error:
        raise ClusterError("AnswerUndecodable", what=what, why=str(error)[:_MESSAGE_LIMIT]) from error
    described = _describe(raw, fault)
    return Change(described.resource_version, gone=kind == "DELETED", undecodable=described)


def refusal(status: int, headers: dict[str, str], body: bytes) -> ClusterError:
    """The error that an answer of 400 or more stands for, with the server's message, at most about 1 KiB of it."""
    try:
        decoded = _status_decoder.decode(body)
    except _BROKEN:
        decoded = _Status(message=body[:_MESSAGE_LIMIT].decode("utf-8", "replace").strip())
    try:
        after = float(headers.get("retry-after", ""))
    except ValueError:
        after = decoded.details.retry_after_seconds if decoded.details else 0.0
    return _error(decoded, status, after)


def _error(status: _Status, code: int, retry_after: float) -> ClusterError:
    causes = (status.details.causes if status.details else None) or []
    extra = [cause.message for cause in causes if cause.message and cause.message not in status.message]
    text = "; ".join([status.message or f"HTTP {code}", *extra])[:_MESSAGE_LIMIT]
    if code == 404:
        return NotFoundError("ObjectNotFound", message=text)
    if code == 409:
        return ConflictError("ObjectExists" if status.reason == "AlreadyExists" else "WriteConflict", message=text)
    if code == 410:
        return GoneError("VersionExpired", message=text)
    if code in (429, 503):
        blocked = any(cause.reason == "DisruptionBudget" for cause in causes)
        throttled = ThrottledError("EvictionBlocked" if blocked else "ServerBusy", message=text)
        throttled.retry_after = max(0.0, min(retry_after, 300.0)) or None
        return throttled
    if code in (401, 403):
        return ClusterError("RequestForbidden", status=code, message=text)
    if code >= 500:
        return ClusterError("ServerFailed", status=code, message=text)
    return ClusterError("RequestInvalid", status=code, message=text)


def _describe(raw: bytes, fault: BaseException) -> Undecodable:
    try:
        try:
            meta = _identity_decoder.decode(raw).metadata
        except RecursionError:
            meta = msgspec.json.decode(_members(raw)["metadata"], type=_Meta)
    except (*_BROKEN, LookupError):
        return Undecodable("", "", str(fault)[:_MESSAGE_LIMIT])
    key = f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name
    return Undecodable(key, meta.resource_version, str(fault)[:_MESSAGE_LIMIT])


_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],]')
_MEMBER = re.compile(rb'\s*("[^"\\]*(?:\\.[^"\\]*)*")\s*:')


def _elements(raw: bytes) -> list[bytes]:
    """The top-level elements of a JSON array or object, without recursion: for what nests too deeply to decode."""
    found: list[bytes] = []
    depth = start = 0
    for token in _TOKEN.finditer(raw):
        sign = raw[token.start() : token.start() + 1]
        if sign in (b"{", b"["):
            depth += 1
            start = token.end() if depth == 1 else start
        elif sign in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                last = raw[start : token.start()].strip()
                return [*found, last] if last else found
        elif sign == b"," and depth == 1:
            found.append(raw[start : token.start()])
            start = token.end()
    raise KeyError("unbalanced JSON")


def _members(raw: bytes) -> dict[str, bytes]:
    members = {}
    for element in _elements(raw):
        if match := _MEMBER.match(element):
            members[msgspec.json.decode(match[1], type=str)] = element[match.end() :]
    return members


class Lines:
    """Cuts a stream into lines, however it arrives; a line is at most 8 MiB (objects are at most about 1.5 MiB)."""

    def __init__(self, limit: int = _EVENT_LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that `piece` completes, without their ends.

        Raises:
            UnreachableError: ServerUnreachable, for a line over the limit: this is no watch.
        """
        *lines, rest = piece.split(b"\n")
        if lines and self._parts:
            lines[0] = b"".join([*self._parts, lines[0]])
            self._parts.clear()
            self._size = 0
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
            if self._size > self._limit:
                raise UnreachableError("ServerUnreachable", url="a watch", why=f"an event over {self._limit} bytes")
        return [line for line in lines if line.strip()]
