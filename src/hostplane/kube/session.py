"""The one door to the API server: typed reads and writes of any Resource, watches, and the escape hatch `request`.

Reads are tried again after a lost connection, 429, 500, 502, 503 and 504, honouring Retry-After. Writes are never
repeated here, except after a 401 (refused before anything happened): whoever writes knows whether once more is safe,
and gets the error. Every request takes a token of the rate limit and one of few connections, in order of arrival;
`urgent` ones (a Lease) pass both on a lane of their own, so that a queue of 10,000 writes cannot cost the leadership.

It holds no cache and keeps no object; that is the informer's part.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from hostplane.api.meta import Resource
from hostplane.errors import ClusterError, GoneError, ThrottledError, UnreachableError
from hostplane.kube import auth, wire
from hostplane.kube.pace import Backoff, TokenBucket
from hostplane.kube.transport import Answer, Pool, Stream

__all__ = ["Listing", "Session"]

T = TypeVar("T")
JsonPatch = list[dict[str, Any]]
_ANSWER_LIMIT = 64 * 1024 * 1024
_READ_ATTEMPTS = 5
_RETRY_AFTER_LIMIT = 30.0  # a read waits no longer than this in one go
_WATCH_SECONDS = 290
_PATCH_TYPES = {
    "merge": "application/merge-patch+json",
    "apply": "application/apply-patch+yaml",
    "json": "application/json-patch+json",
}


class Listing(msgspec.Struct, Generic[T], frozen=True):
    """A whole list, consistent at `resource_version`; `undecodable` objects are not among the items."""

    items: list[T]
    resource_version: str
    undecodable: list[wire.Undecodable] = []


class Session:
    """A client of one cluster; open it with `Session.open`, close it with `async with` or `close`."""

    def __init__(
        self, pool: Pool, urgent: Pool, who: auth.Credentials, agent: str, bucket: TokenBucket, timeout: float
    ):
        self._pool, self._urgent, self._credentials, self._bucket = pool, urgent, who, bucket
        self._agent, self._timeout = agent, timeout

    @classmethod
    async def open(
        cls,
        kubeconfig: str | os.PathLike[str] | None = None,
        connections: int = 4,
        user_agent: str = "hostplane",
        *,
        rate: float = 400,
        burst: int = 800,
        timeout: float = 30,
    ) -> Self:
        """Find the cluster (see auth.locate); connects at the first request.

        Args:
            connections: how many requests run side by side; watches have connections of their own.
            rate: requests a second in the long run.
            burst: requests at once before `rate` counts.
            timeout: seconds for one attempt of a request.

        Raises:
            LocalError: KubeconfigMissing, KubeconfigInvalid.
        """
        endpoint, credentials = auth.locate(kubeconfig)
        bucket = TokenBucket(rate, burst)
        return cls(Pool(endpoint, connections), Pool(endpoint, 1), credentials, user_agent, bucket, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; requests still running end with theirs."""
        await self._pool.close()
        await self._urgent.close()

    @property
    def url(self) -> str:
        """The API server's base URL, for messages."""
        return self._pool.endpoint.url

    # Reads

    async def get(self, resource: Resource[T], name: str, namespace: str | None = None, *, urgent: bool = False) -> T:
        """Read one object.

        Raises:
            NotFoundError: there is none.
            ClusterError: any other leaf.
        """
        answer = await self._call("GET", _path(resource, namespace, name), urgent=urgent)
        return wire.decode_object(resource.type, answer.body, f"{resource.kind} {name}")

    async def list(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = 500,
    ) -> Listing[T]:
        """Read all objects, page by page; begins again, at most twice, when the list expires half-way.

        Raises:
            ClusterError: any leaf.
        """
        for attempt in (1, 2, 3):
            listing: Listing[T] = Listing([], "", [])
            version = ""
            try:
                async for page in self.pages(resource, namespace, label_selector, field_selector, limit):
                    listing.items.extend(page.items)
                    listing.undecodable.extend(page.undecodable)
                    version = page.resource_version
                return Listing(listing.items, version, listing.undecodable)
            except GoneError:
                if attempt == 3:
                    raise
        raise AssertionError("unreachable")

    async def pages(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = 500,
    ) -> AsyncGenerator[wire.Page[T], None]:
        """The pages of a list as they come, all at one resource version; smaller ones where objects are huge.

        Raises:
            GoneError: the list expired half-way; begin again.
            ClusterError: any other leaf.
        """
        params = _selectors(label_selector, field_selector)
        following = ""
        while True:
            params["limit"] = str(limit)
            if following:
                params["continue"] = following
            try:
                answer = await self._call("GET", _path(resource, namespace), params=params)
            except ClusterError as error:
                if error.name != "AnswerTooLarge" or limit == 1:
                    raise
                limit = max(1, limit // 4)
                continue
            page = wire.decode_page(resource.type, answer.body, f"list of {resource.plural}")
            del answer
            following = page.next
            yield page
            if not following:
                return

    @contextlib.asynccontextmanager
    async def watch(
        self,
        resource: Resource[T],
        resource_version: str,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        seconds: int = _WATCH_SECONDS,
    ) -> AsyncIterator[AsyncIterator[wire.Change[T]]]:
        """Follow the changes after `resource_version`, bookmarks included, until the server ends it after `seconds`.

        Raises:
            GoneError: that version is too old: list again.
            UnreachableError: broken off, or silent for well over `seconds`.
            ClusterError: any other leaf.
        """
        params = _selectors(label_selector, field_selector)
        params |= {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        if resource_version:
            params["resourceVersion"] = resource_version
        target = f"{_path(resource, namespace)}?{urlencode(params)}"
        await self._bucket.take()
        for renew in (False, True):
            headers = self._headers(await self._credentials.headers(renew=renew))
            async with self._pool.stream(target, headers, timeout=self._timeout, silence=seconds + 30.0) as stream:
                if stream.status == 401 and not renew and self._credentials.renewable:
                    continue
                if stream.status != 200:
                    raise wire.refusal(stream.status, stream.headers, await stream.body(_ANSWER_LIMIT))
                async with contextlib.aclosing(_changes(resource, stream)) as changes:
                    yield changes
                return

    # Writes

    async def create(
        self,
        resource: Resource[T],
        body: dict[str, Any],
        namespace: str | None = None,
        *,
        field_manager: str = "hostplane",
        urgent: bool = False,
    ) -> T:
        """Create an object.

        Raises:
            ConflictError: ObjectExists.
            ClusterError: any other leaf; after UnreachableError it may exist.
        """
        params = {"fieldManager": field_manager}
        answer = await self._call("POST", _path(resource, namespace), body, params, urgent=urgent)
        return wire.decode_object(resource.type, answer.body, resource.kind)

    async def patch(
        self,
        resource: Resource[T],
        name: str,
        body: dict[str, Any] | JsonPatch,
        namespace: str | None = None,
        subresource: str | None = None,
        kind: Literal["merge", "apply", "json"] = "merge",
        field_manager: str = "hostplane",
        force: bool = False,
        *,
        urgent: bool = False,
    ) -> T:
        """Change an object, or apply it (server-side). A resourceVersion in the body's metadata makes it conditional.

        Raises:
            ConflictError: somebody wrote in between, or owns a field that is applied without `force`.
            NotFoundError: there is none (apply creates it).
            ClusterError: any other leaf; after UnreachableError it may have happened.
        """
        params = {"fieldManager": field_manager}
        if kind == "apply" and isinstance(body, dict):
            body = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
            if force:
                params["force"] = "true"
        answer = await self._call(
            "PATCH",
            _path(resource, namespace, name, subresource),
            body,
            params,
            content=_PATCH_TYPES[kind],
            urgent=urgent,
        )
        return wire.decode_object(resource.type, answer.body, f"{resource.kind} {name}")

    async def delete(
        self, resource: Resource[T], name: str, namespace: str | None = None, uid: str | None = None
    ) -> None:
        """Delete an object; with `uid`, only that very one.

        Raises:
            NotFoundError: there is none.
            ConflictError: it is another one by now.
            ClusterError: any other leaf.
        """
        options = {"preconditions": {"uid": uid}} if uid else {}
        await self._call("DELETE", _path(resource, namespace, name), options)

    async def evict(
        self,
        namespace: str,
        name: str,
        uid: str | None = None,
        grace_seconds: int | None = None,
        dry_run: bool = False,
    ) -> None:
        """Ask for a pod's eviction, so that PodDisruptionBudgets are respected.

        Raises:
            NotFoundError: the pod is gone.
            ConflictError: the name belongs to another pod by now.
            ThrottledError: EvictionBlocked by a budget, named in the message; or ServerBusy.
            ClusterError: any other leaf.
        """
        options: dict[str, Any] = {}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if dry_run:
            options["dryRun"] = ["All"]
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": options,
        }
        await self._call("POST", f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(name)}/eviction", body)

    async def request(self, method: str, path: str, body: Any = None, params: dict[str, str] | None = None) -> bytes:
        """Any other request; the body of its answer. `path` is absolute and already quoted.

        Raises:
            ClusterError: any leaf.
        """
        return (await self._call(method, path, body, params)).body

    # The way out

    def _headers(self, credentials: dict[str, str], content: str | None = None) -> dict[str, str]:
        headers = {"user-agent": self._agent, "accept": "application/json", **credentials}
        if content:
            headers["content-type"] = content
        return headers

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        params: dict[str, str] | None = None,
        *,
        content: str = "application/json",
        urgent: bool = False,
    ) -> Answer:
        target = f"{path}?{urlencode(params)}" if params else path
        payload = b"" if body is None else msgspec.json.encode(body)
        backoff = Backoff(most=5.0)
        attempts = _READ_ATTEMPTS if method == "GET" and not urgent else 1
        while True:
            attempts -= 1
            if not urgent:
                await self._bucket.take()
            try:
                return await self._attempt(method, target, payload, content, urgent=urgent)
            except (ThrottledError, UnreachableError) as error:
                if attempts <= 0:
                    raise
                after = getattr(error, "retry_after", None)
            except ClusterError as error:
                if attempts <= 0 or error.name != "ServerFailed":
                    raise
                after = None
            await asyncio.sleep(backoff.wait(min(after or 0.0, _RETRY_AFTER_LIMIT)))

    async def _attempt(self, method: str, target: str, payload: bytes, content: str, *, urgent: bool) -> Answer:
        pool = self._urgent if urgent else self._pool
        renew = False
        while True:
            headers = self._headers(await self._credentials.headers(renew=renew), content if payload else None)
            answer = await pool.request(method, target, headers, payload, timeout=self._timeout, limit=_ANSWER_LIMIT)
            if answer.status == 401 and not renew and self._credentials.renewable:
                renew = True
                continue
            if not 200 <= answer.status < 300:
                raise wire.refusal(answer.status, answer.headers, answer.body)
            return answer


async def _changes(resource: Resource[T], stream: Stream) -> AsyncGenerator[wire.Change[T], None]:
    lines = wire.Lines()
    what = f"watch of {resource.plural}"
    async with contextlib.aclosing(stream.pieces()) as pieces:
        async for piece in pieces:
            for line in lines.feed(piece):
                yield wire.decode_change(resource.type, line, what)


def _path(
    resource: Resource[Any], namespace: str | None, name: str | None = None, subresource: str | None = None
) -> str:
    return resource.path(
        quote(namespace, safe="") if namespace else None, quote(name, safe="") if name else None, subresource
    )


def _selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    chosen = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {name: value for name, value in chosen.items() if value}
