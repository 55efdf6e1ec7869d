"""A bundle from a directory and from a web server, with everything a server may do wrong."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent.fetch import Cancelled
from hostplane.agent.fetch.source import coalesced
from hostplane.errors import HostError
from tests.unit.agent.fetch.faulty import Faulty, Handler, send
from tests.unit.agent.fetch.layouts import Bundle, Site, make_bundle

RANGES = [(0, 10), (10, 5), (1000, 100), (150_000, 20_000), (299_000, 1000)]


def wanted(bundle: Bundle, ranges: list[tuple[int, int]] = RANGES) -> bytes:
    return b"".join(bundle.content[start : start + length] for start, length in ranges)


def name_of(act: Callable[[], Any]) -> str:
    with pytest.raises(HostError) as caught:
        act()
    return caught.value.name


@pytest.fixture(params=["file", "web"])
def ref(request: pytest.FixtureRequest) -> str:
    if request.param == "file":
        return "file:///bundle"
    return str(request.getfixturevalue("web").url)


def test_every_part_comes_from_a_directory_and_a_web_server_alike(site: Site, bundle: Bundle, ref: str) -> None:
    source = site.open(bundle, ref)
    assert source.manifest() == (bundle.directory / "blobs/sha256" / bundle.digest[7:]).read_bytes()
    assert source.signatures() == [bundle.listed]
    assert b"".join(source.blob(bundle.frames)) == bundle.content
    assert b"".join(source.ranges(bundle.frames, RANGES)) == wanted(bundle)
    assert source.received == 0 if ref.startswith("file") else source.received > len(bundle.content)


def test_a_bundle_without_signatures_has_none(site: Site, tmp_path: Path) -> None:
    unsigned = make_bundle(tmp_path / "host/unsigned", signed=False)
    assert site.open(unsigned, "file:///unsigned").signatures() == []


def test_near_ranges_are_asked_for_together_on_one_connection(site: Site, bundle: Bundle, web: Faulty) -> None:
    source = site.open(bundle, web.url)
    assert b"".join(source.ranges(bundle.frames, RANGES)) == wanted(bundle)
    assert [asked.range for asked in web.asked] == ["bytes=0-1099", "bytes=150000-169999", "bytes=299000-"]
    assert web.connections == 1


@pytest.mark.parametrize("ranges", [[(10, 5), (0, 5)], [(0, 10), (9, 5)], [(0, 0)], [(90, 20)]])
def test_ranges_out_of_order_are_a_mistake_of_the_caller(ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError):
        list(coalesced(ranges, 100))


def test_a_changed_blob_is_found_at_its_end(site: Site, bundle: Bundle, ref: str) -> None:
    path = bundle.directory / "blobs/sha256" / bundle.frames.digest[7:]
    path.write_bytes(b"!" + bundle.content[1:])
    source = site.open(bundle, ref)
    assert name_of(lambda: list(source.blob(bundle.frames))) == "BundleDigestMismatch"


def test_a_manifest_that_is_another_is_refused(site: Site, bundle: Bundle, ref: str) -> None:
    (bundle.directory / "blobs/sha256" / bundle.digest[7:]).write_bytes(b"{}")
    assert name_of(site.open(bundle, ref).manifest) == "BundleDigestMismatch"


def test_a_manifest_without_end_is_read_to_the_limit_only(site: Site, bundle: Bundle, ref: str) -> None:
    (bundle.directory / "blobs/sha256" / bundle.digest[7:]).write_bytes(bytes(10 << 20))
    source = site.open(bundle, ref)
    assert name_of(source.manifest) == "BundleTooLarge"
    assert source.received < 2 << 20


def test_lists_of_signatures_that_make_no_sense_are_passed_over(site: Site, bundle: Bundle, ref: str) -> None:
    from hostplane.image.bundle.ocilayout import Layout, canonical, replaced_file

    layout = Layout(bundle.directory)
    junk = layout.add(b"[" * 1000, "application/vnd.oci.image.manifest.v1+json")
    gone = {**junk, "digest": "sha256:" + "1" * 64}
    index = {"schemaVersion": 2, "manifests": [junk, gone]}
    top = layout.add(canonical(index), "application/vnd.oci.image.index.v1+json")
    old = (bundle.directory / "index.json").read_bytes()
    replaced_file(
        bundle.directory / "index.json",
        old.replace(b'"manifests":[', b'"manifests":[' + canonical(top) + b","),
    )
    assert site.open(bundle, ref).signatures() == [bundle.listed]


# --- a directory


def test_a_layout_outside_of_the_host_is_refused(site: Site, bundle: Bundle) -> None:
    (site.root / "out").symlink_to("/etc")
    for ref in ("file:///../bundle", "file:///out"):
        assert name_of(site.open(bundle, ref).manifest) == "PayloadSourceRefused"


def test_a_pipe_in_place_of_a_blob_is_not_waited_for(site: Site, bundle: Bundle) -> None:
    path = bundle.directory / "blobs/sha256" / bundle.frames.digest[7:]
    path.unlink()
    os.mkfifo(path)
    source = site.open(bundle, "file:///bundle")
    assert name_of(lambda: list(source.blob(bundle.frames))) == "PayloadSourceRefused"


def test_a_missing_layout_is_named(site: Site, bundle: Bundle) -> None:
    assert name_of(site.open(bundle, "file:///nowhere").manifest) == "PayloadUnreachable"


# --- servers with faults


def is_blob(handler: Handler, bundle: Bundle) -> bool:
    return handler.path.endswith(bundle.frames.digest[7:])


def test_a_server_that_knows_no_ranges_is_read_once_from_end_to_end(site: Site, bundle: Bundle, web: Faulty) -> None:
    def whole(handler: Handler, number: int) -> bool:
        send(handler, 200, bundle.content)
        return True

    web.before = whole
    source = site.open(bundle, web.url)
    assert b"".join(source.ranges(bundle.frames, RANGES)) == wanted(bundle)
    assert len(web.asked) == 1
    assert b"".join(source.ranges(bundle.frames, RANGES)) == wanted(bundle)
    assert web.asked[1].range is None


@pytest.mark.parametrize(
    "answer",
    [
        (206, {"Content-Range": "bytes 5-1104/300000"}),
        (206, {"Content-Range": "bytes 0-1099/300001"}),
        (206, {"Content-Range": "bytes 0-1098/300000"}),
        (206, {"Content-Range": "nonsense"}),
        (206, {}),
        (206, {"Content-Type": "multipart/byteranges; boundary=x"}),
        (416, {}),
    ],
    ids=str,
)
def test_an_answer_to_another_range_is_not_believed(
    site: Site, bundle: Bundle, web: Faulty, answer: tuple[int, dict[str, str]]
) -> None:
    def wrong(handler: Handler, number: int) -> bool:
        if handler.headers["Range"]:
            send(handler, answer[0], bytes(1100), **answer[1])
        return bool(handler.headers["Range"])

    web.before = wrong
    assert b"".join(site.open(bundle, web.url).ranges(bundle.frames, RANGES)) == wanted(bundle)
    assert [asked.range for asked in web.asked] == ["bytes=0-1099", None]


def test_a_shorter_range_than_asked_for_is_taken_and_the_rest_asked_for(
    site: Site, bundle: Bundle, web: Faulty
) -> None:
    def short(handler: Handler, number: int) -> bool:
        if number:
            return False
        send(handler, 206, bundle.content[:500], **{"Content-Range": "bytes 0-499/300000"})
        return True

    web.before = short
    assert b"".join(site.open(bundle, web.url).ranges(bundle.frames, RANGES)) == wanted(bundle)
    assert web.asked[1].range == "bytes=500-1099"


def test_wrong_bytes_once_keep_the_ranges_and_twice_do_not(site: Site, bundle: Bundle, web: Faulty) -> None:
    source = site.open(bundle, web.url)
    for _ in range(3):
        pieces = source.ranges(bundle.frames, RANGES)
        next(pieces)
        source.distrust()
        source.distrust()
        pieces.close()
    assert [asked.range for asked in web.asked] == ["bytes=0-1099", "bytes=0-1099", None]


def cut(bundle: Bundle, after: int, times: int) -> Callable[[Handler, int], bool]:
    """The first answers break off."""

    def before(handler: Handler, number: int) -> bool:
        if number >= times:
            return False
        start = int((handler.headers["Range"] or "bytes=0-")[6:].partition("-")[0])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(bundle.content) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(bundle.content) - 1}/{len(bundle.content)}")
        handler.end_headers()
        handler.wfile.write(bundle.content[start : start + after])
        handler.close_connection = True
        return True

    return before


def test_a_flapping_server_is_resumed_at_the_very_byte(site: Site, bundle: Bundle, web: Faulty) -> None:
    web.before = cut(bundle, 70_001, 2)
    assert b"".join(site.open(bundle, web.url).blob(bundle.frames)) == bundle.content
    assert [asked.range for asked in web.asked] == [None, "bytes=70001-", "bytes=140002-"]


def test_a_server_that_always_breaks_off_is_given_up_with_how_far_it_came(
    site: Site, bundle: Bundle, web: Faulty
) -> None:
    web.before = lambda handler, number: cut(bundle, 1000 if number == 0 else 0, 99)(handler, number)
    with pytest.raises(HostError) as caught:
        list(site.open(bundle, web.url).blob(bundle.frames))
    assert caught.value.name == "PayloadTruncated"
    assert caught.value.reason.params["got"] == 1000


@pytest.mark.parametrize("drip", [b"", b"."], ids=["silent", "dripping"])
@pytest.mark.parametrize("is_headed", [True, False])
def test_a_stalled_server_costs_the_stall_time_only(
    site: Site, bundle: Bundle, web: Faulty, drip: bytes, is_headed: bool
) -> None:
    site.configure(stallSeconds=0.3, fetchAttempts=1)

    def stall(handler: Handler, number: int) -> bool:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        if is_headed:
            handler.wfile.write(b"Content-Length: %d\r\n\r\n" % len(bundle.content))
        while not web.over.wait(0.02):
            handler.wfile.write(drip)
        return True

    web.before = stall
    began = time.monotonic()
    assert name_of(lambda: list(site.open(bundle, web.url).blob(bundle.frames))).startswith("Payload")
    assert time.monotonic() - began < 5


def test_a_slow_reader_is_no_stall(site: Site, bundle: Bundle, web: Faulty) -> None:
    site.configure(stallSeconds=0.1, fetchAttempts=1)
    pieces = site.open(bundle, web.url).blob(bundle.frames)
    first = next(pieces)
    threading.Event().wait(0.3)  # what is tested is that this time passes
    assert first + b"".join(pieces) == bundle.content
    assert len(web.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_server_is_asked_again_when_it_says(site: Site, bundle: Bundle, web: Faulty, status: int) -> None:
    def busy(handler: Handler, number: int) -> bool:
        if number == 0:
            send(handler, status, b"later", Retry_After="1")
        return number == 0

    web.before = busy
    began = time.monotonic()
    assert site.open(bundle, web.url).manifest()
    assert 0.9 < time.monotonic() - began < 10


def test_a_server_that_stays_busy_is_a_reason_with_the_status(site: Site, bundle: Bundle, web: Faulty) -> None:
    site.configure(fetchAttempts=1)

    def busy(handler: Handler, number: int) -> bool:
        send(handler, 429, b"later", Retry_After="3600")
        return True

    web.before = busy
    with pytest.raises(HostError, match="429"):
        site.open(bundle, web.url).manifest()


def test_a_redirect_loop_ends(site: Site, bundle: Bundle, web: Faulty) -> None:
    def loop(handler: Handler, number: int) -> bool:
        send(handler, 307, Location=handler.path)
        return True

    web.before = loop
    with pytest.raises(HostError, match="too many redirects"):
        site.open(bundle, web.url).manifest()
    assert len(web.asked) == 6


def test_where_a_blob_moved_to_is_asked_at_once_until_it_is_refused_there(
    site: Site, bundle: Bundle, web: Faulty, serve: Callable[..., Faulty]
) -> None:
    store = serve(bundle.directory)
    refused: list[int] = []

    def moved(handler: Handler, number: int) -> bool:
        send(handler, 307, Location=f"{store.url}{handler.path[1:]}?signature=secret")
        return True

    def expired(handler: Handler, number: int) -> bool:
        if number == 2:
            refused.append(number)
            send(handler, 403, b"expired")
        return number == 2

    web.before, store.before = moved, expired
    source = site.open(bundle, web.url)
    assert b"".join(source.ranges(bundle.frames, RANGES)) == wanted(bundle)
    assert (len(web.asked), len(store.asked), refused) == (2, 4, [2])


def test_a_password_stays_with_its_server(
    site: Site, bundle: Bundle, web: Faulty, serve: Callable[..., Faulty]
) -> None:
    store = serve(bundle.directory)
    path = site.write("/etc/hostplane/secret.json", '{"username": "reader", "password": "pssst"}')
    site.configure(registries={f"localhost:{web.port}": {"credentials": path}})

    def asks(handler: Handler, number: int) -> bool:
        if handler.headers["Authorization"] is None:
            send(handler, 401, WWW_Authenticate='Basic realm="x"')
        else:
            send(handler, 302, Location=store.url + handler.path[1:])
        return True

    web.before = asks
    assert site.open(bundle, web.url).manifest()
    assert web.asked[1].authorization == "Basic cmVhZGVyOnBzc3N0"
    assert store.asked[0].authorization is None


def test_a_password_that_is_refused_is_a_reason_without_it(site: Site, bundle: Bundle, web: Faulty) -> None:
    path = site.write("/etc/hostplane/secret.json", '{"username": "reader", "password": "pssst"}')
    site.configure(registries={"localhost": {"credentials": path}})

    def no(handler: Handler, number: int) -> bool:
        send(handler, 401, WWW_Authenticate='Basic realm="x"')
        return True

    web.before = no
    with pytest.raises(HostError) as caught:
        site.open(bundle, web.url).manifest()
    assert caught.value.name == "FetchDenied"
    assert "pssst" not in repr(caught.value.reason) + str(caught.value)
    assert len(web.asked) == 2


@pytest.mark.parametrize(
    ("content", "mode"),
    [("{}", 0o600), ("not json", 0o600), ('{"username": "a", "password": "pssst"}', 0o644), ("[1]", 0o600)],
)
def test_credentials_that_cannot_be_used_are_named_and_not_shown(
    site: Site, bundle: Bundle, web: Faulty, content: str, mode: int
) -> None:
    path = site.write("/etc/hostplane/secret.json", content, mode)
    site.configure(registries={"localhost": {"credentials": path}})

    def asks(handler: Handler, number: int) -> bool:
        send(handler, 401, WWW_Authenticate='Basic realm="x"')
        return True

    web.before = asks
    with pytest.raises(HostError) as caught:
        site.open(bundle, web.url).manifest()
    assert caught.value.name == "CredentialsUnusable"
    assert "pssst" not in str(caught.value)


def test_a_cancellation_ends_a_wait_for_a_silent_server(site: Site, bundle: Bundle, web: Faulty) -> None:
    site.configure(stallSeconds=60)
    is_asked = threading.Event()

    def silent(handler: Handler, number: int) -> bool:
        is_asked.set()
        web.over.wait(20)
        return True

    web.before = silent
    ended: list[BaseException] = []

    def run() -> None:
        try:
            site.open(bundle, web.url).manifest()
        except Cancelled as fault:
            ended.append(fault)

    thread = threading.Thread(target=run)
    thread.start()
    assert is_asked.wait(10)
    site.cancelled.set()
    thread.join(5)
    assert len(ended) == 1


def test_the_rate_is_held(site: Site, bundle: Bundle, web: Faulty) -> None:
    site.configure(bytesPerSecond=200_000)
    began = time.monotonic()
    assert b"".join(site.open(bundle, web.url).blob(bundle.frames)) == bundle.content
    assert 0.4 < time.monotonic() - began < 10  # 300 KB, of which a second's worth may come at once


def test_a_blob_of_another_size_is_refused_before_its_first_byte(site: Site, bundle: Bundle, web: Faulty) -> None:
    source = site.open(bundle, web.url)
    larger = bundle.frames._replace(size=bundle.frames.size + 1)
    assert name_of(lambda: list(source.blob(larger))) == "PayloadSizeMismatch"


def test_a_packed_answer_is_refused(site: Site, bundle: Bundle, web: Faulty) -> None:
    def packed(handler: Handler, number: int) -> bool:
        send(handler, 200, b"x", Content_Encoding="gzip")
        return True

    web.before = packed
    assert name_of(site.open(bundle, web.url).manifest) == "PayloadRefused"
