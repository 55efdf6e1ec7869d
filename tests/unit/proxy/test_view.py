"""Waiting for another wish."""

from __future__ import annotations

import asyncio

from hostplane.api.host import Host, HostSpec, ImageRef
from hostplane.api.meta import ObjectMeta
from hostplane.proxy.view import HostView

IMAGE = ImageRef(format="rootTar", ref="http://x/y", digest=f"sha256:{'b' * 64}", size=1, version="2")


def host(version: int, uid: str = "u", image: ImageRef | None = None) -> Host:
    return Host(metadata=ObjectMeta(name="n", uid=uid, resource_version=str(version)), spec=HostSpec(image=image))


def test_status_alone_is_no_other_wish() -> None:
    async def scene() -> None:
        view = HostView()
        view.see(host(1))
        wish = view.wish
        waiting = asyncio.create_task(view.other_wish(wish))
        view.see(host(2))
        await asyncio.sleep(0)
        assert not waiting.done()
        view.see(host(3, image=IMAGE))
        assert await waiting
        assert not await view.other_wish(view.wish, 0.0)

    asyncio.run(scene())
