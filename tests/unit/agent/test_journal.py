"""What the agent does stands in the journal, each kind under an id that is never changed and always explained."""

from __future__ import annotations

import logging
import re
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent import journal
from hostplane.agent.host import Host
from hostplane.agent.state import Fault, Image, Operation, State, Transition

PAGE = Path(__file__).parents[3] / "docs/reference/journal.md"
Entry = dict[str, str]


@pytest.fixture
def entries(tmp_path: Path) -> Iterator[Callable[[], Entry]]:
    """A journal; gives the next entry sent to it by the agent's log."""
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(5)
        handler = journal.JournalHandler(str(path))
        log = logging.getLogger("hostplane.agent")
        log.addHandler(handler)
        log.setLevel(logging.INFO)

        def entry() -> Entry:
            raw, found = sock.recv(65536), {}
            while raw:
                name, _, rest = raw.partition(b"\n")
                if b"=" in name:
                    key, _, value = name.partition(b"=")
                    found[key.decode()], raw = value.decode(), rest
                else:
                    size = struct.unpack("<Q", rest[:8])[0]
                    found[name.decode()], raw = rest[8 : 8 + size].decode(), rest[8 + size + 1 :]
            return found

        yield entry
        log.removeHandler(handler)
        handler.close()


def test_an_event_has_its_id_and_fields_to_search_by(entries: Callable[[], Entry]) -> None:
    journal.record("RollbackAsked", "asked\nfor", logging.WARNING, phase="Idle")
    assert entries() == {
        "MESSAGE": "asked\nfor",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "hostplane-agent",
        "MESSAGE_ID": journal.EVENTS["RollbackAsked"],
        "HOSTPLANE_EVENT": "RollbackAsked",
        "HOSTPLANE_PHASE": "Idle",
    }


def test_a_fault_of_ours_is_told_with_its_trace(entries: Callable[[], Entry]) -> None:
    try:
        raise ValueError("oops")
    except ValueError:
        logging.getLogger("hostplane.agent").exception("failed")
    entry = entries()
    assert entry["MESSAGE"].startswith("failed\nTraceback")
    assert "MESSAGE_ID" not in entry


def test_without_a_journal_the_words_go_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = journal.JournalHandler(str(tmp_path / "nothing"))
    handler._fallback.setStream(__import__("sys").stderr)
    handler.emit(logging.makeLogRecord({"msg": "words", "levelno": 20}))
    handler.close()
    assert "words" in capsys.readouterr().err


def test_staging_and_a_switch_are_told(host: Any, entries: Callable[[], Entry]) -> None:
    agent = Host(str(host.root))
    agent._core.wake()
    agent.stage(host.as_image())
    told = entries()
    assert (told["HOSTPLANE_EVENT"], told["HOSTPLANE_VERSION"]) == ("StagingBegan", "v2")
    staged = agent._core.state.with_slot("B", agent._core.state.slot("A")._replace(digest=host.image["digest"]))
    with agent._core.changed:
        agent._core.set(staged._replace(phase="Staged"))
    assert entries()["HOSTPLANE_EVENT"] == "Staged"
    agent.switch(7, "upgrade", host.image["digest"], 60)
    told = entries()
    assert (told["HOSTPLANE_EVENT"], told["HOSTPLANE_SEQ"], told["HOSTPLANE_SLOT"]) == ("SwitchAccepted", "7", "B")
    agent._core.write_switch()
    told = entries()
    assert told["HOSTPLANE_EVENT"] == "BootStateWritten"
    assert told["MESSAGE"] == "boot state: B first; A proven, B 3"


OPERATION = Operation(7, "upgrade", "sha256:00", "B")
FAULT = Fault("CheckFailed", "HP-6040", "HP-6040: it failed")
NOTED = (Transition("Idle", "", "released"),)


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        (State(phase="Staging"), State(phase="Failed", last_error=FAULT), ["StagingFailed"]),
        (State(phase="Rebooting"), State(phase="Trial", operation=OPERATION, transitions=NOTED), ["TrialBegan"]),
        (State(phase="Trial"), State(phase="Rebooting", operation=OPERATION, returning=FAULT), ["TrialGivenUp"]),
        (State(phase="Trial"), State(phase="Returned", operation=OPERATION, last_error=FAULT), ["WentBack"]),
        (State(phase="Trial"), State(phase="Idle", operation=OPERATION._replace(outcome="Committed")), ["Committed"]),
        (
            State(phase="Rebooting", operation=OPERATION),
            State(phase="Staged", operation=OPERATION._replace(outcome="Interrupted"), last_error=FAULT),
            ["SwitchInterrupted"],
        ),
        (State(phase="Returned"), State(phase="Idle", transitions=NOTED), ["Released"]),
        (State(), State(settings_digest="x", settings_version="s1"), ["SettingsApplied"]),
        (State(), State(settings_error="no"), ["SettingsRefused"]),
        (State(), State(settings_drift="/etc/motd: files /etc/motd"), ["SettingsDrifted"]),
        (State(settings_digest="x", settings_version="s1"), State(), []),
        (State(image=Image()), State(seq=3), []),
    ],
)
def test_every_change_that_matters_is_told_once(before: State, after: State, names: list[str]) -> None:
    assert [event.name for event in journal.story(before, after)] == names


def test_ids_are_ids_and_differ() -> None:
    assert all(re.fullmatch("[0-9a-f]{32}", ident) for ident in journal.EVENTS.values())
    assert len(set(journal.EVENTS.values())) == len(journal.EVENTS)


def test_the_page_explains_every_id() -> None:
    rows = dict(re.findall(r"^\| (\w+) \| `([0-9a-f]{32})` \|", PAGE.read_text("utf-8"), re.MULTILINE))
    assert rows == journal.EVENTS


def test_every_event_of_the_table_is_used() -> None:
    room = Path(journal.__file__).parent
    code = "".join(path.read_text("utf-8") for path in room.rglob("*.py"))
    for name in journal.EVENTS:
        assert code.count(f'"{name}"') > 1, f"nothing tells {name}"
