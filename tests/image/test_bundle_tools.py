"""Tools that know nothing of Hostplane read and move a bundle; what arrives is the same, signatures included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hostplane.agent import gpt
from hostplane.image.bundle import signing, trust
from hostplane.image.bundle.inspection import inspect
from hostplane.image.bundle.ocilayout import open_bundle
from hostplane.image.bundle.unpack import verify
from tests.unit.image import bundle_play as play

SECONDS = 60


def run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A build's directory with a bundle that is not signed."""
    play.write(tmp_path / "out", play.blocks([*range(1, 90), *range(-40, -1)]))
    return tmp_path / "out"


@pytest.fixture
def trusted(out: Path, tmp_path: Path) -> Path:
    """The bundle is signed now; this is the trust file."""
    signing.generate(tmp_path / "key", tmp_path / "key.pub")
    signing.sign_bundle(out / "bundle", tmp_path / "key", key_id="ops")
    trust.create(tmp_path / "trusted", [("ops", tmp_path / "key.pub")])
    trust.sign_newest(tmp_path / "trusted", tmp_path / "key")
    return tmp_path / "trusted"


def test_skopeo_and_umoci_read_it(out: Path) -> None:
    said = json.loads(run("skopeo", "inspect", f"oci:{out}/bundle"))
    assert (said["Architecture"], said["Labels"]["org.opencontainers.image.version"]) == ("amd64", "1.2~rc1")
    assert said["Layers"] == [layer.digest for layer in open_bundle(out / "bundle").manifest.layers]
    assert run("umoci", "ls", "--layout", out / "bundle") == "1.2_rc1\n"
    run("umoci", "stat", "--image", f"{out}/bundle:1.2_rc1", "--json")


def test_a_copy_of_the_index_brings_the_signatures_along(out: Path, trusted: Path, tmp_path: Path) -> None:
    run("skopeo", "copy", "--quiet", "--all", f"oci:{out}/bundle", f"oci:{tmp_path}/copy:any")
    first, second = open_bundle(out / "bundle"), open_bundle(tmp_path / "copy")
    assert second.manifest == first.manifest
    verify(second)
    assert inspect(tmp_path / "copy", trust=trusted).signature_state == "Trusted"


def test_a_copy_of_the_bundle_alone_has_the_same_digest_and_no_signature(
    out: Path, trusted: Path, tmp_path: Path
) -> None:
    run("skopeo", "copy", "--quiet", f"oci:{out}/bundle", f"oci:{tmp_path}/copy:any")
    assert open_bundle(tmp_path / "copy").manifest == open_bundle(out / "bundle").manifest
    assert inspect(tmp_path / "copy", trust=trusted).signature_state == "Untrusted"
    signing.sign_bundle(tmp_path / "copy", tmp_path / "key", key_id="ops")
    assert inspect(tmp_path / "copy", trust=trusted).signature_state == "Trusted"


def test_frames_are_plain_files_of_their_codec(out: Path, tmp_path: Path) -> None:
    """A frame cut out by its place is what xz itself unpacks: nothing but common tools is needed to save the data."""
    from hostplane.agent.bundle.blockindex import BlockIndex

    opened = open_bundle(out / "bundle")
    index, blob = opened.manifest.images["root"]
    with opened.path(index).open("rb") as file:
        frame = next(one for one in BlockIndex(file.read, index.size).frames() if one.codec == 2)
    with opened.path(blob).open("rb") as file:
        file.seek(frame.offset)
        (tmp_path / "frame.xz").write_bytes(file.read(frame.stored))
    run("xz", "-d", tmp_path / "frame.xz")
    assert (tmp_path / "frame").stat().st_size == frame.raw


def test_a_raw_disk_tells_its_partitions_and_what_boot_a_says(tmp_path: Path) -> None:
    tree, disk = tmp_path / "boot", tmp_path / "disk.raw"
    tree.mkdir()
    (tree / "image.json").write_text('{"name": "node", "version": "1.2"}')
    (tree / "slot.cfg").write_text("set hp_title='node'\nset hp_args='console=ttyS0 quiet'\n")
    run("mke2fs", "-q", "-t", "ext4", "-O", "^metadata_csum", "-d", tree, tmp_path / "boot.img", "4M")
    kind = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
    part = gpt.Partition(4, kind, "11111111-2222-4333-8444-555555555555", 2048, 2048 + 8191, "BOOT-A")
    with disk.open("wb") as file:
        file.truncate(16 << 20)
        gpt.write_disk(file.fileno(), gpt.make("99999999-2222-4333-8444-555555555555", 16 << 20, (part,)))
        file.seek(1 << 20)
        file.write((tmp_path / "boot.img").read_bytes())
    found = inspect(disk)
    assert (found.kind, found.metadata) == ("disk", {"name": "node", "version": "1.2"})
    assert found.boot_arguments == ["console=ttyS0", "quiet"]
    assert [(one.name, one.offset, one.size) for one in found.partitions] == [("BOOT-A", 1 << 20, 4 << 20)]


PEAK = """
import sys
from pathlib import Path
from tests.unit.image import bundle_play as play
here = Path(sys.argv[1])
def write(name, previous=None):
    play.bundle.write(here / name, root=here / "root.img", boot=here / "boot.img", metadata=play.METADATA, codec="none",
                      sbom=here / "boot.img", licences=here / "boot.img", jobs=2, previous=previous)
write("first")
write("second", here / "first")
# Not getrusage: its peak is inherited from the process that forked, however large that was.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    piece = play.blocks([-1, -2, -3, -4])
    (tmp_path / "boot.img").write_bytes(piece)
    with (tmp_path / "root.img").open("wb") as file:
        for number in range(96 << 20 >> 14):
            file.write(number.to_bytes(4, "big") + piece[4:])
    done = run(sys.executable, "-c", PEAK, tmp_path)
    assert int(done) < 80 << 10, done  # KiB, less than the image
