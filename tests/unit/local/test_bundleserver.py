"""The bundle server sends what is asked for, whole or in ranges, and nothing that is no part of a layout."""

from __future__ import annotations

import email
import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hostplane.local.bundleserver import BundleServer, ranges_of

CONTENT = bytes(range(256)) * 8
BLOB = f"blobs/sha256/{'ab' * 32}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BundleServer]:
    blob = tmp_path / "bundle" / BLOB
    blob.parent.mkdir(parents=True)
    blob.write_bytes(CONTENT)
    (tmp_path / "bundle" / "index.json").write_text("{}")
    (tmp_path / "bundle" / "secret").write_text("no part of it")
    with BundleServer({"v1": tmp_path / "bundle"}) as running:
        yield running


def get(server: BundleServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    address = urlsplit(server.address("v1"))
    connection = http.client.HTTPConnection(address.netloc, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_it_sends_the_whole_and_counts_it(server: BundleServer) -> None:
    status, headers, body = get(server, f"/v1/{BLOB}")
    assert (status, headers["Accept-Ranges"], body) == (200, "bytes", CONTENT)
    assert server.sent == len(CONTENT)


@pytest.mark.parametrize(
    ("asked", "part", "said"),
    [
        ("bytes=0-9", CONTENT[:10], "bytes 0-9/2048"),
        ("bytes=2000-9999", CONTENT[2000:], "bytes 2000-2047/2048"),
        ("bytes=2040-", CONTENT[2040:], "bytes 2040-2047/2048"),
        ("bytes=-8", CONTENT[-8:], "bytes 2040-2047/2048"),
    ],
)
def test_it_sends_one_range(server: BundleServer, asked: str, part: bytes, said: str) -> None:
    status, headers, body = get(server, f"/v1/{BLOB}", Range=asked)
    assert (status, headers["Content-Range"], body) == (206, said, part)


def test_it_sends_several_ranges_as_parts(server: BundleServer) -> None:
    status, headers, body = get(server, f"/v1/{BLOB}", Range="bytes=0-9, 100-149,2040-")
    assert status == 206
    assert int(headers["Content-Length"]) == len(body)
    whole = email.message_from_bytes(f"Content-Type: {headers['Content-Type']}\r\n".encode() + body)
    parts = whole.get_payload()
    assert isinstance(parts, list)
    assert [part["Content-Range"] for part in parts] == [
        "bytes 0-9/2048",
        "bytes 100-149/2048",
        "bytes 2040-2047/2048",
    ]
    for piece in (CONTENT[:10], CONTENT[100:150], CONTENT[2040:]):
        assert b"\r\n\r\n" + piece + b"\r\n--" in body


def test_what_begins_behind_the_end_cannot_be_had(server: BundleServer) -> None:
    status, headers, body = get(server, f"/v1/{BLOB}", Range="bytes=2048-")
    assert (status, headers["Content-Range"], body) == (416, "bytes */2048", b"")


@pytest.mark.parametrize("header", ["items=0-1", "bytes=-", "bytes=a-b", "bytes=9-3", "bytes=" + "0-0," * 300 + "1-1"])
def test_a_range_that_need_not_be_obeyed_brings_the_whole(header: str) -> None:
    assert ranges_of(header, 2048) is None


def test_head_says_the_size_and_sends_nothing(server: BundleServer) -> None:
    status, headers, body = get(server, "/v1/index.json", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "2", b"")


@pytest.mark.parametrize("path", ["/v1/secret", "/v1/../v1/index.json", "/v2/index.json", "/", "/v1/blobs/sha256/ab"])
def test_nothing_else_is_served(server: BundleServer, path: str) -> None:
    assert get(server, path)[0] == 404
