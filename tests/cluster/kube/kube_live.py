"""What the tests of this folder share: a Node type, and waiting for a condition."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from hostplane.api.meta import ApiStruct, ObjectMeta, Resource
from hostplane.kube.informer import Informer


class Spec(ApiStruct, frozen=True, kw_only=True, gc=False):
    unschedulable: bool = False


class Node(ApiStruct, frozen=True, kw_only=True, gc=False):
    metadata: ObjectMeta
    spec: Spec = Spec()


NODE = Resource(Node, "", "v1", "Node", "nodes")


async def until(holds: Callable[[], Any], seconds: float = 30) -> None:
    """Wait until `holds()`; TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110  # what is waited for happens in another process
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(informer: Informer[Any]) -> AsyncIterator[None]:
    """`informer.run()` in the background; its exceptions are raised here."""
    task = asyncio.create_task(informer.run())
    try:
        synced = asyncio.create_task(informer.synced())
        async with asyncio.timeout(60):
            await asyncio.wait({task, synced}, return_when=asyncio.FIRST_COMPLETED)
        synced.cancel()
        yield
        assert not task.done() or task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
