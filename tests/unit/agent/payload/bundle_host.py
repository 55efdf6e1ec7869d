"""A directory host that trusts a key, bundles signed with it, and stagings that can be counted and cut."""

from __future__ import annotations

import platform
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent.bootstate import BootFiles, BootState
from hostplane.agent.bundle.limits import BLOCK
from hostplane.agent.bundle.manifest import Descriptor
from hostplane.agent.disk import partitions
from hostplane.agent.fetch import open_bundle
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.payload import install
from hostplane.agent.payload.pace import Pace
from hostplane.agent.payload.plan import Plan
from hostplane.agent.state import Image
from hostplane.errors import HostError
from hostplane.image.bundle.ocilayout import Opened
from hostplane.image.bundle.ocilayout import open_bundle as open_layout
from hostplane.image.bundle.signing import sign_bundle
from tests.unit.agent.bundle.keyring import private
from tests.unit.agent.payload import signed
from tests.unit.image import bundle_play

METADATA = bundle_play.METADATA.__class__(
    name="node", version="2.0", distro="some", release="9", arch=platform.machine(), created=1_700_000_000,
    root_fs="ext4",
)  # fmt: skip
KEY = "ops"


class Source:
    """A bundle's source that counts what is asked of it, and may break."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.blobs: list[str] = []
        self.frames_bytes = 0
        self.break_after: int | None = None
        self.received = 0

    def manifest(self) -> bytes:
        return self._source.manifest()  # type: ignore[no-any-return]

    def signatures(self) -> list[bytes]:
        return self._source.signatures()  # type: ignore[no-any-return]

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        self.blobs.append(descriptor.media_type)
        return self._source.blob(descriptor)  # type: ignore[no-any-return]

    def ranges(self, descriptor: Descriptor, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        for piece in self._source.ranges(descriptor, ranges):
            self.frames_bytes += len(piece)
            if self.break_after is not None and self.frames_bytes > self.break_after:
                raise ConnectionError("broken off")
            yield piece

    def distrust(self) -> None:
        self._source.distrust()

    def close(self) -> None:
        self._source.close()


class BundleHost:
    """Slot A runs; bundles lie below `root`/bundles."""

    def __init__(self, root: Path, **config: Any) -> None:
        self.root = root
        signed.host(root, keys=(KEY,), **config)
        (root / "usr/lib/hostplane/image.json").unlink()
        signed.put(root, "etc/os-release", b"VERSION_ID=1.0\n")
        (root / "boot/hostplane").mkdir(parents=True)
        (root / "dev/hostplane").mkdir(parents=True)
        self.key = signed.put(root, "key.pem", private(KEY, "P-256"))
        self.key.chmod(0o600)
        for label in ("BOOT-A", "ROOT-A", "BOOT-B", "ROOT-B"):
            self.put(label, b"")
        self.boot.write(BootState(1, "A", True, 0, True, 0))
        self.begun = 0
        self.plan = Plan()
        self.notes: list[int] = []

    @property
    def host(self) -> HostRoot:
        return HostRoot(str(self.root))

    @property
    def boot(self) -> BootFiles:
        return BootFiles(str(self.root / "boot/hostplane"), lambda: None)

    def put(self, label: str, content: bytes) -> None:
        (self.root / "dev/hostplane" / label).write_bytes(content)

    def slot(self, label: str, size: int | None = None) -> bytes:
        return (self.root / "dev/hostplane" / label).read_bytes()[:size]

    def bundle(self, name: str, root: bytes, boot: bytes = bundle_play.blocks([1, 0, 2]), **more: Any) -> Image:
        """A signed bundle of these images; what to stage it by."""
        more.setdefault("metadata", METADATA)
        directory = self.root / "bundles" / name
        info = bundle_play.write(directory, root, boot, **more)
        return self.sign(name, info.digest)

    def sign(self, name: str, digest: str) -> Image:
        sign_bundle(self.layout(name), self.key, key_id=KEY)
        return Image(format="bundle", ref=f"file:///bundles/{name}/bundle", digest=digest, version="2.0")

    def layout(self, name: str) -> Path:
        return self.root / "bundles" / name / "bundle"

    def opened(self, name: str) -> Opened:
        return open_layout(self.layout(name))

    def source(self, image: Image) -> Source:
        return Source(open_bundle(self.host, image, threading.Event()))

    def stage(
        self, image: Image, source: Any = None, pace: Pace | None = None, note: Callable[[int], None] | None = None
    ) -> install.Bundle:
        """Stage into slot B; gives the staging as it ended."""

        def planned(plan: Plan) -> None:
            self.plan = plan

        def begin() -> None:
            self.begun += 1

        source = source or self.source(image)
        bundle = install.Bundle(self.host, partitions.find(self.host), "B", image, source, pace or Pace())
        try:
            bundle.stage(install.Steps(planned, begin, note or self.notes.append))
        finally:
            bundle.close()
        return bundle

    def install_in_a(self, image: Image) -> None:
        """As if slot A ran `image`, with its record."""
        self.stage(image)
        for name in ("BOOT", "ROOT"):
            shutil.move(self.root / f"dev/hostplane/{name}-B", self.root / f"dev/hostplane/{name}-A")
            self.put(f"{name}-B", b"")
        slots = self.root / "var/lib/hostplane/slots"
        shutil.rmtree(slots / "A", ignore_errors=True)
        shutil.move(slots / "B", slots / "A")


def refusal(act: Callable[[], object]) -> str:
    """The name of the error that `act` must raise."""
    with pytest.raises(HostError) as caught:
        act()
    return caught.value.name


def differing(one: bytes, other: bytes) -> int:
    """Blocks in which `other` must be changed to begin with `one`."""
    other = other.ljust(len(one), b"\0")
    return sum(one[at : at + BLOCK] != other[at : at + BLOCK] for at in range(0, len(one), BLOCK))
