"""A host's Python, the oldest and the newest there is here, judges a bundle and makes a slot of a tar by itself."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

import hostplane
from hostplane.agent.payload import installed
from tests.unit.agent.payload import signed
from tests.unit.agent.payload.test_tarroot import Disk, _has_loop, os_tar
from tests.unit.agent.payload.test_untar import info
from tests.unit.agent.test_zipapp import interpreters

JUDGE = """
import json, sys
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.payload import admission, statecheck, truststore
from hostplane.agent.state import Image
from hostplane.errors import HostError
class Source(object):
    def __init__(self, where):
        self.where = where
    def read(self, name):
        with open(self.where + "/" + name, "rb") as file: return file.read()
    def signatures(self): return [self.read("signatures")]
    def manifest(self): return self.read("manifest")
    def blob(self, descriptor): return iter((self.read("metadata"),))
root, digest = HostRoot(sys.argv[1]), sys.argv[2]
admitted = admission.admit(root, Image(format="bundle", digest=digest, version="2.0"), Source(sys.argv[3]), "1.0")
admission.committed(root, admitted.metadata)
said = [admitted.metadata.version, admission.floor_of(root), truststore.trusted(root, 2e9).version]
try:
    admission.admit(root, Image(format="bundle", digest="sha256:" + "0" * 64), Source(sys.argv[3]), "1.0")
except HostError as fault:
    said.append(fault.name)
print(json.dumps(said + [statecheck.read_stamp(root)["kubelet"], admission.broken_seal(root)]))
"""

INSTALL = """
import json, sys
from hostplane.agent.disk.partitions import Partition, Partitions
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.payload import tarroot
from hostplane.agent.state import Image
found = {label: Partition(label, path, 1 << 40) for label, path in json.loads(sys.argv[2]).items()}
with open(sys.argv[3], "rb") as file:
    pieces = iter(lambda: file.read(65536), b"")
    image = Image(format="osTar", digest=sys.argv[4], version="2.0")
    print(tarroot.install(HostRoot(sys.argv[1]), Partitions("disk", "A", found), "B", pieces, image))
"""


def run(python: str, code: str, *words: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(Path(hostplane.__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, "-c", code, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("python", interpreters())
def test_every_python_judges_alike(tmp_path: Path, python: str) -> None:
    bundle = signed.made("ops", minimumVersion="1.5")
    signed.host(tmp_path)
    for name, content in (
        ("manifest", bundle.manifest_raw),
        ("metadata", bundle.metadata_raw),
        ("signatures", bundle.lists[0]),
    ):
        signed.put(tmp_path, "bundle/" + name, content)
    said = run(python, JUDGE, str(tmp_path), bundle.digest, str(tmp_path / "bundle"))
    assert said == ["2.0", "1.5", 1, "BundleUnsigned", "1.34.1", ""]
    assert installed.read(signed.host(tmp_path)).digest == ""


@pytest.mark.skipif(not _has_loop(), reason="mounting needs root and loop devices")
@pytest.mark.parametrize("python", interpreters())
def test_every_python_makes_a_slot_of_a_tar(tmp_path: Path, python: str) -> None:
    name = "usr/share/naïve-日本 " + "n" * 120
    tar = os_tar(
        (info(name, pax_headers={"SCHILY.xattr.user.note": "ä"}), b"x"), info("l", tarfile.SYMTYPE, linkname="ö")
    )
    path = signed.put(tmp_path, "os.tar", tar)
    digest = "sha256:" + hashlib.sha256(tar).hexdigest()
    with contextlib.closing(Disk(tmp_path)) as disk:
        size = run(python, INSTALL, disk.host.root, json.dumps(disk.loops), str(path), digest)
        assert size == len(tar)
        with disk.seen("ROOT-B") as tree:
            assert (tree / name).read_bytes() == b"x"
            assert os.getxattr(tree / name, "user.note") == "ä".encode()
            assert os.readlink(tree / "l") == "ö"
        assert "slot.cfg" in disk.boots()
