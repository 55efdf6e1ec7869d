"""A host's Python, the oldest and the newest there is here, reads, verifies and unpacks a bundle by itself."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import hostplane
from hostplane.image.bundle import signing, trust
from hostplane.image.bundle.ocilayout import open_bundle
from tests.unit.agent.test_zipapp import interpreters
from tests.unit.image import bundle_play as play

READER = """
import hashlib, json, os, sys, time
from hostplane.agent.bundle import blockindex, frame, manifest, signature, trust
home, trusted = sys.argv[1:]
def blob(digest): return os.path.join(home, "blobs", "sha256", digest[7:])
def load(part, one):
    with open(blob(one.digest), "rb") as file: return manifest.check_blob(part, file.read(), one.size, one.digest)
with open(os.path.join(home, "oci-layout"), "rb") as file: manifest.parse_layout(file.read())
with open(os.path.join(home, "index.json"), "rb") as file: top = manifest.parse_index(file.read())
found = {}
for one in manifest.parse_index(load("index", top[0])):
    raw = load("manifest", one)
    found[manifest.artifact_type_of(raw)] = raw
read = manifest.parse_manifest(found[manifest.TYPE_BUNDLE])
subject, listed, _ = manifest.parse_signature_manifest(found[manifest.TYPE_SIGNATURES])
with open(trusted, "rb") as file: chain = trust.parse_chain(file.read())
keys = trust.load(chain, time.time(), signature.openssl_verify)
signatures = signature.parse_signatures(load("signatures", listed))
states = [one.state for one in trust.require(read.digest, signatures, keys, time.time(), signature.openssl_verify)]
metadata = manifest.parse_metadata(load("metadata", read.metadata))
good = {}
for name, (index, frames) in read.images.items():
    with open(blob(index.digest), "rb") as file, open(blob(frames.digest), "rb") as content:
        reader = blockindex.BlockIndex(file.read, index.size)
        stream = b"".join(frame.decode(one, content.read(one.stored)) for one in reader.frames())
        image = b""
        for run in reader.extents():
            size = run.length * 4096
            image += bytes(size) if run.op == blockindex.ZERO else stream[run.source * 4096 :][:size]
        reader.check()
    good[name] = hashlib.sha256(image).hexdigest() == metadata.images[name].sha256
print(json.dumps({"states": states, "good": good, "version": metadata.version}))
"""


@pytest.mark.parametrize("codec", ["xz", "deflate"])
@pytest.mark.parametrize("python", interpreters())
def test_a_hosts_python_needs_nothing_but_openssl(tmp_path: Path, python: str, codec: str) -> None:
    play.write(tmp_path, play.blocks([*range(1, 60), 0, 0, -1, -2, 3]), codec=codec)
    signing.generate(tmp_path / "key", tmp_path / "key.pub")
    signing.sign_bundle(tmp_path / "bundle", tmp_path / "key", key_id="ops")
    trust.create(tmp_path / "trusted", [("ops", tmp_path / "key.pub")])
    trust.sign_newest(tmp_path / "trusted", tmp_path / "key")
    done = subprocess.run(
        [python, "-c", READER, str(tmp_path / "bundle"), str(tmp_path / "trusted")],
        env={
            "PYTHONPATH": str(Path(hostplane.__file__).parents[1]),
            "PATH": "/usr/bin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    version = open_bundle(tmp_path / "bundle").metadata.version
    assert said == {"states": ["Good"], "good": {"boot": True, "root": True}, "version": version}
