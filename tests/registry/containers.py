"""Container images by hand: layers of a few files, for one machine or for several."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

_MEDIA = "application/vnd.oci.image."


def layer(files: dict[str, bytes], packed: bool = True, streams: int = 1) -> bytes:
    """A layer; with several gzip `streams` one after the other, as parallel packers write them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    raw = buffer.getvalue()
    step = len(raw) // streams + 1
    return b"".join(gzip.compress(raw[at : at + step]) for at in range(0, len(raw), step)) if packed else raw


def write_image(directory: Path, machines: dict[str, list[bytes]]) -> None:
    """An OCI layout tagged v1: an image for each machine, under an index when there are several."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def add(raw: bytes, media: str, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256(raw).hexdigest()
        (blobs / digest).write_bytes(raw)
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(raw), **more}

    images = []
    for machine, layers in machines.items():
        diffs = [f"sha256:{hashlib.sha256(_unpacked(one)).hexdigest()}" for one in layers]
        config = {"architecture": machine, "os": "linux", "rootfs": {"type": "layers", "diff_ids": diffs}}
        listed = [add(one, _MEDIA + "layer.v1.tar" + ("+gzip" if one[:2] == b"\x1f\x8b" else "")) for one in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MEDIA + "manifest.v1+json",
            "config": add(json.dumps(config).encode(), _MEDIA + "config.v1+json"),
            "layers": listed,
        }
        platform = {"architecture": machine, "os": "linux"}
        images.append(add(json.dumps(manifest).encode(), manifest["mediaType"], platform=platform))  # type: ignore[arg-type]
    index = {"schemaVersion": 2, "mediaType": _MEDIA + "index.v1+json", "manifests": images}
    top = add(json.dumps(index).encode(), index["mediaType"]) if len(images) > 1 else images[0]  # type: ignore[arg-type]
    top["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))


def _unpacked(raw: bytes) -> bytes:
    return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
