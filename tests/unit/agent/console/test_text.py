"""What a person at the console reads: healthy only when nothing is wrong, else everything that is."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent.console import banner
from hostplane.agent.console.text import Facts, banner_line, status_text
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.main import main

IDLE: dict[str, Any] = {"phase": "Idle"}
FINE = Facts("A", "demo 1.2", "running", [], IDLE)


def test_a_host_with_nothing_wrong_is_healthy() -> None:
    assert banner_line(FINE) == "Hostplane: slot A · demo 1.2 · healthy"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (FINE._replace(system="starting"), "starting"),
        (FINE._replace(system="degraded", failed_units=["a.service"]), "failed: a.service"),
        (FINE._replace(failed_units=list("abcdef")), "failed: a, b, c, d and 2 more"),
        (FINE._replace(system="maintenance"), "system is maintenance"),
        (FINE._replace(report=None, fault="HP-1: no answer"), "agent: HP-1: no answer"),
        (FINE._replace(report={"phase": "Trial", "trialSecondsLeft": 90}), "on trial for 90 s more"),
        (FINE._replace(report={"phase": "Returned", "lastError": {"message": "no boot"}}), "went back: no boot"),
        (FINE._replace(report={"phase": "Failed", "lastError": {"message": "full"}}), "staging failed: full"),
        (FINE._replace(report={"phase": "Rebooting"}), "rebooting"),
        (FINE._replace(report={"phase": "Staging"}), "healthy"),
        (FINE._replace(report={"phase": "Idle", "settings": {"error": "bad\nkey"}}), "settings: bad key"),
        (FINE._replace(failed_units=["a"], fault="HP-1: b"), "failed: a; agent: HP-1: b"),
        (
            FINE._replace(report={"phase": "Idle", "lastError": {"code": "HP-6040", "at": "2026-11-23T22:00:00Z"}}),
            "healthy (last failure: HP-6040 on 2026-11-23)",
        ),
    ],
)
def test_the_line_says_what_is_wrong(facts: Facts, words: str) -> None:
    assert banner_line(facts) == f"Hostplane: slot A · demo 1.2 · {words}"


def test_a_host_started_by_hand_is_no_healthy_one() -> None:
    line = banner_line(Facts(system="running"))
    assert line == "Hostplane: slot unknown · unknown image · not booted through Hostplane's loader"


@pytest.mark.parametrize(
    ("listing", "units"),
    [
        ("", []),
        ("a.service loaded failed failed A\nb.mount loaded failed failed B\n", ["a.service", "b.mount"]),
        ("● a.service loaded failed failed A\n", ["a.service"]),
    ],
)
def test_failed_units_are_found_in_old_and_new_listings(tmp_path: Path, listing: str, units: list[str]) -> None:
    says = {"is-system-running": "degraded\n", "list-units": listing}
    facts = banner.look(HostRoot(str(tmp_path)), lambda *command: says[command[1]])
    assert facts.failed_units == units


def test_what_runs_is_read_from_the_image(host: Any) -> None:
    host.write("usr/lib/hostplane/image.json", '{"name": "demo", "version": "1.2"}')
    facts = banner.look(HostRoot(str(host.root)), lambda *command: "starting\n")
    assert banner_line(facts) == "Hostplane: slot A · demo 1.2 · starting"


def test_an_agent_that_does_not_answer_is_no_healthy_host(host: Any) -> None:
    facts = banner.look(HostRoot(str(host.root)), lambda *command: "")
    assert facts.fault.startswith("HP-")


def test_the_agents_own_report_is_asked_for(host: Any) -> None:
    host.start()
    with host.client():
        facts = banner.look(HostRoot(str(host.root)), lambda *command: "running\n" if "is-system" in command[1] else "")
    assert facts.report is not None
    assert facts.report["phase"] == "Idle"


def test_the_line_is_written_for_prompts_and_shells(tmp_path: Path) -> None:
    host = HostRoot(str(tmp_path))
    (tmp_path / "usr/lib/hostplane").mkdir(parents=True)
    (tmp_path / "usr/lib/hostplane/issue").write_text("Old \\n\n")
    assert banner.write(host, "a \\b")
    assert not banner.write(host, "a \\b")
    assert (tmp_path / "run/issue.d/hostplane.issue").read_text() == "a /b\n"
    assert (tmp_path / "run/motd.d/hostplane").read_text() == "a \\b\n"
    assert (tmp_path / "run/hostplane/issue").read_text() == "Old \\n\na /b\n\n"


def test_the_service_manager_hears_when_the_first_line_is_there(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"@hostplane-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind("\0" + address[1:])
        notify.settimeout(5)
        banner.show(HostRoot(str(host.root)), 0.0, lambda *_: "")
        assert notify.recv(100) == b"READY=1"


def test_status_for_a_person_names_slots_and_errors(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    host.start()
    with host.client() as client:
        report = client.call("status")
    assert status_text(report).splitlines()[:2] == [
        "phase    Idle",
        f"slot A*  Confirmed v1 {host.digest_of(host.OLD)[:19]}",
    ]
    assert main(["status", "--socket", host.socket]) == 0
    assert "slot B   Empty" in capsys.readouterr().out
    assert main(["status", "--json", "--socket", host.socket]) == 0
    assert capsys.readouterr().out.startswith('{\n  "schema"')
    fault = {"code": "HP-6043", "message": "It fell back."}
    busy = dict(report, lastError=fault, never=True, trialSecondsLeft=7, settings={"version": "s1", "error": ""})
    etc = {"merged": 3, "kept": 2, "conflicts": [{}]}
    busy["firmware"] = {"shim": "15.8", "grub": "2.06"}
    text = status_text(dict(busy, progress={"bytes": 3 << 20, "total": 9 << 20}, etc=etc))
    for words in (
        "3 merged, 2 kept, 1 conflicts",
        "HP-6043: It fell back.",
        "7 s left",
        "settings s1",
        "3 of 9 MiB",
        "loader   grub 2.06, shim 15.8",
        "never",
    ):
        assert words in text


def test_no_word_of_a_strangers_reaches_the_terminal_as_a_command(host: Any) -> None:
    words = "v2\x1b]0;owned\x07\ud800"
    report: dict[str, Any] = {"phase": "Returned", "activeSlot": "A", "never": False, "transitions": []}
    report["lastError"] = {"code": "HP-1", "message": "HP-1: " + words, "at": "2026-11-24"}
    report["slots"] = {"A": {"state": "Confirmed", "version": words, "digest": ""}}
    for said in (banner_line(Facts(slot="A", image=words, system="running", report=report)), status_text(report)):
        assert "v2?]0;owned??" in said
        assert "\x1b" not in said
        said.encode("utf-8")
