"""However the network cuts them, bodies and watch lines come out whole."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostplane.errors import UnreachableError
from hostplane.kube.transport import Chunked, Counted, UntilEnd
from hostplane.kube.wire import Lines


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=50), max_size=8), cuts=st.lists(st.integers(0, 10**6), max_size=20)
)
def test_chunks_survive_any_cut(chunks: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: 1\r\n\r\n"
    framing = Chunked()

    body = b"".join(framing.feed(piece) for piece in cut(wire, cuts))

    assert body == b"".join(chunks)
    assert framing.done
    assert not framing.overrun


def test_a_chunked_body_is_not_done_before_its_last_line() -> None:
    framing = Chunked()
    assert framing.feed(b"3\r\nabc\r\n0\r\n") == b"abc"
    assert not framing.done
    framing.feed(b"\r\n")
    assert framing.done


def test_bytes_after_the_body_forbid_another_use_of_the_connection() -> None:
    chunked, counted = Chunked(), Counted(3)
    assert chunked.feed(b"0\r\n\r\nHTTP/1.1 200") == b""
    assert chunked.overrun
    assert counted.feed(b"abcdef") == b"abc"
    assert counted.done
    assert counted.overrun


@pytest.mark.parametrize("wire", [b"-1\r\n", b"\r\n", b"zz\r\n", b"1_0\r\n", b"2\r\nabc\r\n", b"a" * 70000])
def test_what_is_not_chunked_is_refused(wire: bytes) -> None:
    with pytest.raises(ValueError):
        Chunked().feed(wire)


def test_a_body_without_length_ends_with_the_connection() -> None:
    framing = UntilEnd()
    assert framing.feed(b"abc") == b"abc"
    assert not framing.done
    framing.feed(b"")
    assert framing.done


@given(
    lines=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b" ")), max_size=8),
    cuts=st.lists(st.integers(0, 10**6)),
)
def test_lines_survive_any_cut(lines: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(line + b"\n" for line in lines)
    framing = Lines()

    found = [line for piece in cut(wire, cuts) for line in framing.feed(piece)]

    assert found == [line for line in lines if line.strip()]


def test_an_event_of_endless_length_is_refused() -> None:
    framing = Lines(limit=100)
    for _ in range(10):
        framing.feed(b"x" * 10)
    with pytest.raises(UnreachableError, match="over 100 bytes"):
        framing.feed(b"x")


def test_large_events_pass() -> None:
    framing = Lines()
    event = b"x" * 1_500_000
    assert [framing.feed(piece) for piece in (event[:700_000], event[700_000:], b"\n")] == [[], [], [event]]
