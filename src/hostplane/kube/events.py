"""Events: a person's trail of what was decided, written beside the work and never in its way.

`emit` only notes; `run` writes. The same reason about the same object is one Event with a count, as Kubernetes' own
programs do it. What cannot be written in time is dropped, oldest first, and counted: Events are for people, and no
decision may rest on one.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
from collections import OrderedDict
from typing import Any, Literal

import msgspec

from hostplane.api.meta import ApiStruct, ObjectMeta, Resource
from hostplane.errors import ClusterError, NotFoundError, Reason, ThrottledError, UnreachableError
from hostplane.kube.pace import Backoff, TokenBucket
from hostplane.kube.session import Session

__all__ = ["EVENT", "Event", "EventRecorder"]

EventType = Literal["Normal", "Warning"]
_MESSAGE_LIMIT = 1024  # bytes; the API server's own
_REMEMBERED = 4096


class Event(ApiStruct, frozen=True, kw_only=True, gc=False):
    """core/v1 Event, as far as we read it."""

    metadata: ObjectMeta = ObjectMeta()
    reason: str = ""
    message: str = ""
    type: str = ""
    count: int = 0


EVENT = Resource(Event, "", "v1", "Event", "events", namespaced=True)


class _Subject(msgspec.Struct, frozen=True):
    """What an Event is about and why: equal subjects share one Event."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    reason: str
    type: EventType


class _Note(msgspec.Struct):
    """Not yet written: how often since the last write, and the latest message."""

    message: str
    first: str
    last: str
    count: int = 1


class _Written(msgspec.Struct):
    """An Event we made: its name and its count so far."""

    name: str
    count: int


class EventRecorder:
    """Notes Events for one component; `dropped` counts those that were never written."""

    def __init__(
        self, session: Session, component: str, *, rate: float = 20, burst: int = 100, capacity: int = 2000
    ) -> None:
        """Prepare; nothing is written before `run`.

        Args:
            component: who speaks, e.g. hostplane-operator.
            rate: Events a second in the long run, after `burst` at once.
            capacity: different Events that may wait to be written.
        """
        self._session, self._component, self._capacity = session, component, capacity
        self._bucket = TokenBucket(rate, burst)
        self._waiting: OrderedDict[_Subject, _Note] = OrderedDict()
        self._written: OrderedDict[_Subject, _Written] = OrderedDict()
        self._wake = asyncio.Event()
        self.dropped = 0

    def emit(
        self,
        resource: Resource[Any],
        about: Any,
        reason: Reason,
        type: EventType = "Normal",
        message: str | None = None,
    ) -> None:
        """Note that `reason` holds for `about`: an object with metadata, or the name of a cluster-scoped one.

        Returns at once; never raises. `message` replaces the reason's own "code: text".
        """
        metadata = ObjectMeta(name=about) if isinstance(about, str) else about.metadata
        subject = _Subject(
            resource.api_version, resource.kind, metadata.namespace, metadata.name, metadata.uid, reason.name, type
        )
        text, now = _bounded(message or str(reason)), _now()
        if note := self._waiting.get(subject):
            note.message, note.last, note.count = text, now, note.count + 1
        else:
            self._waiting[subject] = _Note(text, now, now)
            while len(self._waiting) > self._capacity:
                self.dropped += self._waiting.popitem(last=False)[1].count
        self._wake.set()

    async def run(self) -> None:
        """Write what is noted, for ever; ends only by cancellation."""
        backoff = Backoff()
        while True:
            await self._wake.wait()
            while self._waiting:
                await self._bucket.take()
                try:
                    await self._write_oldest()
                    backoff.reset()
                except ClusterError as error:
                    await asyncio.sleep(backoff.wait(getattr(error, "retry_after", None)))
            self._wake.clear()

    async def flush(self, seconds: float) -> None:
        """Write what is noted, for `seconds` at most: the last thing before leaving, when `run` has ended."""
        with contextlib.suppress(ClusterError, TimeoutError):
            async with asyncio.timeout(seconds):
                while self._waiting:
                    await self._write_oldest()

    async def _write_oldest(self) -> None:
        if not self._waiting:
            return
        subject, note = self._waiting.popitem(last=False)
        try:
            await self._write(subject, note)
        except (ThrottledError, UnreachableError):  # later, unless newer ones need the place
            if newer := self._waiting.get(subject):
                newer.count, newer.first = newer.count + note.count, note.first
            else:
                self._waiting[subject] = note
                self._waiting.move_to_end(subject, last=False)
            raise
        except ClusterError:
            self.dropped += note.count
            raise

    async def _write(self, subject: _Subject, note: _Note) -> None:
        namespace = subject.namespace or "default"
        if known := self._written.get(subject):
            count = known.count + note.count
            body: dict[str, Any] = {"count": count, "lastTimestamp": note.last, "message": note.message}
            try:
                await self._session.patch(EVENT, known.name, body, namespace)
            except NotFoundError:  # the API server forgets Events after an hour
                del self._written[subject]
            else:
                known.count = count
                self._written.move_to_end(subject)
                return
        name = f"{subject.name[:200].rstrip('-.')}.{os.urandom(8).hex()}"
        await self._session.create(EVENT, self._compose(subject, note, name, namespace), namespace)
        self._written[subject] = _Written(name, note.count)
        if len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)

    def _compose(self, subject: _Subject, note: _Note, name: str, namespace: str) -> dict[str, Any]:
        involved = {
            "apiVersion": subject.api_version,
            "kind": subject.kind,
            "name": subject.name,
            "namespace": subject.namespace,
            "uid": subject.uid,
        }
        return EVENT.manifest(
            name,
            namespace,
            involvedObject={key: value for key, value in involved.items() if value},
            reason=subject.reason,
            message=note.message,
            type=subject.type,
            count=note.count,
            firstTimestamp=note.first,
            lastTimestamp=note.last,
            source={"component": self._component},
            reportingComponent=self._component,
        )


def _bounded(text: str) -> str:
    return text.encode()[:_MESSAGE_LIMIT].decode("utf-8", "ignore")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
