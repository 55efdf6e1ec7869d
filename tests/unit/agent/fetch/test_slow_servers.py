"""A server that drips for ever ends with a reason; one that is only slow, or held back by the host itself, does not."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pytest

from hostplane.agent.fetch.access import Credentials, Proxies
from hostplane.agent.fetch.endpoint import Endpoint
from hostplane.agent.fetch.pace import Limits, Pace
from hostplane.agent.fetch.remote import Remote
from hostplane.agent.fetch.transport import Transport
from hostplane.errors import HostError
from tests.unit.agent.fetch.faulty import Faulty, Handler
from tests.unit.agent.fetch.layouts import Bundle, Site

PATIENT = {"stallSeconds": 20, "fetchAttempts": 9, "minimumOverSeconds": 0.4, "minimumBytesPerSecond": 100_000}
TICK = 0.01


def drip(web: Faulty, content: bytes, piece: int, at_most: int = 1 << 30) -> Callable[[Handler, int], bool]:
    """Answers that give `piece` bytes a tick, from where they are asked for, and end early after `at_most`."""

    def before(handler: Handler, number: int) -> bool:
        start = int((handler.headers["Range"] or "bytes=0-")[6:].partition("-")[0])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        for at in range(start, min(len(content), start + at_most), piece):
            handler.wfile.write(content[at : min(at + piece, start + at_most)])
            if web.over.wait(TICK):
                break
        handler.close_connection = True
        return True

    return before


def name_of(act: Callable[[], object]) -> str:
    with pytest.raises(HostError) as caught:
        act()
    return caught.value.name


def test_a_drip_ends_with_a_reason_however_steady_it_is(site: Site, bundle: Bundle, web: Faulty) -> None:
    site.configure(**PATIENT)
    web.before = drip(web, bundle.content, 50)
    began = time.monotonic()
    with pytest.raises(HostError, match=f"HP-6334.*localhost:{web.port}.*100000"):
        list(site.open(bundle, web.url).blob(bundle.frames))
    assert time.monotonic() - began < 10


def test_a_byte_a_connection_is_a_drip_too(site: Site, bundle: Bundle, web: Faulty) -> None:
    site.configure(**PATIENT)
    web.before = drip(web, bundle.content, 1, at_most=1)
    assert name_of(lambda: list(site.open(bundle, web.url).blob(bundle.frames))) == "PayloadTooSlow"
    assert len(web.asked) < 20


def test_headers_that_drip_are_no_other_matter(site: Site, bundle: Bundle, web: Faulty) -> None:
    def headers(handler: Handler, number: int) -> bool:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for count in itertools.count():
            handler.wfile.write(b"X-%d: y\r\n" % (count % 50))
            if web.over.wait(TICK):
                return True
        return True

    site.configure(**PATIENT)
    web.before = headers
    assert name_of(site.open(bundle, web.url).manifest) == "PayloadTooSlow"


def test_a_slow_link_above_the_minimum_passes(site: Site, bundle: Bundle, web: Faulty) -> None:
    site.configure(**dict(PATIENT, minimumBytesPerSecond=10_000))
    web.before = drip(web, bundle.content, 3000)
    assert b"".join(site.open(bundle, web.url).blob(bundle.frames)) == bundle.content
    assert len(web.asked) == 1


def test_what_the_host_itself_holds_back_is_not_the_servers_fault(site: Site, bundle: Bundle, web: Faulty) -> None:
    site.configure(**dict(PATIENT, bytesPerSecond=250_000, minimumBytesPerSecond=1_000_000, minimumOverSeconds=0.1))
    assert b"".join(site.open(bundle, web.url).blob(bundle.frames)) == bundle.content


def test_no_minimum_is_asked_for_where_it_is_zero(site: Site, bundle: Bundle, web: Faulty) -> None:
    site.configure(**dict(PATIENT, minimumBytesPerSecond=0, minimumOverSeconds=0.1))
    web.before = drip(web, bundle.content, 10_000)
    assert b"".join(site.open(bundle, web.url).blob(bundle.frames)) == bundle.content


def test_a_mirror_that_drips_is_left_for_the_next_place_and_asked_last_from_then_on(
    bundle: Bundle, serve: Callable[..., Faulty]
) -> None:
    slow, good = serve(bundle.directory), serve(bundle.directory)
    slow.before = drip(slow, bundle.content, 50)
    pace = Pace(Limits(20.0, 9, 0, 100_000, 0.3), threading.Event())
    transport = Transport(pace, Proxies(), lambda host, port: None)
    remote = Remote([Endpoint(transport, one.url, True, Credentials) for one in (slow, good)], pace)
    path = "blobs/sha256/" + bundle.frames.digest[7:]
    try:
        for _ in range(2):
            assert b"".join(remote.spans(path, len(bundle.content), [(0, None)])) == bundle.content
    finally:
        transport.close()
    assert len(slow.asked) == 1
    assert len(good.asked) == 2
    assert good.asked[0].range is not None  # it went on where the mirror was left
