"""The state file: old or new after every crash, kept fields of a newer agent, a sentence for an unknown one."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent.state import (
    Failed,
    Fault,
    Image,
    Operation,
    Partial,
    Slot,
    State,
    StateFile,
    Transition,
    Trial,
    decode,
    encode,
)
from hostplane.errors import HostError

FULL = State(
    phase="Trial",
    seq=9,
    released=3,
    slots={"A": Slot("Confirmed", "sha256:a", "v1", 5), "B": Slot("Trial", "sha256:b", "v2", 6)},
    image=Image(digest="sha256:b"),
    partial=Partial("B", "sha256:b", 7),
    operation=Operation(9, "upgrade", "sha256:b", "B"),
    trial=Trial("boot", 12.5),
    returning=Fault("X"),
    last_error=Fault("Y"),
    failed=(Failed("sha256:c", "CheckFailed", 2),),
    transitions=(Transition("Idle", "2026-01-01T00:00:00Z", "words"),),
    applying={"/etc/x": "0" * 64},
)


def test_what_is_written_is_read() -> None:
    assert decode(encode(FULL)) == FULL
    assert decode(encode(State())) == State()


def test_fields_of_a_newer_minor_version_are_kept() -> None:
    document = json.loads(encode(FULL))
    document.update(schema="1.7", verity={"root": "hash"})
    state = decode(json.dumps(document).encode())
    assert json.loads(encode(state)) == document


def test_an_unknown_major_version_is_refused_with_a_sentence() -> None:
    with pytest.raises(HostError, match=r"HP-6031.*2\.0"):
        decode(encode(FULL._replace(schema="2.0")))


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"[]", b"{}", b'{"schema": 1}', b"\xff", b"[" * 100000, b'{"schema": "1.0", "seq": "x"}'),
        *(b'{"schema": "1.0", "phase": "?"}', b'{"schema": "1.0", "slots": 5}', b'{"schema": "1.0", "operation": []}'),
        *(b'{"schema": "1.0", "failed": 5}', b'{"schema": "1.0", "slots": {"A": {"size": "x"}}}'),
    ],
)
def test_what_no_agent_wrote_is_named_as_such(raw: bytes) -> None:
    with pytest.raises(HostError, match="HP-6030"):
        decode(raw)


@pytest.mark.parametrize("name", ["open", "fsync", "replace"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, when: str
) -> None:
    file = StateFile(str(tmp_path / "state.json"))
    file.save(State(seq=1))
    for crash_at in range(3):
        calls = 0
        real = getattr(os, name)

        def step(*arguments: Any, real: Any = real, crash_at: int = crash_at, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > crash_at and when == "before":
                raise KeyboardInterrupt
            result = real(*arguments, **options)
            if calls > crash_at and when == "after":
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(os, name, step)
        with contextlib.suppress(KeyboardInterrupt):
            file.save(State(seq=2))
        monkeypatch.setattr(os, name, real)
        found = file.load()
        assert found in (State(seq=1), State(seq=2))


def test_a_full_disk_keeps_the_old_state_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StateFile(str(tmp_path / "state.json"))
    file.save(State(seq=1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HostError, match=r"HP-6032.*No space"):
        file.save(State(seq=2))
    assert file.load() == State(seq=1)
