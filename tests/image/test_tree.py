"""Trees that others made arrive whole, and nothing of an archive reaches outside the root."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import stat
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard

from hostplane.distros import load
from hostplane.errors import HostplaneError, ImageError
from hostplane.image.backends import tree
from hostplane.image.building.tools import require
from hostplane.image.recipe import Backend, Packages, Recipe
from hostplane.image.root import ocitree
from hostplane.image.root.posixacl import binary_acl
from hostplane.image.root.untar import Unpacker
from tests.image.tiny import Tiny

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners and capabilities are set by root alone")


def _member(name: str, content: bytes | None = b"", **facts: object) -> tuple[tarfile.TarInfo, bytes | None]:
    info = tarfile.TarInfo(name)
    info.uid, info.gid = os.geteuid(), os.getegid()
    info.mode, info.mtime = 0o644, 1717200000
    for key, value in facts.items():
        setattr(info, key, value)
    info.size = len(content or b"")
    return info, content


def _folder(name: str) -> tuple[tarfile.TarInfo, bytes | None]:
    return _member(name, None, type=tarfile.DIRTYPE, mode=0o755)


def _link(name: str, goal: str, *, hard: bool = False) -> tuple[tarfile.TarInfo, bytes | None]:
    return _member(name, None, type=tarfile.LNKTYPE if hard else tarfile.SYMTYPE, linkname=goal)


def _tar(*members: tuple[tarfile.TarInfo, bytes | None]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content) if content is not None else None)
    return raw.getvalue()


def _unpacked(tmp_path: Path, *layers: bytes, whiteouts: bool = True) -> Path:
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    unpacker = Unpacker(root)
    for number, layer in enumerate(layers):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(layer)
        unpacker.layer(path, whiteouts=whiteouts)
    return root


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, lzma.compress, bz2.compress, zstandard.ZstdCompressor().compress],
    ids=["plain", "gzip", "xz", "bzip2", "zstd"],
)
def test_a_tar_is_unpacked_however_it_is_compressed(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    raw = _tar(_folder("./etc"), _member("./etc/motd", b"hello"), _link("./lib", "usr/lib"))
    root = _unpacked(tmp_path, compress(raw), whiteouts=False)
    assert (root / "etc/motd").read_bytes() == b"hello"
    assert (root / "lib").readlink() == Path("usr/lib")
    assert (root / "etc/motd").stat().st_mtime == (root / "etc").stat().st_mtime == 1717200000


@needs_root
def test_owners_modes_attributes_acls_and_capabilities_arrive(tmp_path: Path) -> None:
    headers = {
        "SCHILY.xattr.user.note": "value",
        "SCHILY.xattr.security.capability": CAPABILITY.decode("utf-8", "surrogateescape"),
    }
    acl = {"SCHILY.acl.access": "user::rw-,user:1234:r--,group::r--,mask::r--,other::---"}
    root = _unpacked(
        tmp_path,
        _tar(
            _member("bin/ping", b"x", mode=0o4755, uid=12, gid=34, pax_headers=headers),
            _member("etc/secret", b"y", mode=0o640, pax_headers=acl),
            _link("bin/other", "bin/ping", hard=True),
            _member("run/pipe", None, type=tarfile.FIFOTYPE, mode=0o600),
        ),
    )
    facts = (root / "bin/ping").stat()
    assert (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode), facts.st_nlink) == (12, 34, 0o4755, 2)
    assert os.getxattr(root / "bin/ping", "user.note") == b"value"
    assert os.getxattr(root / "bin/ping", "security.capability") == CAPABILITY
    said = subprocess.run(["getfacl", "-pcn", str(root / "etc/secret")], capture_output=True, text=True, check=True)
    assert "user:1234:r--" in said.stdout
    assert stat.S_ISFIFO((root / "run/pipe").lstat().st_mode)


@needs_root
def test_what_gnu_tar_wrote_is_what_gnu_tar_would_read(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "etc").mkdir(parents=True)
    (source / "etc/a").write_text("a")
    subprocess.run(["setfacl", "-m", "u:4321:rw", str(source / "etc/a")], check=True)
    subprocess.run(["setfacl", "-d", "-m", "g:99:rx", str(source / "etc")], check=True)
    os.setxattr(source / "etc/a", "security.capability", CAPABILITY)
    archive = tmp_path / "0.tar"
    words = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--format=pax"]
    subprocess.run(["tar", "-C", str(source), "-cf", str(archive), *words, "."], check=True)
    root = tmp_path / "root"
    root.mkdir()
    Unpacker(root).layer(archive, whiteouts=False)
    for name, attributes in {"etc/a": ("posix_acl_access",), "etc": ("posix_acl_access", "posix_acl_default")}.items():
        for attribute in (f"system.{each}" for each in attributes if f"system.{each}" in os.listxattr(source / name)):
            assert os.getxattr(root / name, attribute) == os.getxattr(source / name, attribute), (name, attribute)
    assert os.getxattr(root / "etc/a", "security.capability") == CAPABILITY


ESCAPES = {
    "dots": [_member("../evil", b"x")],
    "dots inside": [_member("usr/../../evil", b"x")],
    "through a link": [_link("up", "../.."), _member("up/evil", b"x")],
    "through a far link": [_folder("a"), _link("a/up", "../../../tmp"), _member("a/up/evil", b"x")],
    "through a loop": [_link("a", "b"), _link("b", "a"), _member("a/evil", b"x")],
    "hard link": [_link("evil", "../../etc/passwd", hard=True)],
}


@pytest.mark.parametrize("members", ESCAPES.values(), ids=ESCAPES.keys())
def test_what_would_climb_out_is_refused(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes | None]]) -> None:
    with pytest.raises(ImageError, match="HP-8131"):
        _unpacked(tmp_path, _tar(*members))
    assert not list(tmp_path.rglob("evil"))
    assert not (tmp_path.parent / "evil").exists()


def test_an_absolute_link_means_the_image_s_own_place(tmp_path: Path) -> None:
    root = _unpacked(tmp_path, _tar(_folder("run"), _link("var-run", "/run"), _member("var-run/here", b"x")))
    assert (root / "run/here").read_bytes() == b"x"


def test_an_absolute_name_lands_inside(tmp_path: Path) -> None:
    root = _unpacked(tmp_path, _tar(_member("/etc/hostplane-test", b"x")))
    assert (root / "etc/hostplane-test").exists()
    assert not Path("/etc/hostplane-test").exists()


def test_a_file_never_writes_through_a_link_of_its_own_name(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    root = _unpacked(tmp_path, _tar(_link("file", str(outside)), _member("file", b"new")))
    assert outside.read_text() == "untouched"
    assert (root / "file").read_bytes() == b"new"


def test_a_hard_link_to_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"HP-8133.*bin/other"):
        _unpacked(tmp_path, _tar(_link("bin/other", "bin/missing", hard=True)))


@pytest.mark.parametrize("cut", [0.3, 0.7])
def test_a_cut_archive_is_refused(tmp_path: Path, cut: float) -> None:
    whole = gzip.compress(_tar(_member("a", os.urandom(200_000)), _member("b", os.urandom(200_000))))
    with pytest.raises(ImageError, match="HP-8132"):
        _unpacked(tmp_path, whole[: int(len(whole) * cut)])


def test_devices_are_left_out(tmp_path: Path) -> None:
    root = _unpacked(tmp_path, _tar(_member("dev/sda", None, type=tarfile.BLKTYPE), _member("dev/note", b"x")))
    assert [path.name for path in (root / "dev").iterdir()] == ["note"]


def test_whiteouts_take_away_what_lower_layers_brought(tmp_path: Path) -> None:
    lower = _tar(_member("a/one", b"1"), _member("a/two", b"2"), _member("b/three", b"3"), _member("c", b"4"))
    upper = _tar(
        _member("a/.wh.one"),
        _member("b/new", b"5"),
        _member("b/.wh..wh..opq"),
        _member(".wh.c"),
        _member("c/now/a/folder", b"6"),
    )
    root = _unpacked(tmp_path, lower, upper)
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert files == ["a/two", "b/new", "c/now/a/folder"]


def test_acl_words_become_the_kernel_s_bytes(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("alice:x:77:77::/:/bin/sh\n")
    made = binary_acl("user::rwx\nuser:alice:r-x\nuser:nobody-knows:rwx\ngroup::r--\nmask::r-x\nother::---\n", tmp_path)
    entries = [struct.unpack_from("<HHI", made, at) for at in range(4, len(made), 8)]
    assert entries == [(1, 7, 0xFFFFFFFF), (2, 5, 77), (4, 4, 0xFFFFFFFF), (16, 5, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]


def _layout(here: Path, layers: list[bytes], *, tag: str = "1.0", arch: str = "amd64") -> Path:
    blobs = here / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(raw: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(raw).hexdigest()
        (blobs / digest).write_bytes(raw)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(raw)}

    manifest = {
        "schemaVersion": 2,
        "config": put(json.dumps({"architecture": arch}).encode(), "config.v1+json"),
        "layers": [put(layer, "layer.v1.tar+gzip") for layer in layers],
    }
    entry = put(json.dumps(manifest).encode(), "manifest.v1+json")
    entry |= {
        "annotations": {"org.opencontainers.image.ref.name": tag},
        "platform": {"architecture": arch, "os": "linux"},
    }
    index = here / "index.json"
    entries = json.loads(index.read_text())["manifests"] if index.exists() else []
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*entries, entry]}))
    (here / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return here


def test_an_image_is_found_by_its_tag_and_architecture(tmp_path: Path) -> None:
    layout = _layout(tmp_path / "oci", [gzip.compress(_tar(_member("a", b"1")))])
    _layout(layout, [gzip.compress(_tar(_member("a", b"2")))], tag="2.0")
    _layout(layout, [gzip.compress(_tar(_member("a", b"3")))], tag="2.0", arch="arm64")
    assert len(ocitree.layers(layout, "1.0", "x86_64")) == 1
    digests = {ocitree.manifest_digest(layout, "2.0", arch) for arch in ("x86_64", "aarch64")}
    assert len(digests) == 2
    with pytest.raises(ImageError, match=r"HP-8137.*1\.0, 2\.0"):
        ocitree.layers(layout, "", "x86_64")
    with pytest.raises(ImageError, match="HP-8137"):
        ocitree.layers(layout, "3.0", "x86_64")


def test_a_layer_that_is_not_what_the_manifest_names_is_refused(tmp_path: Path) -> None:
    layout = _layout(tmp_path / "oci", [gzip.compress(_tar(_member("a", b"1")))])
    path = ocitree.layers(layout, "", "x86_64")[0]
    path.write_bytes(gzip.compress(_tar(_member("a", b"other"))))
    with pytest.raises(ImageError, match="HP-8139"):
        ocitree.layers(layout, "", "x86_64")


def test_a_layout_of_another_tool_is_read(tmp_path: Path) -> None:
    require("umoci")
    layout = tmp_path / "made"
    image, bundle = f"{layout}:tag", tmp_path / "bundle"

    def umoci(*words: str) -> None:
        subprocess.run(["umoci", *words], check=True, capture_output=True, timeout=60)

    umoci("init", "--layout", str(layout))
    umoci("new", "--image", image)
    umoci("unpack", "--rootless", "--image", image, str(bundle))
    (bundle / "rootfs/opt").mkdir()
    (bundle / "rootfs/opt/file").write_text("from umoci")
    umoci("repack", "--image", image, str(bundle))
    root = tmp_path / "root"
    root.mkdir()
    unpacker = Unpacker(root)
    for layer in ocitree.layers(layout, "tag", "x86_64"):
        unpacker.layer(layer, whiteouts=True)
    assert (root / "opt/file").read_text() == "from umoci"


def _recipe(source: Path | str) -> Recipe:
    packages = Packages(backend=Backend.TREE, source=str(source), defaults=False, kernel=False)
    return Recipe(name="t", version="1", distro="debian", release="12", packages=packages)


@pytest.mark.parametrize("kind", ["directory", "tar", "layout"])
def test_the_key_follows_the_content_and_not_the_place(tmp_path: Path, kind: str) -> None:
    profile = load("debian", "12", "x86_64")

    def made(name: str, content: bytes) -> Path:
        place = tmp_path / name
        if kind == "directory":
            place.mkdir()
            (place / "a").write_bytes(content)
        elif kind == "tar":
            place.write_bytes(_tar(_member("a", content)))
        else:
            _layout(place, [gzip.compress(_tar(_member("a", content)), mtime=0)])
        return place

    one, same, other = (
        tree.inputs_bootstrap(_recipe(made(name, content)), profile)
        for name, content in (("one", b"1"), ("same", b"1"), ("other", b"2"))
    )
    assert one == same != other


def test_there_is_nothing_to_lock(tmp_path: Path) -> None:
    nowhere = SimpleNamespace(cache=tmp_path, scratch=tmp_path)
    with pytest.raises(HostplaneError, match="HP-8136"):
        tree.lock(_recipe(tmp_path), load("debian", "12", "x86_64"), run=None, **vars(nowhere))  # type: ignore[arg-type]  # not reached


@pytest.mark.parametrize("form", ["tar", "layout"])
def test_a_tree_is_built_from_its_archive(tiny: Tiny, form: str) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        archive.add(tiny.here / "root", arcname=".")
    if form == "tar":
        (tiny.here / "root.tar.gz").write_bytes(raw.getvalue())
        source = str(tiny.here / "root.tar.gz")
    else:
        _layout(tiny.here / "image", [raw.getvalue()])
        source = f"{tiny.here}/image:1.0"
    tiny.build("--until", "packages", "--set", f"packages.source={source}")
    said = json.loads((tiny.store / "recipes/tiny/bootstrap.json").read_text())
    built = tiny.store / "layers" / said["key"] / "tree"
    assert (built / "bin").exists()
    assert {"proc", "sys", "dev", "run", "tmp", "boot"} <= {path.name for path in built.iterdir()}
