"""The frame: exit codes, errors in three lines, languages, lazy verbs."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys

import click
import pytest

from hostplane import errors
from hostplane.cli import main as frame
from hostplane.cli.main import ExitCode, exit_code, main


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTPLANE_LANG", "en")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A verb `fails` that raises what the list holds."""
    pending: list[BaseException] = []

    @click.command(name="fails")
    def command() -> None:
        raise pending[0]

    real = frame.cli.get_command
    monkeypatch.setattr(frame.cli, "get_command", lambda ctx, name: command if name == "fails" else real(ctx, name))
    return pending


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UnreachableError("X"), 4),
        (errors.ConflictError("X"), 3),
        (errors.NotFoundError("X"), 3),
        (errors.ApiError("X"), 3),
        (errors.LocalError("X"), 3),
        (errors.ClusterError("X"), 1),
        (errors.ThrottledError("X"), 1),
        (errors.HostError("X"), 1),
    ],
)
def test_each_error_has_its_exit_code(error: errors.HostplaneError, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_is_a_sentence_and_a_hint_on_stderr(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(errors.LocalError("PortTaken", port=6443, error="in\nuse"))
    assert main(["fails"]) == ExitCode.REFUSED
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "hostplane: HP-7011: Port 6443 on 127.0.0.1 cannot be used: in use.",
        "  Choose another with --port, or leave it out to take a free one.",
    ]


def test_messages_come_in_chinese(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTPLANE_LANG", "zh_CN.UTF-8")
    failing.append(errors.LocalError("PortTaken", port=6443, error="x"))
    main(["fails"])
    assert "HP-7011: 无法使用 127.0.0.1 的端口 6443" in capsys.readouterr().err


def test_the_first_of_our_errors_in_a_group_is_shown(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    inner = ExceptionGroup("inner", [errors.UnreachableError("ControlPlaneUnreachable", url="u", error="e")])
    failing.append(ExceptionGroup("outer", [ValueError("x"), inner]))
    assert main(["fails"]) == ExitCode.UNREACHABLE
    assert "HP-7014" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interruption_is_130(failing: list[BaseException], error: BaseException) -> None:
    failing.append(error)
    assert main(["fails"]) == 130


def test_a_file_error_is_a_sentence(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(PermissionError(13, "Permission denied", "/x"))
    assert main(["fails"]) == ExitCode.REFUSED
    assert "HP-7503" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(failing: list[BaseException]) -> None:
    failing.append(RuntimeError("bug"))
    with pytest.raises(RuntimeError, match="bug"):
        main(["fails"])


@pytest.mark.parametrize("arguments", [["no-such-verb"], ["local", "up", "--port", "70000"], ["completion", "tcsh"]])
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == ExitCode.USAGE
    assert "Error:" in capsys.readouterr().err


def test_the_version_imports_no_verb_and_nothing_heavy() -> None:
    script = (
        "import json,sys; from hostplane.cli.main import main; main(['--version']);"
        "print(json.dumps([m for m in sys.modules if m.startswith('hostplane.cli.') or"
        " m.split('.')[0] in ('rich','h11','msgspec','asyncio','yaml','structlog')]))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    version, modules = answer.stdout.splitlines()
    assert version.startswith("hostplane 0.")
    assert json.loads(modules) == ["hostplane.cli.main"]


def test_the_version_is_quick() -> None:
    """100 ms is the promise for an idle machine, where an interpreter alone takes an eighth of that; processor time."""

    def seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def least(*words: str) -> float:
        found = []
        for _ in range(5):
            before = seconds()
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
            found.append(seconds() - before)
        return min(found)

    assert least("-m", "hostplane.cli", "--version") <= max(0.1, 8 * least("-c", "pass"))


def test_every_verb_has_a_help_that_names_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in frame.VERBS:
        assert main([verb, "--help"]) == ExitCode.OK
        assert f"Usage: hostplane {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == ExitCode.OK
    assert "_HOSTPLANE_COMPLETE" in capsys.readouterr().out


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m hostplane.cli completion bash | true"
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert answer.stderr == ""


def test_an_interrupted_coroutine_is_130(failing: list[BaseException]) -> None:
    failing.append(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        main(["fails"])
