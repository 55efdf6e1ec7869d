"""Disks that fail or are full: staging says so, the boot state stays as it was, and the host can try again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hostplane.errors import HostplaneError
from hostplane.rpc.client import AgentClient
from tests.vm.powercut.native import NativeHost, is_possible
from tests.vm.powercut.recording import unreadable

pytestmark = [
    pytest.mark.skipif(not is_possible(), reason="makes a block device: needs root, /dev/fuse and loop devices"),
    pytest.mark.timeout(300),
]
_BLOCK = 4096


@pytest.fixture
def native(tmp_path: Path) -> NativeHost:
    return NativeHost(tmp_path)


def _block(image: Path) -> int:
    """Where a block of an image is that is not zero."""
    raw = image.read_bytes()
    return next(at for at in range(len(raw) // 2, len(raw), _BLOCK) if raw[at : at + _BLOCK].strip(b"\0"))


def _envs(root: Path) -> list[bytes]:
    return [(root / "boot/hostplane" / name).read_bytes() for name in ("env1", "env2")]


def _failing(native: NativeHost, agent: AgentClient, root: Path) -> str:
    """The reason why nothing was staged."""
    before = _envs(root)
    agent.call("stage", image=native.image)
    report: dict[str, Any] = native.until(agent, "Failed")
    assert report["slots"]["B"]["state"] not in ("Staged", "Confirmed")
    with pytest.raises(HostplaneError, match="HP-6025"):
        agent.call("switch", seq=1, operation="upgrade", digest=native.digest, trialSeconds=60)
    assert _envs(root) == before
    assert report["failedDigests"] == [], "the disk's fault is not the image's"
    return str(report["lastError"]["name"])


def test_a_slot_that_cannot_be_read_is_not_booted(native: NativeHost, tmp_path: Path) -> None:
    bad = native.offsets["ROOT-B"] + _block(native.images[1].root)
    unreadable(tmp_path / "faults", bad // 512, _BLOCK // 512)(native.disk)
    node = f"driver=blkdebug,node-name=top,config={tmp_path / 'faults'},image.driver=file,image.filename={native.disk}"
    with native.running(node, is_cached=False) as (agent, root):
        assert _failing(native, agent, root) == "SlotReadFailed"


@contextmanager
def _full(place: Path) -> Iterator[None]:
    """A file system without a byte left."""
    with (place / "full").open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    yield
    (place / "full").unlink()


def _said(native: NativeHost, agent: AgentClient, method: str, **params: Any) -> str:
    """The sentence of a refusal, or of what came of it."""
    try:
        agent.call(method, **params)
        report = native.until(agent, "Failed", "Staged")
    except HostplaneError as refusal:
        return str(refusal)
    return str(report["lastError"]["message"])


def test_full_disks_delay_an_upgrade_and_break_nothing(native: NativeHost) -> None:
    with native.running(f"driver=file,node-name=top,filename={native.disk}") as (agent, root):
        before = _envs(root)
        with _full(root / "boot/hostplane"):
            with _full(root / "persist"):
                assert "No space" in _said(native, agent, "stage", image=native.image)
            agent.call("stage", image=native.image)
            assert native.until(agent, "Staged")["slots"]["B"]["state"] == "Staged"
            with _full(root / "persist"):
                switch = {"operation": "upgrade", "digest": native.digest, "trialSeconds": 60}
                assert "No space" in _said(native, agent, "switch", seq=1, **switch)
                assert _envs(root) == before
                assert not (root / "persist/etc/B").exists()
            assert native.until(agent, "Staged", "Idle")["activeSlot"] == "A"
            agent.call("switch", seq=2, **switch)
            native.gone(root)
        assert b"order=B A" in _envs(root)[0], "the boot state is written in place and needs no room"
        assert (root / "persist/etc/B/mine.conf").read_text() == "mine\n"
