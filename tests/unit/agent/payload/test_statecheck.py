"""A return is only as good as what the old programs can read; what they cannot is reset, or said in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane.agent import bootnote
from hostplane.agent.payload import statecheck
from hostplane.agent.payload.statecheck import Rule
from hostplane.errors import HostError
from tests.unit.agent.payload.signed import host, put, raw, record

RULES = {"kubelet": Rule(1), "containerd": Rule(None, ("/var/lib/containerd",))}


@pytest.mark.parametrize(
    ("writer", "reader", "is_readable"),
    [
        ("1.34.1", "1.34.9", True),
        ("1.34.1", "1.33.0", True),
        ("1.35.0", "1.33.0", False),
        ("1.30", "1.34", True),
        ("2.0", "1.99", False),
        ("1:1.35.2-1~deb12u1", "1.34.0-1", True),
        ("v1.36.0", "v1.34.0", False),
        ("", "1.0", True),
    ],
)
def test_a_kubelet_reads_what_the_next_minor_version_wrote(writer: str, reader: str, is_readable: bool) -> None:
    assert (not statecheck.clashes({"kubelet": writer}, {"kubelet": reader}, RULES)) is is_readable


def test_without_a_rule_a_major_version_is_the_border() -> None:
    assert not statecheck.clashes({"x": "1.99"}, {"x": "1.0"}, {})
    (clash,) = statecheck.clashes({"x": "2.0"}, {"x": "1.9"}, {})
    assert clash == statecheck.Clash("x", "2.0", "1.9", ())


def test_a_component_that_only_one_image_has_is_no_clash() -> None:
    assert not statecheck.clashes({"containerd": "9.0"}, {"kubelet": "1.0"}, RULES)


def slot(root: Path, letter: str, **versions: str) -> None:
    """The image in charge is that of `letter`, with these state versions."""
    put(root, "proc/cmdline", b"hostplane.slot=" + letter.encode())
    record(root, letter, stateVersions=versions)


def test_who_comes_back_resets_what_it_cannot_read_and_takes_charge(tmp_path: Path) -> None:
    root = host(tmp_path)
    put(tmp_path, "usr/lib/hostplane/state.json", raw({"rules": {"containerd": {"reset": ["/var/lib/containerd"]}}}))
    images = put(tmp_path, "var/lib/containerd/io/image", b"1")
    kept = put(tmp_path, "elsewhere/kept", b"1")
    (tmp_path / "var/lib/containerd/link").symlink_to(kept.parent)
    slot(tmp_path, "A", containerd="1.7.0")
    bootnote.note_boot(root)
    slot(tmp_path, "B", containerd="2.0.0", kubelet="1.34")
    bootnote.note_boot(root)
    assert images.exists()
    assert statecheck.read_stamp(root) == {"containerd": "2.0.0", "kubelet": "1.34"}
    slot(tmp_path, "A", containerd="1.7.0")
    bootnote.note_boot(root)
    assert list((tmp_path / "var/lib/containerd").iterdir()) == []
    assert kept.exists()
    assert statecheck.read_stamp(root) == {"containerd": "1.7.0", "kubelet": "1.34"}


def test_what_cannot_be_reset_stops_the_boot_of_what_would_read_it(tmp_path: Path) -> None:
    root = host(tmp_path)
    slot(tmp_path, "B", database="2.0")
    bootnote.note_boot(root)
    slot(tmp_path, "A", database="1.0")
    for _ in range(2):  # and it does not take charge by failing
        with pytest.raises(HostError) as caught:
            bootnote.note_boot(root)
        assert caught.value.name == "StateUnreadableHere"


@pytest.mark.parametrize("pattern", ["/etc/*", "/var/../etc/x", "/var/lib/out/*"])
def test_a_reset_never_leaves_var(tmp_path: Path, pattern: str) -> None:
    root = host(tmp_path)
    kept = put(tmp_path, "etc/x", b"1")
    (tmp_path / "var/lib/out").symlink_to(tmp_path / "etc")
    with pytest.raises(ValueError, match=r"below /var|leads out|contains"):
        bootnote.reset(root, pattern)
    assert kept.exists()


def test_a_damaged_stamp_or_a_veto_keeps_no_node_from_starting(tmp_path: Path) -> None:
    root = host(tmp_path)
    slot(tmp_path, "A", containerd="1.7.0")
    put(tmp_path, "var/lib/hostplane/state-versions.json", b"{")
    bootnote.note_boot(root)
    assert statecheck.read_stamp(root) == {"containerd": "1.7.0"}
    put(tmp_path, "var/lib/hostplane/state-versions.json", raw({"schema": "1.0", "versions": {"containerd": "3.0"}}))
    put(tmp_path, "etc/hostplane/never", b"")
    bootnote.note_boot(root)
    assert statecheck.read_stamp(root) == {"containerd": "3.0"}


def test_a_full_disk_keeps_no_node_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise HostError("KeptWriteFailed", path="p", detail="no space")

    root = host(tmp_path)
    slot(tmp_path, "A", containerd="1.7.0")
    monkeypatch.setattr(statecheck.kept, "write", full)
    bootnote.note_boot(root)
