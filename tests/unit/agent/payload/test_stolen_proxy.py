"""Whoever holds the proxy's socket, and every server it may name, boots nothing but signed and allowed images.

The thief makes any requests in any order, knows the Host's uid, serves what he likes and reboots the host when he
likes. After each step, what the loader would try first was signed by a trusted key, fits this host and is allowed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from hostplane.agent.bootstate import BootFiles, BootState, plan_boot
from hostplane.agent.host import Host
from hostplane.agent.state import Image
from hostplane.errors import HostplaneError
from hostplane.image.bundle.bundle import Verity
from hostplane.image.bundle.signing import sign_bundle
from hostplane.rpc import messages
from tests.unit.agent.bundle.keyring import EARLIER, private
from tests.unit.agent.payload import signed
from tests.unit.agent.payload.bundle_host import METADATA
from tests.unit.image import bundle_play

OLD = b"old".ljust(4096, b"\0")
INSTALLED = signed.digest(OLD)
ARM = "aarch64" if METADATA.arch == "x86_64" else "x86_64"
SEAL = Verity(root_hash="ab" * 32, hash_offset=4096, salt="00")

# name: (signer, may it ever run here, what its metadata says)
POOL: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "good": ("ops", True, {"version": "2.0"}),
    "raises": ("ops", True, {"version": "3.0", "minimum_version": "3.0"}),
    "low": ("ops", False, {"version": "1.9~rc1"}),
    "unsigned": ("", False, {"version": "4.0"}),
    "stranger": ("stranger", False, {"version": "5.0"}),
    "expired": ("ops-expired", False, {"version": "6.0"}),
    "blocked": ("ops", False, {"version": "7.0"}),
    "other-machine": ("ops", False, {"version": "8.0", "arch": ARM}),
    "sealed": ("ops", False, {"version": "9.0", "verity": SEAL}),
    "far": ("ops", False, {"version": "10.0", "reachable_from": ("9.*",)}),
}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundles, and `digests`: by name."""
    here = tmp_path_factory.mktemp("pool")
    digests = {}
    for number, (name, (signer, _, facts)) in enumerate(POOL.items(), 10):
        metadata = structs.replace(METADATA, **facts)
        info = bundle_play.write(here / name, bundle_play.blocks([number, number + 100]), metadata=metadata)
        if signer:
            key = here / "key.pem"
            key.write_bytes(private(signer.partition("-")[0], "P-256"))
            expires = EARLIER if signer.endswith("expired") else ""
            sign_bundle(info.path, key, key_id=signer.partition("-")[0], expires=expires)
        digests[name] = info.digest
    (here / "digests").write_text(json.dumps(digests))
    return here


class Stolen:
    """A host in the thief's hands."""

    def __init__(self, root: Path, layouts: Path) -> None:
        self.root, self.seq = root, 0
        self.digests: dict[str, str] = json.loads((layouts / "digests").read_text())
        for name in POOL:
            shutil.copytree(layouts / name / "bundle", root / name)
        installed = {"digest": INSTALLED, "version": "1.0", "size": len(OLD)}
        signed.host(root, keys=("ops",), installed=installed, allowUnsignedTar=False, stallSeconds=1, fetchAttempts=1)
        about = {"name": "node", "version": "1.0", "arch": METADATA.arch, "minimumVersion": "2.0~rc1"}
        signed.put(root, "usr/lib/hostplane/image.json", signed.raw(about))
        signed.put(root, "etc/hostplane/blocked", self.digests["blocked"].encode())
        signed.put(root, "tar", b"any tar")
        for label in ("BOOT-A", "ROOT-A", "BOOT-B", "ROOT-B"):
            signed.put(root, f"dev/hostplane/{label}", OLD)
        (root / "boot/hostplane").mkdir(parents=True)
        self.files = BootFiles(str(root / "boot/hostplane"), lambda: None)
        self.files.write(BootState(1, "A", True, 0, False, 0))
        self.boots = 0
        self.committed: set[str] = set()
        self.boot()

    def boot(self) -> None:
        """What the loader does, and the agent's start."""
        env1, env2 = ((self.root / "boot/hostplane" / name).read_bytes() for name in ("env1", "env2"))
        slot, block = plan_boot(env1, env2)
        assert slot is not None
        if block is not None:
            for name in ("env2", "env1"):
                signed.put(self.root, f"boot/hostplane/{name}", block)
        self.boots += 1
        signed.put(self.root, "proc/cmdline", f"hostplane.slot={slot}".encode())
        signed.put(self.root, "proc/sys/kernel/random/boot_id", f"boot-{self.boots}".encode())
        self.is_down = threading.Event()
        self.host = Host(str(self.root))
        self.host.start(self.is_down.set)

    def step(self, kind: str, name: str, number: int) -> None:
        """One request; refusals are what the thief expects."""
        digest = self.digests.get(name, INSTALLED)
        image = Image("bundle", f"file:///{name}", digest, 0, POOL[name][2]["version"], number)
        if kind == "mixed":  # another bundle's documents behind this digest
            other = sorted(POOL)[number % len(POOL)]
            image = image._replace(ref=f"file:///{other}")
        elif kind == "tar":
            image = Image("rootTar", "file:///tar", signed.digest(b"any tar"), 7, "2.0", number)
        with contextlib.suppress(HostplaneError):
            if kind in ("stage", "mixed", "tar"):
                self.host.stage(image, held=False, retry=True)
                self.host.await_staged(image.digest)
            elif kind in (messages.UPGRADE, messages.ROLLBACK):
                self.seq += 1
                self.host.switch(self.seq, kind, "" if number == 0 else digest, 7200)
            elif kind == "confirm":
                self.until_checked()
                self.host.confirm(self.seq)
                self.committed.add(self.held(self.status()["activeSlot"]))
            elif kind == "return":
                self.host.go_back(self.seq, "because")
            else:
                self.host.release(self.seq)
        if kind == "reboot" or self.status()["phase"] == messages.REBOOTING:
            if kind != "reboot":
                assert self.is_down.wait(20)
            self.host.close()
            self.boot()

    def status(self) -> dict[str, Any]:
        return self.host.status()

    def until_checked(self) -> None:
        status = self.status()
        while status["phase"] == messages.TRIAL:
            try:
                self.host.confirm(self.seq)
                break
            except HostplaneError as fault:
                if fault.name != "ChecksRunning":
                    raise
            status = self.host.wait(status["revision"], 1)

    def held(self, slot: str) -> str:
        return str(self.status()["slots"][slot]["digest"])

    def check(self) -> None:
        """What the loader tries first was let in by the host's own judgement."""
        state = self.files.read()
        names = {digest: name for name, digest in self.digests.items()}
        for slot in "AB":
            if state.is_ok(slot) or state.left(slot):
                name = names.get(self.held(slot))
                assert self.held(slot) == INSTALLED or (name is not None and POOL[name][1]), name
        if self.digests["raises"] in self.committed:
            first = names.get(self.held(state.first))
            assert first in ("raises", None), "a version below the minimum would be booted"


STEPS = ("stage", "stage", "mixed", "tar", "upgrade", "upgrade", "rollback", "confirm", "return", "release", "reboot")
REQUESTS = st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(sorted(POOL)), st.integers(0, 9)), max_size=12)


def play(layouts: Path, requests: list[tuple[str, str, int]]) -> Stolen:
    with tempfile.TemporaryDirectory(dir=layouts) as directory:
        thief = Stolen(Path(directory), layouts)
        try:
            for kind, name, number in requests:
                thief.step(kind, name, number)
                thief.check()
        finally:
            thief.host.close()
    return thief


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=REQUESTS)
def test_no_order_of_requests_boots_what_was_not_let_in(layouts: Path, requests: list[tuple[str, str, int]]) -> None:
    play(layouts, requests)


@pytest.mark.parametrize("name", sorted(POOL))
def test_only_an_allowed_image_gets_as_far_as_a_boot(layouts: Path, name: str) -> None:
    thief = play(layouts, [("stage", name, 1), ("upgrade", name, 1), ("confirm", name, 1)])
    assert (thief.digests[name] in thief.committed) is POOL[name][1]
    assert thief.boots == 1 + POOL[name][1]


def test_the_way_back_below_a_raised_minimum_is_closed(layouts: Path) -> None:
    steps = [(kind, name, 1) for name in ("good", "raises") for kind in ("stage", "upgrade", "confirm")]
    thief = play(layouts, [*steps, ("rollback", "good", 1), ("rollback", "good", 0), ("stage", "good", 1)])
    assert thief.boots == 3
