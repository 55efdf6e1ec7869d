"""Proxies, references, challenges and ranges: the decisions without a network."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostplane.agent.fetch import access
from hostplane.agent.fetch.certsd import parse_hosts
from hostplane.agent.fetch.endpoint import challenges, retry_after
from hostplane.agent.fetch.pace import DroppedError
from hostplane.agent.fetch.reference import Reference, parse_reference
from hostplane.agent.fetch.source import coalesced
from hostplane.agent.fetch.transport import Answer
from hostplane.errors import HostError

HEX = "a" * 64


@pytest.mark.parametrize(
    ("no", "host", "port", "is_direct"),
    [
        ("", "h.example", 443, False),
        ("*", "h.example", 443, True),
        ("example", "h.example", 443, True),
        (".example", "h.example", 443, True),
        (".h.example", "h.example", 443, False),
        ("*.example", "h.example", 443, True),
        ("ample", "h.example", 443, False),
        ("h.example:5000", "h.example", 443, False),
        ("h.example:5000", "h.example", 5000, True),
        ("other, H.Example", "h.example", 443, True),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("10.0.0.0/8", "fd00::1", 443, False),
        ("fd00::/8", "fd00::1", 443, True),
        ("fd00::1", "fd00::1", 443, True),
        ("[fd00::1]:5000", "fd00::1", 5000, True),
        ("10.0.0.0/99,/", "10.1.2.3", 443, False),
        ("", "localhost", 443, True),
        ("", "127.0.0.9", 443, True),
        ("", "::1", 443, True),
    ],
)
def test_who_is_reached_without_a_proxy(no: str, host: str, port: int, is_direct: bool) -> None:
    proxies = access.Proxies("http://p:1", "http://s:1", tuple(no.split(",")))
    assert proxies.choose("https", host, port) == ("" if is_direct else "http://s:1")


def test_the_environment_names_proxies_in_either_spelling() -> None:
    found = access.environment_proxies({"HTTP_PROXY": "http://p:1", "https_proxy": "http://s:1", "NO_PROXY": "a,b"})
    assert found == access.Proxies("http://p:1", "http://s:1", ("a", "b"))


@pytest.mark.parametrize(
    "given_",
    [[], {"ftp": ""}, {"http": "https://u:pssst@p"}, {"http": "p:3128"}, {"http": 1}, {"no": [1]}, {"no": 7}],
)
def test_a_proxy_that_is_none_is_said_without_its_password(given_: Any) -> None:
    with pytest.raises(ValueError) as caught:
        access.parse_proxy(given_)
    assert "pssst" not in str(caught.value)


@pytest.mark.parametrize(
    "given_",
    [
        [],
        {"http://h": {}},
        {"h": []},
        {"h": {"mirror": []}},
        {"h": {"mirrors": ["m"]}},
        {"h": {"mirrors": "http://m"}},
        {"h": {"ca": "ca.pem"}},
        {"h": {"clientCert": "/c"}},
        {"h": {"plainHttp": 1}},
    ],
)
def test_an_access_that_makes_no_sense_is_named(given_: Any) -> None:
    with pytest.raises(ValueError, match="registries"):
        access.parse_registries(given_)


@pytest.mark.parametrize(
    ("mirror", "base"),
    [
        ("https://m", "https://m/v2"),
        ("https://m/", "https://m/v2"),
        ("http://m:5000/cache", "http://m:5000/v2/cache"),
        ("https://m/v2/cache", "https://m/v2/cache"),
    ],
)
def test_a_mirrors_path_is_a_prefix_of_its_repositories(mirror: str, base: str) -> None:
    assert access.parse_registries({"H": {"mirrors": [mirror]}})["h"].mirrors == (base,)


@pytest.mark.parametrize(
    ("ref", "found"),
    [
        ("oci://r.example:5000/a/b:v1", Reference("registry", "r.example:5000", "a/b", "v1")),
        ("R.example/a", Reference("registry", "r.example", "a")),
        (f"localhost/a@sha256:{HEX}", Reference("registry", "localhost", "a", "", f"sha256:{HEX}")),
        (f"oci://r.example/a:v1@sha256:{HEX}", Reference("registry", "r.example", "a", "v1", f"sha256:{HEX}")),
        ("[::1]:5000/a:1", Reference("registry", "[::1]:5000", "a", "1")),
        ("https://h/x", Reference("web", "https://h/x/")),
        ("file:///x/y/", Reference("file", "/x/y")),
    ],
)
def test_an_address_is_taken_apart(ref: str, found: Reference) -> None:
    assert parse_reference(ref) == found


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "oci://",
        "oci://r.example/",
        "a:1",
        "team/a",
        "oci://r.example/A",
        "oci://r.example/a/../b",
        "oci://r.example/a:",
        "oci://r.example/a@sha256:1",
        "oci://u:pssst@r.example/a",
        "https://u:pssst@r.example/a",
        "https://r.example/a?token=pssst",
        "https:///a",
        "file://h/x",
        "ftp://h/x",
        "oci://r.example/" + "a" * 300,
    ],
)
def test_an_address_that_names_nothing_is_refused_without_its_secret(ref: str) -> None:
    with pytest.raises(HostError) as caught:
        parse_reference(ref)
    assert caught.value.name == "PayloadSourceRefused"
    assert "pssst" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/t?x=1,2",service=s , scope="r:p:pull,push"',
            [("bearer", {"realm": "https://a/t?x=1,2", "service": "s", "scope": "r:p:pull,push"})],
        ),
        ('Negotiate, Basic realm="x"', [("negotiate", {}), ("basic", {"realm": "x"})]),
        ("", []),
    ],
)
def test_a_challenge_is_taken_apart(header: str, found: list[Any]) -> None:
    assert list(challenges(header)) == found


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("", 0), ("soon", 0), ("Mon, 01 Jan 2001 00:00:00 GMT", 0), ("9" * 50, 1e9), ("\xb9", 0)],
)
def test_retry_after_is_a_bounded_number(header: str, seconds: float) -> None:
    assert abs(retry_after(header) - seconds) <= 1


@pytest.mark.parametrize("length", ["", "-1", "x", "\xb2", "9" * 5000])
def test_a_length_that_is_none_ends_the_answer(length: str) -> None:
    response = SimpleNamespace(status=200, chunked=False, getheader=lambda name: length)
    with pytest.raises(DroppedError):
        Answer(None, None, None, response, "")  # type: ignore[arg-type]  # before it asks any of them


def test_a_hosts_file_is_read_as_the_engine_reads_it() -> None:
    text = """
server = "https://real.example"
ca = "/etc/own.crt"
[host."https://m.example/deep"]
ca = ["m.crt"]
client = [["m.cert", "m.key"]]
[host."http://push.example"]
capabilities = ["push"]
[host."https://over.example/v2/x"]
override_path = true
client = "both.pem"
"""
    assert parse_hosts(text, "r.example", "/d") == {
        "r.example": access.Access(
            mirrors=("https://m.example/deep/v2", "https://over.example/v2/x"),
            server="https://real.example/v2",
            ca="/etc/own.crt",
        ),
        "real.example": access.Access(ca="/etc/own.crt"),
        "m.example": access.Access(ca="/d/m.crt", client_cert="/d/m.cert", client_key="/d/m.key"),
        "over.example": access.Access(client_cert="/d/both.pem", client_key="/d/both.pem"),
    }


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), max_size=20), st.integers(0, 60))
def test_spans_cover_the_ranges_and_are_further_apart_than_the_gap(steps: list[tuple[int, int]], gap: int) -> None:
    ranges, at = [], 0
    for space, length in steps:
        ranges.append((at + space, length))
        at += space + length
    spans = list(coalesced(ranges, at, gap))
    assert all(any(span.start <= start and start + size <= span.end for span in spans) for start, size in ranges)
    assert all(after.start - before.end > gap for before, after in itertools.pairwise(spans))
    assert sum(span.end - span.start for span in spans) <= sum(size for _, size in ranges) + gap * len(ranges)
