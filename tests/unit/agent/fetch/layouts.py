"""A bundle as small as can be, laid out as `hostplane image build` does, and a host that fetches it."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from pathlib import Path
from typing import Any, NamedTuple

from hostplane.agent.bundle.manifest import TYPE_BUNDLE, TYPE_FRAMES, Descriptor, digest_of
from hostplane.agent.fetch import BundleSource, open_bundle
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.state import Image
from hostplane.image.bundle.ocilayout import Layout, bundle_descriptor, canonical

LISTED = canonical({"schema": "1.0", "subject": "sha256:" + "0" * 64, "signatures": []})


class Bundle(NamedTuple):
    """One layout: its manifest's digest, its frames and what they hold."""

    directory: Path
    digest: str
    frames: Descriptor
    content: bytes
    listed: bytes | None

    def image(self, ref: str) -> Image:
        return Image(format="bundle", ref=ref, digest=self.digest)


def make_bundle(directory: Path, size: int = 300_000, signed: bool = True, seed: int = 7) -> Bundle:
    directory.mkdir(parents=True)
    layout, content = Layout(directory), random.Random(seed).randbytes(size)
    frames = layout.add(content, TYPE_FRAMES)
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": TYPE_BUNDLE,
        "config": layout.add(b"{}", "application/vnd.oci.image.config.v1+json"),
        "layers": [frames],
    }
    raw = canonical(manifest)
    described = layout.add(raw, manifest["mediaType"])  # type: ignore[arg-type]
    listed = LISTED.replace(b"0" * 64, described["digest"][7:].encode()) if signed else None
    layout.point(bundle_descriptor(digest_of(raw), len(raw), "x86_64"), "v1", listed)
    return Bundle(
        directory, digest_of(raw), Descriptor(TYPE_FRAMES, frames["digest"], size, {}, "", ""), content, listed
    )


class Site:
    """A host's root with a configuration, and the bundles it opened."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cancelled = threading.Event()
        self.settings: dict[str, Any] = {"stallSeconds": 2, "fetchAttempts": 2}
        self.opened: list[BundleSource] = []
        (root / "etc/hostplane").mkdir(parents=True)

    def configure(self, **settings: Any) -> None:
        self.settings.update(settings)

    def write(self, path: str, content: str, mode: int = 0o600) -> str:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        target.chmod(mode)
        return path

    def host(self) -> HostRoot:
        (self.root / "etc/hostplane/agent.json").write_text(json.dumps(self.settings))
        return HostRoot(str(self.root))

    def open(self, bundle: Bundle, ref: str) -> BundleSource:
        self.opened.append(open_bundle(self.host(), bundle.image(ref), self.cancelled))
        return self.opened[-1]

    def close(self) -> None:
        for source in self.opened:
            source.close()


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
