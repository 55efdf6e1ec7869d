"""What the proxy takes for true when the watch and the answers to its writes come out of order."""

from __future__ import annotations

import asyncio

from hostplane.api.host import Host, HostSpec, ImageRef
from hostplane.api.meta import ObjectMeta
from hostplane.proxy.view import HostView

IMAGE = ImageRef(format="rootTar", ref="http://x/y", digest=f"sha256:{'b' * 64}", size=1, version="2")


def host(version: int, uid: str = "u", image: ImageRef | None = None) -> Host:
    return Host(metadata=ObjectMeta(name="n", uid=uid, resource_version=str(version)), spec=HostSpec(image=image))


def test_answer_does_not_hide_what_the_watch_said_since() -> None:
    view = HostView()
    view.see(host(5))
    view.see(host(8, image=IMAGE))  # the operator wrote after us, and its event came first
    view.answered(host(7))
    assert view.host == host(8, image=IMAGE)


def test_answer_stands_for_the_event_to_come() -> None:
    view = HostView()
    view.see(host(5))
    view.answered(host(7))
    assert view.host == host(7)


def test_answer_about_an_earlier_host_of_the_name_is_nothing() -> None:
    view = HostView()
    view.see(host(9, uid="new"))
    view.answered(host(10, uid="old"))
    view.see(None)
    view.answered(host(11, uid="old"))
    assert view.host is None


def test_watch_is_believed_after_a_restored_etcd() -> None:
    view = HostView()
    view.see(host(900, image=IMAGE))
    view.see(host(4))
    assert view.host == host(4)


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
