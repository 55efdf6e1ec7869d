"""Signed bundles in memory and hosts that judge them: documents as the builder writes them, keys by real openssl."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostplane.agent.bundle import manifest as wire
from hostplane.agent.bundle.manifest import Descriptor
from hostplane.agent.bundle.signature import Signature
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.state import Image
from tests.unit.agent.bundle.keyring import body, entry, line, signature

METADATA: dict[str, Any] = {
    "schema": "1.0",
    "name": "node",
    "version": "2.0",
    "distro": "debian",
    "release": "12",
    "arch": "x86_64",
    "created": "2026-06-01T00:00:00Z",
    "images": {
        "boot": {"size": 4096, "sha256": "ab" * 32, "fs": "ext4", "verity": None},
        "root": {"size": 8192, "sha256": "cd" * 32, "fs": "ext4", "verity": None},
    },
    "bootArguments": [],
    "reachableFrom": [],
    "minimumVersion": None,
    "stateVersions": {"containerd": "1.7.2", "kubelet": "1.34.1"},
}
VERITY = {"rootHash": "ef" * 32, "hashOffset": 4096, "salt": "00ff"}


def raw(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def metadata(**changes: Any) -> dict[str, Any]:
    """METADATA with other top-level fields; `verity` goes to the root image."""
    said: dict[str, Any] = json.loads(json.dumps(METADATA))
    said["images"]["root"]["verity"] = changes.pop("verity", None)
    return {**said, **changes}


def manifest_of(document: bytes) -> dict[str, Any]:
    """A manifest that names `document` as its metadata; the other blobs are made up."""
    layers = [{"mediaType": wire.TYPE_METADATA, "digest": digest(document), "size": len(document)}]
    for name in wire.IMAGES:
        for type_ in (wire.TYPE_BLOCKINDEX, wire.TYPE_FRAMES):
            blob = (name + type_).encode()
            annotations = {wire.ANNOTATION_IMAGE: name}
            layers.append({"mediaType": type_, "digest": digest(blob), "size": 4096, "annotations": annotations})
    for type_ in (wire.TYPE_SBOM, wire.TYPE_LICENCES):
        layers.append({"mediaType": type_, "digest": digest(type_.encode()), "size": 1})
    return {
        "schemaVersion": 2,
        "mediaType": wire.MEDIA_MANIFEST,
        "artifactType": wire.TYPE_BUNDLE,
        "config": {"mediaType": wire.MEDIA_CONFIG, "digest": digest(b"{}"), "size": 2},
        "layers": layers,
        "annotations": {wire.ANNOTATION_SCHEMA: "1.0"},
    }


@functools.cache
def _signature(name: str, subject: str, expires: str) -> Signature:
    return signature(name, subject, expires=expires)


def signature_list(subject: str, *signers: str, expires: str = "", **more: Any) -> dict[str, Any]:
    """A list of signatures over `subject` by the keys of these names."""
    made = [_signature(name, subject, expires) for name in signers]
    listed = [
        {
            "keyId": one.key_id,
            "algorithm": one.algorithm,
            "expires": one.expires or None,
            "signature": base64.b64encode(one.value).decode(),
        }
        for one in made
    ]
    return {"schema": "1.0", "subject": subject, "signatures": listed, **more}


class Bundle:
    """What a host's fetching gives for one bundle: the documents that admission asks for, and what it asked for."""

    def __init__(self, document: dict[str, Any], *signers: str, expires: str = "") -> None:
        self.metadata_raw = raw(document)
        self.manifest_raw = raw(manifest_of(self.metadata_raw))
        self.digest = digest(self.manifest_raw)
        self.lists = [raw(signature_list(self.digest, *signers, expires=expires))] if signers else []
        self.version = document["version"]
        self.asked: list[str] = []

    @property
    def image(self) -> Image:
        return Image(format="bundle", ref="oci://registry/node", digest=self.digest, version=self.version)

    def signatures(self) -> list[bytes]:
        self.asked.append("signatures")
        return self.lists

    def manifest(self) -> bytes:
        self.asked.append("manifest")
        return self.manifest_raw

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        self.asked.append(descriptor.media_type)
        for at in range(0, len(self.metadata_raw), 100):
            yield self.metadata_raw[at : at + 100]


def made(*signers: str, expires: str = "", **changes: Any) -> Bundle:
    """A bundle of METADATA with `changes`, signed by these keys."""
    return Bundle(metadata(**changes), *signers, expires=expires)


def host(
    root: Path, *, keys: tuple[str, ...] = ("ops", "spare"), trust: bytes | None = None, **config: Any
) -> HostRoot:
    """A host in slot A of version 1.0, whose image trusts `keys`, or brings the trust file `trust`."""
    about = {"schema": "1.0", "name": "node", "version": "1.0", "arch": "x86_64"}
    put(root, "usr/lib/hostplane/image.json", raw(about))
    if trust is None and keys:
        trust = trust_file(keys)
    if trust:
        put(root, "usr/lib/hostplane/keys/trusted.json", trust)
    put(root, "proc/cmdline", b"quiet hostplane.slot=A\n")
    put(root, "etc/hostplane/agent.json", raw(config))
    (root / "var/lib/hostplane").mkdir(parents=True, exist_ok=True)
    return HostRoot(str(root))


@functools.cache
def trust_file(keys: tuple[str, ...], **more: Any) -> bytes:
    """A trust file of one version with `keys`, signed by all of them."""
    return line(body(1, *(entry(name) for name in keys), **more), *keys)


def record(root: Path, slot: str, **changes: Any) -> None:
    """What staging leaves on record of the image in `slot`."""
    bundle = made(**changes)
    documents = (("manifest", bundle.manifest_raw), ("metadata", bundle.metadata_raw), ("signatures", b"[]"))
    for name, content in documents:
        put(root, f"var/lib/hostplane/slots/{slot}/{name}.json", content)


def put(root: Path, name: str, content: bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
