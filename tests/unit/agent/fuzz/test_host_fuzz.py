"""What a damaged disk, an administrator's typo or a strange server may hand over: read, or one refusal of its kind."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import pytest
from hypothesis import strategies as st

from hostplane.agent import bootstate, state
from hostplane.agent.fetch import access, certsd, container, endpoint
from hostplane.agent.fetch.reader import Reader
from hostplane.agent.fetch.reference import parse_reference
from hostplane.agent.hostroot import read_config
from tests.unit.agent.fuzz.spoiling import campaign, refusal, spoiled_bytes, spoiled_json

BOOT = bootstate.render(bootstate.BootState(41, "B", True, 0, False, 3))
boot_blocks = st.one_of(spoiled_bytes(BOOT), spoiled_bytes(BOOT[:512]), st.binary(max_size=1100))


@campaign(boot_blocks, boot_blocks)
def test_a_boot_state_is_read_as_it_would_be_written_or_not_at_all(env1: bytes, env2: bytes) -> None:
    for block in (env1, env2):
        read = bootstate.parse(block)
        assert read is None or bootstate.parse(bootstate.render(read)) == read
    slot, block_to_write = bootstate.plan_boot(env1, env2)
    assert slot in ("A", "B", None)
    if block_to_write is not None:
        after = bootstate.parse(block_to_write)
        assert after is not None
        assert sum((after.a_left, after.b_left)) < sum((lambda s: (s.a_left, s.b_left))(bootstate.choose(env1, env2)))


STATE = json.loads(
    state.encode(
        state.State(
            slots={"A": state.Slot("Confirmed", "sha256:" + "a" * 64, "v1", 9)},
            image=state.Image(),
            partial=state.Partial(),
            operation=state.Operation(),
            trial=state.Trial(),
            last_error=state.Fault(),
            failed=(state.Failed(),),
            transitions=(state.Transition(),),
        )
    )
)


@campaign(spoiled_json(STATE))
def test_a_state_file_is_read_or_set_aside(raw: bytes) -> None:
    assert refusal(lambda: state.encode(state.decode(raw))) in ("", "StateUnreadable", "StateTooNew")


CONFIG = {
    "allowedUids": [1],
    "hostUid": "u",
    "bootTries": 3,
    "stallSeconds": 1.5,
    "installed": {"digest": "", "version": "v", "size": 1},
    "registries": {"h:5000": {"mirrors": ["http://m/x"], "ca": "/a", "credentials": "/b", "plainHttp": True}},
    "proxy": {"http": "http://p:3128", "no": [".test"]},
}


@campaign(spoiled_json(CONFIG))
def test_a_configuration_is_read_or_named_wrong(raw: bytes) -> None:
    assert refusal(lambda: read_config(raw.decode("utf-8", "replace"))) in ("", "AgentConfigInvalid")


words = st.text(alphabet=st.sampled_from("aZ0.-_/:@%?#[]~\\ \n\x00é"), max_size=40)


@campaign(st.one_of(words, words.map("oci://".__add__), words.map("http://".__add__), words.map("file://".__add__)))
def test_an_address_names_one_place_or_none(ref: str) -> None:
    name = refusal(lambda: parse_reference(ref))
    assert name in ("", "PayloadSourceRefused")
    found = None if name else parse_reference(ref)
    if found is not None and found.kind == "registry":
        assert not set(found.place + found.repository + found.tag + found.digest) & set(" \n\x00?#%@\\é")
        assert ".." not in found.repository


HOSTS = b'server = "https://s"\n[host."https://m/v2"]\ncapabilities = ["pull"]\nca = "a"\nclient = [["c", "k"]]\n'


@campaign(spoiled_bytes(HOSTS))
def test_a_hosts_file_is_read_or_wrong(raw: bytes) -> None:
    try:
        certsd.parse_hosts(raw.decode("utf-8", "replace"), "h", "/d")
    except ValueError:
        return


@campaign(st.text(max_size=80), spoiled_bytes(b'Bearer realm="https://a/t",service="s",scope="r:p", Basic realm=x'))
def test_a_challenge_is_taken_apart_without_an_end_in_sight(text: str, raw: bytes) -> None:
    for header in (text, raw.decode("latin-1")):
        list(endpoint.challenges(header))
        endpoint.retry_after(header)


def _layer() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in (("é" * 120, b"x"), ("os.tar", b"y" * 700)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


LAYER = _layer()


@campaign(spoiled_bytes(LAYER), st.integers(1, 600))
def test_a_spoiled_layer_gives_the_file_or_a_reason(raw: bytes, step: int) -> None:
    pieces = (raw[at : at + step] for at in range(0, len(raw), step))
    member: Any = container.find(pieces, "os.tar", "h/r")
    assert refusal(lambda: b"".join(member.pieces())) in ("", "ContainerImageUnfit")


@campaign(st.lists(st.binary(max_size=9), max_size=9), st.lists(st.integers(0, 12), max_size=12))
def test_pieces_are_read_like_a_file(pieces: list[bytes], sizes: list[int]) -> None:
    ours, theirs = Reader(iter([piece for piece in pieces if piece])), io.BytesIO(b"".join(pieces))
    for size in sizes:
        assert ours.read(size) == theirs.read(size)
    assert ours.read() == theirs.read()


@pytest.mark.parametrize("given", [{"h": {"mirrors": ["http://u:pssst@m"]}}, {"h": {"credentials": "relative"}}])
def test_what_is_wrong_with_an_access_is_said_without_its_secret(given: Any) -> None:
    with pytest.raises(ValueError) as caught:
        access.parse_registries(given)
    assert "pssst" not in str(caught.value)
