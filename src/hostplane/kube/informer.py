"""A live copy of a set of objects: list once, then follow the watch; one request at rest.

    list (paged) ──▶ watch from its version ──▶ server ends it after 290 s, or it breaks ──▶ watch from the last version
        ▲                                                                                          │
        └──────────── 410: version too old, or the server's versions went back (restored etcd) ◀───┘

A relist is a diff, so deletions that happened unseen are reported too. Bookmarks keep the version young where nothing
changes. Only the decoded, trimmed type is kept, and `transform` can trim it further. Two copies that are equal after
the transform are no change: a transform that blanks `metadata.resource_version` and heartbeats keeps a busy cluster
quiet.

An object that does not decode keeps its last good copy and appears in `undecodable`. It never decides anything, never
writes, and never swallows an exception of `on_change`: that ends `run`, and with it the TaskGroup.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from hostplane.api.meta import Resource
from hostplane.errors import ClusterError, GoneError, ThrottledError, UnreachableError
from hostplane.kube.pace import Backoff
from hostplane.kube.session import Session

__all__ = ["Informer"]

T = TypeVar("T")
_REFUSALS_BEFORE_RELIST = 3
_SHORT_WATCH = 1.0  # seconds; a server that ends watches sooner than this is not asked again at once


class Informer(Generic[T]):
    """The objects of `resource`, by key: the name, or namespace/name."""

    def __init__(
        self,
        session: Session,
        resource: Resource[T],
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        *,
        indexes: Mapping[str, Callable[[T], Iterable[str]]] | None = None,
        transform: Callable[[T], T] | None = None,
        on_change: Callable[[T | None, T | None], None] | None = None,
        on_failure: Callable[[ClusterError], None] | None = None,
        backoff: Backoff | None = None,
        page: int = 500,
        watch_seconds: int = 290,
    ) -> None:
        """Prepare; nothing happens before `run`.

        Args:
            indexes: name -> function from an object to the values it is found under with `by`.
            transform: applied to each object before it is kept.
            on_change: called in `run` with (old, new) for every difference; None is "not there".
            on_failure: told of every failure that is being retried, for logs and metrics.
            page: objects per page of the list.
            watch_seconds: how long the server is asked to keep one watch, at most; each time up to a fifth less.
        """
        self._session, self.resource = session, resource
        self._selection: dict[str, Any] = {
            "namespace": namespace,
            "label_selector": label_selector,
            "field_selector": field_selector,
        }
        self._index_functions = dict(indexes or {})
        self._transform, self._on_change, self._on_failure = transform, on_change, on_failure
        self._backoff = backoff or Backoff()
        self._page, self._watch_seconds = page, watch_seconds
        self._objects: dict[str, T] = {}
        self._indexes: dict[str, dict[str, dict[str, None]]] = {name: {} for name in self._index_functions}
        self._undecodable: dict[str, str] = {}
        self._version = ""  # empty: the list must be read (again)
        self._synced = asyncio.Event()
        self._contact = time.monotonic()
        self._connected = False

    # What is known

    def get(self, key: str) -> T | None:
        """The object, or None."""
        return self._objects.get(key)

    def items(self) -> Mapping[str, T]:
        """All objects by key: a live, read-only view."""
        return MappingProxyType(self._objects)

    def by(self, index: str, value: str) -> list[T]:
        """The objects that the index function `index` files under `value`."""
        return [self._objects[key] for key in self._indexes[index].get(value, ())]

    @property
    def undecodable(self) -> Mapping[str, str]:
        """Objects whose present form does not decode: key -> why. Their last good copy, if any, is still served."""
        return MappingProxyType(self._undecodable)

    @property
    def is_synced(self) -> bool:
        """Whether the first list is in."""
        return self._synced.is_set()

    @property
    def stale_seconds(self) -> float:
        """How long the copy has been cut off from the server; 0 while the watch stands."""
        return 0.0 if self._connected else time.monotonic() - self._contact

    async def synced(self) -> None:
        """Wait for the first list. Bound it with a time-out of your own."""
        await self._synced.wait()

    def put(self, answer: T) -> None:
        """Take the answer to a write of our own for the event that will follow it, so that a writer reads its writes.

        Ignored where the watch is past it already: then the event was seen, and perhaps a deletion after it. Where the
        transform drops resource versions, events older than the answer show their state once more before its own does.
        """
        version = answer.metadata.resource_version  # type: ignore[attr-defined]  # every kind has metadata
        if not _is_newer(version, self._version):
            return
        key, kept = _key(answer), self._transform(answer) if self._transform else answer
        if self._is_news(key, kept):
            self._put(key, kept)

    # How it stays true

    async def run(self) -> None:
        """Keep the copy true for ever; ends only by cancellation or by an exception of a function it was given."""
        refusals = 0
        while True:
            try:
                if not self._version:
                    await self._read_list()
                started = time.monotonic()
                await self._follow()
                refusals = 0
                self._backoff.reset()
                if time.monotonic() - started >= _SHORT_WATCH:
                    continue
                wait = self._backoff.wait()
            except ClusterError as error:
                refusals += not isinstance(error, (UnreachableError, ThrottledError))
                if isinstance(error, GoneError) or refusals >= _REFUSALS_BEFORE_RELIST:
                    self._version, refusals = "", 0
                if self._on_failure is not None:
                    self._on_failure(error)
                wait = self._backoff.wait(getattr(error, "retry_after", None))
            finally:
                self._disconnected()
            await asyncio.sleep(wait)

    def _disconnected(self) -> None:
        if self._connected:
            self._connected, self._contact = False, time.monotonic()

    async def _read_list(self) -> None:
        found: dict[str, T] = {}
        undecodable: dict[str, str] = {}
        version = ""
        async for page in self._session.pages(self.resource, limit=self._page, **self._selection):
            for item in page.items:
                found[_key(item)] = self._transform(item) if self._transform else item
            undecodable.update((each.key, each.why) for each in page.undecodable)
            version = page.resource_version
        self._undecodable = undecodable
        for key in [key for key in self._objects if key not in found and key not in undecodable]:
            self._put(key, None)
        for key, item in found.items():
            self._put(key, item)
        self._version = version
        self._contact = time.monotonic()
        self._synced.set()

    async def _follow(self) -> None:
        # Thousands of informers begin together after an outage; they should not come back together for ever after.
        seconds = max(1, round(self._watch_seconds * random.uniform(0.8, 1)))
        async with self._session.watch(self.resource, self._version, seconds=seconds, **self._selection) as changes:
            self._connected = True
            async for change in changes:
                if not change.resource_version:  # it names no place to go on from; the next one will
                    continue
                if _went_back(self._version, change.resource_version):
                    raise GoneError("VersionExpired", message=f"{change.resource_version} came after {self._version}")
                if change.object is not None:
                    key = _key(change.object)
                    self._undecodable.pop(key, None)
                    kept = self._transform(change.object) if self._transform else change.object
                    if self._is_news(key, kept):
                        self._put(key, None if change.gone else kept)
                elif change.undecodable is not None and change.gone:
                    self._undecodable.pop(change.undecodable.key, None)
                    self._put(change.undecodable.key, None)
                elif change.undecodable is not None:
                    self._undecodable[change.undecodable.key] = change.undecodable.why
                self._version = change.resource_version
                self._backoff.reset()

    def _is_news(self, key: str, item: T) -> bool:
        """Whether it is no older than our copy, which may be ahead of the watch by our own writes."""
        known: Any = self._objects.get(key)
        seen: Any = item
        return known is None or not _is_newer(known.metadata.resource_version, seen.metadata.resource_version)

    def _put(self, key: str, new: T | None) -> None:
        old = self._objects.get(key)
        if _is_same(old, new):
            return
        for name, function in self._index_functions.items():
            index = self._indexes[name]
            before = set(function(old)) if old is not None else set()
            after = set(function(new)) if new is not None else set()
            for value in before - after:
                index[value].pop(key, None)
                if not index[value]:
                    del index[value]
            for value in after - before:
                index.setdefault(value, {})[key] = None
        if new is None:
            del self._objects[key]
        else:
            self._objects[key] = new
        if self._on_change is not None:
            self._on_change(old, new)


def _is_same(old: Any, new: Any) -> bool:
    """Values that nest too deeply to be compared are never the same: reported once too often is safe."""
    try:
        return bool(old == new)
    except RecursionError:
        return False


def _key(item: Any) -> str:
    metadata = item.metadata
    name: str = metadata.name
    return f"{metadata.namespace}/{name}" if metadata.namespace else name


def _went_back(known: str, seen: str) -> bool:
    return _is_newer(known, seen)


def _is_newer(version: str, than: str) -> bool:
    """Versions are numbers of one sequence per cluster; what is not a number is never newer."""
    return version.isdecimal() and than.isdecimal() and int(version) > int(than)
