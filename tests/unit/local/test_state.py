"""What a local cluster's directory remembers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hostplane.errors import LocalError
from hostplane.local import state
from hostplane.local.processes import Process


def process(name: str, pid: int) -> Process:
    return Process(name=name, pid=pid, started=1, boot="b", log="l")


def test_a_new_directory_is_private_and_remembers_in_order(tmp_path: Path) -> None:
    directory = tmp_path / "D"
    state.prepare_directory(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    for name, pid in (("etcd", 1), ("kube-apiserver", 2), ("etcd", 3)):
        state.remember(directory, process(name, pid))
    assert [(p.name, p.pid) for p in state.load(directory).processes] == [("kube-apiserver", 2), ("etcd", 3)]
    state.forget(directory, {"etcd"})
    assert [p.name for p in state.load(directory).processes] == ["kube-apiserver"]


def test_somebody_elses_directory_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(LocalError) as caught:
        state.prepare_directory(tmp_path)
    assert caught.value.name == "DirectoryNotOurs"
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_no_cluster_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(LocalError) as caught:
        state.load(tmp_path / "none")
    assert caught.value.name == "NoLocalCluster"


@pytest.mark.parametrize("raw", [b"{", b"[]", b'{"schema": "2.0"}', b'{"processes": 3}'])
def test_an_unreadable_state_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "state.json").write_bytes(raw)
    with pytest.raises(LocalError) as caught:
        state.load(tmp_path)
    assert caught.value.name == "LocalStateUnreadable"


def test_a_newer_minor_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(msgspec.json.encode({"schema": "1.7", "url": "u", "new": 1}))
    assert state.load(tmp_path).url == "u"
