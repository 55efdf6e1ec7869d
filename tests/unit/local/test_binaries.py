"""The order in which programs are looked for, and what is refused on the way."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from hostplane.errors import LocalError
from hostplane.local import binaries


@pytest.fixture(autouse=True)
def _nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOSTPLANE_ASSETS", "KUBEBUILDER_ASSETS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOSTPLANE_OFFLINE", "1")


def program(directory: Path, name: str, version: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
    return path


def quiet(line: str) -> None:
    """Progress nobody reads."""


def test_the_assets_variable_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "path", "etcd", "etcd Version: 3.6.5")
    wanted = program(tmp_path / "assets", "etcd", "any")
    monkeypatch.setenv("HOSTPLANE_ASSETS", str(tmp_path / "assets"))
    assert binaries.locate(["etcd"], quiet) == {"etcd": wanted}


def test_path_comes_before_the_cache(tmp_path: Path) -> None:
    program(binaries.PROGRAMS["etcd"].cached.parent, "etcd", "x")
    wanted = program(tmp_path / "path", "etcd", "etcd Version: 3.5.1")
    assert binaries.locate(["etcd"], quiet)["etcd"] == wanted


def test_a_version_too_old_in_path_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path / "path", "etcd", "etcd Version: 3.4.23")
    wanted = program(binaries.PROGRAMS["etcd"].cached.parent, "etcd", "x")
    assert binaries.locate(["etcd"], quiet)["etcd"] == wanted


def test_without_go_one_sentence_says_what_to_do() -> None:
    with pytest.raises(LocalError) as caught:
        binaries.locate(["kube-apiserver"], quiet)
    assert caught.value.name == "ProgramMissing"
    assert "kube-apiserver" in str(caught.value)
    assert "Go 1.24" in caught.value.remedy


def fake_go(tmp_path: Path, script: str) -> None:
    path = tmp_path / "path" / "go"
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\nPATH=/usr/bin:/bin\n" + script)
    path.chmod(0o755)


def test_a_build_lands_in_the_cache_whole_and_once(tmp_path: Path) -> None:
    """Two at once: the second waits for the first's lock, then finds the program."""
    fake_go(
        tmp_path,
        f"test -f go.mod && test -f go.sum || exit 9\necho x >> {tmp_path}/builds\n"
        'while [ "$1" != -o ]; do shift; done\necho built > "$2"\n',
    )
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(binaries.locate(["etcd"], quiet)["etcd"])) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [binaries.PROGRAMS["etcd"].cached] * 2
    assert found[0].read_text() == "built\n"
    assert (tmp_path / "builds").read_text() == "x\n"
    assert sorted(p.name for p in binaries.cache_directory().iterdir()) == ["v3.6.5", "v3.6.5.lock"]


def test_what_a_killed_build_left_is_cleared(tmp_path: Path) -> None:
    (binaries.cache_directory() / "v3.6.5.work-old" / "module").mkdir(parents=True)
    fake_go(tmp_path, 'while [ "$1" != -o ]; do shift; done\necho built > "$2"\n')
    binaries.locate(["etcd"], quiet)
    assert sorted(p.name for p in binaries.cache_directory().iterdir()) == ["v3.6.5", "v3.6.5.lock"]


def test_a_failed_build_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    fake_go(tmp_path, "echo 'go: module lookup disabled' >&2\nexit 1\n")
    with pytest.raises(LocalError) as caught:
        binaries.locate(["etcd"], quiet)
    assert caught.value.name == "ProgramBuildFailed"
    assert "module lookup disabled" in str(caught.value)
    assert [p.name for p in binaries.cache_directory().iterdir()] == ["v3.6.5.lock"]


def serve(monkeypatch: pytest.MonkeyPatch, answers: dict[str, bytes]) -> None:
    """The release site, as a table from the end of the address to the answer."""

    def fetch(url: str, timeout: float) -> bytes:
        for end, body in answers.items():
            if url.endswith(end):
                return body
        raise OSError("unreachable")

    monkeypatch.setenv("HOSTPLANE_OFFLINE", "0")
    monkeypatch.setattr(binaries, "_fetch", fetch)
    monkeypatch.setattr(binaries.platform, "machine", lambda: "x86_64")


def test_a_download_with_the_published_digest_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = b"program"
    digest = hashlib.sha256(payload).hexdigest().encode()
    serve(monkeypatch, {"/kube-apiserver": payload, "/kube-apiserver.sha256": digest})
    path = binaries.locate(["kube-apiserver"], quiet)["kube-apiserver"]
    assert path.read_bytes() == payload
    assert path.stat().st_mode & 0o111


def test_etcd_is_taken_out_of_its_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        member = tarfile.TarInfo("etcd-v3.6.5-linux-amd64/etcd")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"etcd"))
    name = "etcd-v3.6.5-linux-amd64.tar.gz"
    digest = hashlib.sha256(raw.getvalue()).hexdigest()
    sums = f"{'0' * 64}  other.tar.gz\n{digest}  {name}\n".encode()
    serve(monkeypatch, {name: raw.getvalue(), "SHA256SUMS": sums})
    assert binaries.locate(["etcd"], quiet)["etcd"].read_bytes() == b"etcd"


@pytest.mark.parametrize("sums", [b"0" * 64, b"", b"not a digest"])
def test_a_download_with_another_digest_is_thrown_away(monkeypatch: pytest.MonkeyPatch, sums: bytes) -> None:
    serve(monkeypatch, {"/kube-apiserver": b"evil", "/kube-apiserver.sha256": sums})
    with pytest.raises(LocalError) as caught:
        binaries.locate(["kube-apiserver"], quiet)
    assert caught.value.name == "DownloadDigestMismatch"
    assert not binaries.PROGRAMS["kube-apiserver"].cached.exists()


def test_an_unreachable_site_is_asked_once_and_then_go_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(url: str, timeout: float) -> bytes:
        asked.append(url)
        raise OSError("no route")

    monkeypatch.setenv("HOSTPLANE_OFFLINE", "0")
    monkeypatch.setattr(binaries, "_fetch", fetch)
    monkeypatch.setattr(binaries.platform, "machine", lambda: "x86_64")
    fake_go(tmp_path, 'while [ "$1" != -o ]; do shift; done\necho built > "$2"\n')
    binaries.locate(["kube-apiserver", "etcd"], quiet)
    assert len(asked) == 1


def test_the_wrapper_modules_pin_the_same_versions() -> None:
    root = Path(binaries.__file__).parent / "gobuild"
    assert f"require k8s.io/kubernetes {binaries.KUBERNETES_VERSION}\n" in (root / "kubernetes/go.mod").read_text()
    assert f"require go.etcd.io/etcd/server/v3 {binaries.ETCD_VERSION}\n" in (root / "etcd/go.mod").read_text()


def test_the_linker_stamps_a_version_clients_can_parse() -> None:
    flags = binaries.version_flags(binaries.PROGRAMS["kube-apiserver"])
    assert "version.gitVersion=v1.34.2" in flags
    assert "version.gitMajor=1 " in flags
    assert "version.gitMinor=34 " in flags


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("Kubernetes v1.34.2", (1, 34)),
        ("etcd Version: 3.6.5\n", (3, 6)),
        ("Client Version: v1.32.4-x", (1, 32)),
        ("?", (0, 0)),
    ],
)
def test_versions_are_read_from_what_programs_print(output: str, version: tuple[int, int]) -> None:
    assert binaries.read_version(output) == version


def test_a_program_that_does_not_run_is_no_candidate(tmp_path: Path) -> None:
    path = program(tmp_path / "path", "etcd", "x")
    path.write_bytes(b"\x7fELF not really")
    with pytest.raises(LocalError):
        binaries.locate(["etcd"], quiet)
    with pytest.raises(OSError):
        subprocess.run([str(path)], check=True)
