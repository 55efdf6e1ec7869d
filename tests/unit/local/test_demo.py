"""Where the demo may live, and that its place is gone afterwards whatever happens."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from hostplane.cli.main import ExitCode, main
from hostplane.local.demo import place
from hostplane.local.demo_view import Screen


def a_screen() -> tuple[Screen, io.StringIO]:
    sink = io.StringIO()
    return Screen(Console(file=sink), lambda name, **_: name), sink


def test_a_directory_that_is_not_empty_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("precious")
    assert main(["demo", "--dir", str(tmp_path)]) is ExitCode.REFUSED
    assert "HP-7070" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_place_is_gone_afterwards(error: type[BaseException] | None, tmp_path: Path) -> None:
    screen, _ = a_screen()
    directory = tmp_path / "demo"
    with contextlib.suppress(RuntimeError, KeyboardInterrupt), place(directory, screen) as chosen:
        chosen.mkdir()
        (chosen / "left-over").touch()
        if error is not None:
            raise error
    assert not directory.exists()


def test_a_kept_place_stays_and_says_how_to_end_it(tmp_path: Path) -> None:
    screen, sink = a_screen()
    with place(tmp_path, screen, keep=True) as chosen:
        (chosen / "kept").touch()
    assert (tmp_path / "kept").exists()
    assert "DemoKept" in sink.getvalue()


def test_a_closed_terminal_or_a_polite_kill_interrupts_as_ctrl_c_does(tmp_path: Path) -> None:
    screen, _ = a_screen()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), place(None, screen) as chosen:
        os.kill(os.getpid(), signal.SIGTERM)
    assert not chosen.exists()
    assert signal.getsignal(signal.SIGTERM) is before
