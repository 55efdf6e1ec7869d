"""Small images and bundles of them, and ways to spoil one."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hostplane.agent.bundle.limits import BLOCK
from hostplane.image.bundle import bundle
from hostplane.image.bundle.ocilayout import Opened, canonical

METADATA = bundle.Metadata(
    name="node",
    version="1.2~rc1",
    distro="some",
    release="9",
    arch="x86_64",
    created=1_700_000_000,
    root_fs="ext4",
    verity=bundle.Verity(root_hash="ab" * 32, hash_offset=4096, salt="00ff"),
    boot_arguments=("quiet", "mitigations=auto"),
    reachable_from=("1.1", "1.0.*"),
    state_versions={"containerd": "1.7.2", "kubelet": "1.34.1"},
    facts={"kernel": "6.1.0"},
)


def blocks(numbers: Sequence[int]) -> bytes:
    """An image of one block a number: 0 is zero, others are text that compresses, the negative ones do not."""
    return b"".join(_block(number) for number in numbers)


def _block(number: int) -> bytes:
    if number < 0:
        return random.Random(number).randbytes(BLOCK)
    return (b"block %d\n" % number * BLOCK)[:BLOCK] if number else bytes(BLOCK)


def write(directory: Path, root: bytes, boot: bytes = blocks([1, 0, 2]), **more: Any) -> bundle.BundleInfo:
    """The bundle `directory`/bundle of these two images."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in (("root.img", root), ("boot.img", boot)):
        (directory / name).write_bytes(content)
    for name in ("sbom", "licences"):
        more.setdefault(name, _json(directory / name, {"components": []}))
    more.setdefault("metadata", METADATA)
    more.setdefault("frame_bytes", 16 * BLOCK)
    return bundle.write(directory / "bundle", root=directory / "root.img", boot=directory / "boot.img", **more)


def _json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def tree(directory: Path) -> dict[str, bytes]:
    """Every file below, by its path."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def respell(opened: Opened, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as somebody who may write everything but holds no key, so that all digests fit again."""
    path = opened.layout.path(opened.manifest.digest)
    manifest = json.loads(path.read_bytes())
    change(manifest)
    raw = canonical(manifest)
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    opened.layout.path(digest).write_bytes(raw)
    descriptor = dict(opened.descriptor, digest=digest, size=len(raw))
    opened.layout.point(descriptor, opened.ref, None)


def replace_layer(opened: Opened, digest: str, raw: bytes) -> None:
    """Put other bytes in place of a layer, so that all digests fit again."""
    fresh = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    opened.layout.path(fresh).write_bytes(raw)

    def change(manifest: dict[str, Any]) -> None:
        for layer in manifest["layers"]:
            if layer["digest"] == digest:
                layer.update(digest=fresh, size=len(raw))

    respell(opened, change)
