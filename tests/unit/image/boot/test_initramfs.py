"""An initramfs as its archives: early ones stay plain, the one at the end is unpacked or compressed, always alike."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hostplane import distros
from hostplane.errors import ImageError
from hostplane.image.boot import initramfs
from hostplane.image.boot.kernel import Kernel
from hostplane.image.recipe import Arch, Recipe
from hostplane.image.stage import Work


def _cpio(files: dict[str, bytes], pad: int = 512) -> bytes:
    """An archive as `cpio -H newc` writes it."""
    raw = b""
    for name, content in {**files, "TRAILER!!!": b""}.items():
        fields = [0] * 13
        fields[6], fields[11] = len(content), len(name) + 1
        raw += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        raw += bytes(-len(raw) % 4) + content
        raw += bytes(-len(raw) % 4)
    return raw + bytes(-len(raw) % pad)


_EARLY = _cpio({"kernel/x86/microcode/GenuineIntel.bin": b"\x1f\x8b microcode" * 100})
_MAIN = _cpio({"init": b"#!/bin/sh\n", "x/070701": b"070701" * 999})


def _work(tmp_path: Path) -> Work:
    def run(*_: object, **__: object) -> bytes:
        raise AssertionError("nothing is run")

    root = tmp_path / "root"
    root.mkdir()
    return Work(
        recipe=Recipe(name="x", version="1", distro="debian", release="12"),
        profile=distros.load("debian", "12", Arch.X86_64),
        root=root,
        out=tmp_path,
        scratch=tmp_path,
        cache=tmp_path,
        epoch=0,
        rootless=False,
        earlier={},
        run=run,
        log=print,
        progress=lambda done, what: None,
    )


@pytest.mark.parametrize("early", [b"", _EARLY, _EARLY + bytes(4096) + _EARLY])
@pytest.mark.parametrize("pack", [lambda raw: raw, gzip.compress])
def test_what_a_generator_made_is_stored_unpacked(tmp_path: Path, early: bytes, pack: object) -> None:
    assert callable(pack)
    made = tmp_path / "made"
    made.write_bytes(early + pack(_MAIN))
    initramfs._unpack(_work(tmp_path), made, tmp_path / "plain", tmp_path)
    assert (tmp_path / "plain").read_bytes() == early + _MAIN


@pytest.mark.parametrize("early", [b"", _EARLY])
def test_compressing_leaves_microcode_plain_and_is_the_same_every_time(tmp_path: Path, early: bytes) -> None:
    work, found, image = _work(tmp_path), Kernel("6.1", tmp_path / "vmlinuz"), tmp_path / "initrd.img"
    made = set()
    for _ in range(2):
        image.write_bytes(early + _MAIN)
        assert initramfs.compress(work, found, image) == "gzip"
        made.add(image.read_bytes())
    (raw,) = made
    assert raw.startswith(early)
    assert gzip.decompress(raw[len(early) :]) == _MAIN
    assert list(work.root.iterdir()) == [], "nothing stays in the root"


@pytest.mark.parametrize("raw", [b"", b"BZh91AY", _EARLY + b"LZIP"])
def test_what_is_no_initramfs_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "made").write_bytes(raw)
    with pytest.raises(ImageError) as caught:
        initramfs._unpack(_work(tmp_path), tmp_path / "made", tmp_path / "plain", tmp_path)
    assert caught.value.reason.name == "InitramfsUnreadable"
