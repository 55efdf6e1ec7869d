"""Where a message ends, however it arrives, and what no message may be."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostplane.errors import HostError, reason
from hostplane.rpc import endpoint, framing, messages

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@given(st.dictionaries(st.text(), values, max_size=4), st.integers(1, 30), st.booleans())
def test_an_object_ends_where_it_closes_however_it_is_cut(value: Any, size: int, plain: bool) -> None:
    raw = json.dumps(value, ensure_ascii=not plain).encode("utf-8", "surrogatepass")
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def say() -> None:
            for start in range(0, len(raw), size):
                theirs.sendall(raw[start : start + size])
            theirs.sendall(b'{"the next": 1}')

        thread = threading.Thread(target=say)
        thread.start()
        reader = framing.ObjectReader(ours, 1 << 20, 5)
        assert reader.read() == raw
        thread.join()
        assert json.loads(reader.read() or b"") == {"the next": 1}


@given(st.lists(st.dictionaries(st.text(), values, max_size=2), max_size=4))
def test_lines_come_one_by_one(wanted: list[Any]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"".join(messages.dump(value) + b"\n" for value in wanted))
        theirs.close()
        reader = framing.LineReader(ours, 1 << 20, 5)
        assert [messages.load(reader.read() or b"") for _ in wanted] == wanted
        assert reader.read() is None


@pytest.mark.parametrize("kind", [framing.LineReader, framing.ObjectReader])
def test_a_message_over_the_limit_is_refused_without_being_kept(pair: Pair, kind: Any) -> None:
    ours, theirs = pair
    thread = threading.Thread(target=framing.send, args=(theirs, b'{"a":"' + b"x" * (1 << 20), 5))
    thread.start()
    reader = kind(ours, 1000, 5)
    with pytest.raises(HostError, match="HP-5504"):
        reader.read()
    framing.discard(ours, 2)
    thread.join()


@pytest.mark.parametrize("kind", [framing.LineReader, framing.ObjectReader])
def test_a_message_that_does_not_end_in_time_is_refused(pair: Pair, kind: Any) -> None:
    ours, theirs = pair
    theirs.sendall(b'{"a":')
    with pytest.raises(HostError, match="HP-5510"):
        kind(ours, 1000, 0.1).read()


def test_a_silent_peer_is_not_slow(pair: Pair) -> None:
    assert framing.LineReader(pair[0], 1000, 0.1).read(0.05) is None


def test_a_peer_that_takes_nothing_ends_the_sending(pair: Pair) -> None:
    assert framing.send(pair[0], b"x" * (16 << 20), 0.1) is False


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"NaN", b"[Infinity]", b"\xff", b'"\xed\xa0\x80"', b"1" * 5000, b"[" * 200000),
        *(b'{"method": 1}', b'{"method": "x", "id": true}', b'{"method": "x", "id": []}'),
    ],
)
def test_what_no_honest_peer_sends_is_one_error(raw: bytes) -> None:
    with pytest.raises(HostError, match="HP-5505"):
        messages.parse_request(raw)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(raw: bytes) -> None:
    try:
        messages.parse_request(raw)
    except HostError as fault:
        if fault.name != "RequestMalformed":
            raise


@given(st.text(), st.integers(0, 1000))
def test_an_answer_is_one_ascii_line(text: str, ident: int) -> None:
    line = messages.result_answer(ident, {"text": text})
    assert line.count(b"\n") == 1
    assert messages.result_of(messages.load_answer(line), ident) == {"text": text}


def test_a_refusal_keeps_the_agents_own_words() -> None:
    line = messages.error_answer(3, HostError("StaleGrant", seq=1, seen=2))
    with pytest.raises(messages.AgentError) as caught:
        messages.result_of(messages.load_answer(line), 3)
    assert str(caught.value) == str(reason("StaleGrant", seq=1, seen=2))
    assert (caught.value.name, caught.value.code) == ("StaleGrant", "HP-6021")
    assert caught.value.remedy


def test_a_reason_of_a_newer_agent_is_shown_and_not_lost() -> None:
    line = json.loads(messages.error_answer(3, HostError("SlotHeld")))
    line["error"]["data"] = {"name": "MoonPhase", "code": "HP-6999", "text": "The moon is wrong.", "remedy": "Wait."}
    with pytest.raises(messages.AgentError, match=r"HP-6999: The moon is wrong\.") as caught:
        messages.result_of(line, 3)
    assert caught.value.name == "MoonPhase"


@pytest.mark.parametrize("answer", [[], {}, {"id": 4, "result": {}}, {"id": 3}, {"error": 5}])
def test_what_is_no_answer_to_the_call_is_named_as_such(answer: Any) -> None:
    with pytest.raises(HostError, match="HP-5503"):
        messages.result_of(answer, 3)


def test_a_path_longer_than_a_socket_address_works(tmp_path: Any) -> None:
    path = tmp_path / ("d" * 60) / ("e" * 60) / "s"
    with endpoint.listen(str(path), 0o660) as listener:
        assert path.stat().st_mode & 0o777 == 0o660
        with endpoint.connect(str(path), 1) as sock:
            accepted, _ = listener.accept()
            with accepted:
                assert endpoint.peer(accepted)[0] > 0
            assert sock.recv(1) == b""
