"""What `hostplane-agent etc` prints, for a person and for a program, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hostplane.agent.main import main
from tests.unit.agent.etc.conftest import Rig, print_of


@pytest.fixture
def edited(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path)
    rig.write(rig.root, "proc/cmdline", "hostplane.slot=A\n")
    rig.live("motd", "me\n")
    rig.image("motd", "new\n")
    rig.live("mine", "")
    rig.image("passwd", "root:x:0:0:root:/root:/bin/sh\nchrony:x:107:105::/var/lib/chrony:/bin/false\n")
    return rig


def said(capfd: pytest.CaptureFixture[str], rig: Rig, *words: str) -> str:
    assert main(["etc", *words, "--root", str(rig.root)]) == 0
    return capfd.readouterr().out


def test_differences_for_a_person_and_a_program(edited: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    assert said(capfd, edited, "diff") == "A /etc/mine\nM /etc/motd\n"
    assert json.loads(said(capfd, edited, "diff", "--json")) == {"changes": [["A", "mine"], ["M", "motd"]]}
    lines = said(capfd, edited, "diff", "/etc/motd").splitlines()
    assert lines[-3:] == ["-hello", "+me", " "]
    assert said(capfd, edited, "diff", "passwd") == "\n"


def test_a_preview_for_a_person_and_a_program(edited: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    before = print_of(edited.root)
    assert said(capfd, edited, "merge", "--dry-run").splitlines() == [
        "1 follow the image, 1 stay the host's, 0 are merged",
        "/etc/motd (file): the host's stays, the image's is beside it as .new",
        "uid of chrony: 105 becomes 107",
    ]
    report = json.loads(said(capfd, edited, "merge", "--dry-run", "--json"))
    assert report["conflicts"][0]["path"] == "motd"
    assert report["moved"] == [{"kind": "uid", "name": "chrony", "old": 105, "new": 107}]
    assert print_of(edited.root) == before


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], "HP-6398"),
        (["merge"], "HP-6398"),
        (["diff", "../../x"], "HP-6392"),
        (["diff", "/usr/x"], "HP-6392"),
        (["diff", "none"], "HP-6392"),
    ],
)
def test_what_it_refuses_is_a_sentence(
    edited: Rig, capfd: pytest.CaptureFixture[str], words: list[str], code: str
) -> None:
    arguments = ["etc", *words] + (["--root", str(edited.root)] if words else [])
    assert main(arguments) == 1
    assert code in capfd.readouterr().err


def test_owners_are_settled_by_hand_too(edited: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    assert said(capfd, edited, "owners") == "0 files have new owners\n"
