"""What a stranger may say on the agent's sockets: a checked call, one refusal, or the connection's end."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from typing import Any

from hypothesis import strategies as st

from hostplane.agent.kubeos import KubeosSocket
from hostplane.agent.native import Session
from hostplane.agent.state import Image
from hostplane.errors import HostError
from hostplane.rpc import framing, messages
from tests.unit.agent.fuzz.spoiling import campaign, spoiled_json

DIGEST = "sha256:" + "a" * 64
IMAGE = {"format": "bundle", "ref": "oci://h/r:1", "digest": DIGEST, "size": 9, "version": "2", "attempt": 1}
CONFIGS = [{"model": "kernel.sysctl", "configpath": "", "contents": [{"key": "a", "value": 1, "operation": ""}]}]
NATIVE = [
    (messages.STATUS, {}),
    (messages.WAIT, {"revision": 1, "timeoutSeconds": 0}),
    (messages.STAGE, {"image": IMAGE, "held": False, "retry": True}),
    (messages.SWITCH, {"seq": 1, "operation": "upgrade", "digest": DIGEST, "trialSeconds": 60}),
    (messages.CONFIRM, {"seq": 1}),
    (messages.RETURN, {"seq": 1, "reason": "r"}),
    (messages.RELEASE, {"seq": 1}),
    (messages.CONFIGURE, {"seq": 1, "settings": {"version": "1", "configs": CONFIGS}}),
    (messages.PREVIEW, {"settings": {"version": "1", "configs": CONFIGS}}),
]
CERTS = {"ca_cert": "a", "client_cert": "", "client_key": ""}
PREPARE = {
    "version": "v",
    "check_sum": "a" * 64,
    "image_type": "disk",
    "container_image": "h/r:1",
    "image_url": "https://h/x",
    "flag_safe": True,
    "mtls": False,
    "certs": CERTS,
}
OWN_CONFIGS = [{"model": "m", "config_path": "", "contents": {"a": {"value": "1", "operation": ""}}}]
KUBEOS = [
    ("prepare_upgrade", [PREPARE]),
    ("prepare_upgrade", [{**PREPARE, "image_type": "containerd"}]),
    ("upgrade", []),
    ("rollback", []),
    ("configure", [{"configs": OWN_CONFIGS}]),
]


class Witness:
    """In place of the host: everything that reaches it must be of its type and in its bounds."""

    class config:
        host_uid = ""

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stage(self, image: Image, held: bool = False, retry: bool = False) -> dict[str, Any]:
        assert re.match(r"sha256:[0-9a-f]{64}\Z", image.digest)
        assert all(isinstance(part, str) and len(part) <= 2100 for part in (image.ref, image.version, image.format))
        assert isinstance(held, bool)
        assert isinstance(retry, bool)
        assert image.ref
        return {}

    def switch(self, seq: int, operation: str, digest: str, trial_seconds: int) -> dict[str, Any]:
        assert isinstance(seq, int)
        assert 1 <= trial_seconds <= 7 * 86400
        assert operation in ("upgrade", "rollback")
        return {}

    def wait(self, revision: int, seconds: float) -> dict[str, Any]:
        assert 0 <= seconds <= 60
        return {}

    def __getattr__(self, name: str) -> Any:
        return lambda *words, **more: {}


def calls(known: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    return [{"jsonrpc": "2.0", "id": 1, "method": method, "params": params} for method, params in known]


def answered(raw: bytes) -> None:
    """An answer is one line of JSON-RPC."""
    assert raw.endswith(b"\n")
    answer = json.loads(raw)
    assert ("result" in answer) != ("error" in answer)


@campaign(spoiled_json(*calls(NATIVE)))
def test_a_native_call_is_checked_before_the_host_hears_of_it(raw: bytes) -> None:
    host: Any = Witness()
    session = Session(host, 1000)
    session.call("hello", {"protocols": [1], "client": "x", "hostUid": "u"})
    ident: messages.Id = None
    try:
        call = messages.parse_request(raw)
        ident = call.id
        answer = messages.result_answer(call.id, session.call(call.method, call.params))
    except HostError as fault:
        answer = messages.error_answer(ident, fault)
    answered(answer)


@campaign(spoiled_json(*calls(KUBEOS)))
def test_a_call_of_kubeos_is_answered_by_one_object(raw: bytes) -> None:
    host: Any = Witness()
    ours, theirs = socket.socketpair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        theirs.sendall(raw)
        theirs.shutdown(socket.SHUT_WR)
        KubeosSocket(host).serve(ours)
        ours.shutdown(socket.SHUT_WR)
        said = b"".join(iter(lambda: theirs.recv(65536), b""))
    if said:
        answered(said)


@campaign(st.lists(spoiled_json(*calls(NATIVE)), min_size=1, max_size=4), st.lists(st.integers(1, 40), min_size=1))
def test_lines_come_out_as_they_went_in_however_they_were_cut(raws: list[bytes], cuts: list[int]) -> None:
    lines = [raw.replace(b"\n", b" ") + b"\n" for raw in raws]
    assert list(framed(framing.LineReader, b"".join(lines), cuts)) == lines


@campaign(st.lists(spoiled_json(*calls(KUBEOS)), min_size=1, max_size=3), st.lists(st.integers(1, 40), min_size=1))
def test_objects_end_where_they_end_however_they_were_cut(raws: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(raws)
    if not all(_is_object(raw) for raw in raws):
        list(framed(framing.ObjectReader, stream, cuts))
        return
    assert [one.strip() for one in framed(framing.ObjectReader, stream, cuts)] == [raw.strip() for raw in raws]


def _is_object(raw: bytes) -> bool:
    with contextlib.suppress(ValueError, RecursionError):
        return isinstance(json.loads(raw), dict)
    return False


def framed(kind: Any, stream: bytes, cuts: list[int]) -> list[bytes]:
    """What a reader makes of `stream`, which arrives in pieces of these sizes; it ends at a refusal."""

    class Scripted:
        def __init__(self) -> None:
            self.left, self.turn = stream, 0

        def settimeout(self, seconds: float | None) -> None:
            pass

        def recv(self, most: int) -> bytes:
            size = min(most, cuts[self.turn % len(cuts)])
            self.turn += 1
            piece, self.left = self.left[:size], self.left[size:]
            return piece

    reader = kind(Scripted(), messages.REQUEST_LIMIT, 10.0)
    found = []
    with contextlib.suppress(HostError):
        while (message := reader.read()) is not None:
            found.append(message)
    return found
