"""The initramfs of an image, made once by the root's own generator: for any host, the same bytes every time.

The generator's own ways are slow and wide (every network driver, or only this machine's): which modules go in is
decided here (data/initramfs/modules.toml, the recipe), the generator brings the rest. One that insists on compressing
is given the fastest way and undone, since an upgrade fetches much less of an initramfs that is stored uncompressed, its
files on block boundaries as they are in the root; where BOOT lacks the room, it is compressed again at the end,
reproducibly.
"""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hostplane.errors import ImageError
from hostplane.image.boot import kernel
from hostplane.image.boot.aligned import align
from hostplane.image.boot.kernel import Kernel
from hostplane.image.boot.kernelmodules import module_name
from hostplane.image.root.rootpath import within
from hostplane.image.stage import Work

__all__ = ["compress", "make"]

_PLACE = "/.hostplane-initramfs"
_CHUNK = 1 << 20
_CPIO, _HEADER = (b"070701", b"070702"), 110
_HOOK = """#!/bin/sh
case ${1:-} in
prereqs)
	exit 0
	;;
esac
cd / && xargs -r cp -p --parents -t "${DESTDIR:?}" <"${CONFDIR:?}/hostplane.files"
"""
_OMITTED = "network kernel-network-modules nfs iscsi lvm mdraid multipath crypt plymouth resume"


def make(work: Work, found: Kernel, target: Path) -> None:
    """Write the initramfs for `found` to `target`, its archives uncompressed.

    Raises:
        ImageError: ModuleMissing, InitramfsToolMissing, InitramfsUnreadable, ToolFailed.
    """
    directory = within(work.root, f"/lib/modules/{found.version}")
    if not (directory / "modules.dep").is_file():
        work.run(["depmod", found.version], chroot=True)
    paths = kernel.boot_modules(directory, work.recipe.boot.modules)
    with _place(work.root) as place:
        if work.profile.initramfs == "dracut":
            _dracut(work, found, paths)
        else:
            _initramfs_tools(work, found, place, paths)
        _unpack(work, place / "out", target, place)
    align(target)


@contextmanager
def _place(root: Path) -> Iterator[Path]:
    """A directory of the root for the generator's files, for as long as the block runs."""
    place = root / _PLACE.lstrip("/")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o755)
    (place / "tmp").mkdir(mode=0o1777)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _environment(work: Work) -> dict[str, str]:
    return {"SOURCE_DATE_EPOCH": str(work.epoch), "TMPDIR": f"{_PLACE}/tmp"}


def _initramfs_tools(work: Work, found: Kernel, place: Path, paths: list[str]) -> None:
    """mkinitramfs with a copy of the root's own configuration, to which the list of files is added as a hook."""
    _need(work, "/usr/sbin/mkinitramfs")
    conf = place / "conf"
    shutil.copytree(within(work.root, "/etc/initramfs-tools"), conf, symlinks=True)
    with (conf / "initramfs.conf").open("a", encoding="utf-8") as text:
        text.write("\nMODULES=list\nRESUME=none\nKEYMAP=n\n")
    files = [*(f"lib/modules/{found.version}/{path}" for path in paths), *_firmware(work, found, paths)]
    (conf / "hostplane.files").write_text("\n".join(files) + "\n", "utf-8")
    hook = conf / "hooks" / "hostplane-files"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(_HOOK, "utf-8")
    hook.chmod(0o755)
    codec = _fast_codec(work, found)
    command = ["mkinitramfs", "-d", f"{_PLACE}/conf", "-c", codec, "-l", "1", "-o", f"{_PLACE}/out", found.version]
    work.run(command, chroot=True, env=_environment(work))


def _dracut(work: Work, found: Kernel, paths: list[str]) -> None:
    """dracut, told which drivers to take instead of searching for them."""
    _need(work, "/usr/bin/dracut")
    names = " ".join(module_name(path) for path in paths)
    command = ["dracut", "--force", "--no-hostonly", "--no-compress", "--kver", found.version, "--omit", _OMITTED]
    if b"--reproducible" in within(work.root, "/usr/bin/dracut").read_bytes():  # a script, whose --help exits with 1
        command.append("--reproducible")
    work.run([*command, "--drivers", names, f"{_PLACE}/out"], chroot=True, env=_environment(work))


def _need(work: Work, tool: str) -> None:
    if not within(work.root, tool).exists():
        raise ImageError("InitramfsToolMissing", tool=tool, generator=work.profile.initramfs)


def _supports(root: Path, found: Kernel, codec: str) -> bool:
    """Whether the kernel unpacks that; no when its configuration is not in the root."""
    for place in (f"/boot/config-{found.version}", f"/lib/modules/{found.version}/config"):
        config = within(root, place)
        if config.is_file():
            return f"\nCONFIG_RD_{codec}=y\n" in config.read_text("utf-8", "replace")
    return False


def _firmware(work: Work, found: Kernel, paths: list[str]) -> list[str]:
    """Firmware that modules ask for and the root has, relative to the root."""
    names = [module_name(path) for path in paths]
    asked = work.run(["modinfo", "-k", found.version, "-F", "firmware", *names], chroot=True) if names else b""
    files = []
    for name in sorted({*asked.decode("ascii", "replace").split()}):
        for place in (f"lib/firmware/updates/{name}", f"lib/firmware/{name}"):
            files += [f"{place}{end}" for end in ("", ".xz", ".zst") if within(work.root, f"{place}{end}").is_file()]
    return files


def _unpack(work: Work, made: Path, target: Path, place: Path) -> None:
    """Copy `made` to `target`, with the archive at its end uncompressed."""
    with made.open("rb") as source, target.open("wb") as whole:
        start = _archives(source)[-1]
        source.seek(0)
        _copy(source, whole, start)
        magic = source.read(6)
        source.seek(start)
        if magic in _CPIO:
            shutil.copyfileobj(source, whole, _CHUNK)
        elif magic.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=source) as plain:
                shutil.copyfileobj(plain, whole, _CHUNK)
        elif magic.startswith(b"\x28\xb5\x2f\xfd"):
            with (place / "packed").open("wb") as packed:
                shutil.copyfileobj(source, packed, _CHUNK)
            work.run(["zstd", "-q", "-d", f"{_PLACE}/packed", "-o", f"{_PLACE}/plain"], chroot=True)
            with (place / "plain").open("rb") as plain:
                shutil.copyfileobj(plain, whole, _CHUNK)
        else:
            raise ImageError("InitramfsUnreadable", generator=work.profile.initramfs)


def compress(work: Work, found: Kernel, image: Path) -> str:
    """Compress the archive at the end of `image` in place; what comes before it (microcode) the kernel wants plain.

    Returns:
        The codec: zstd where root and kernel have it, else gzip.
    """
    packed = image.with_name(f"{image.name}.packed")
    with image.open("rb") as source, packed.open("wb") as whole, _place(work.root) as place:
        start = _archives(source)[-1]
        source.seek(0)
        _copy(source, whole, start)
        codec = _fast_codec(work, found)
        if codec == "zstd":
            with (place / "plain").open("wb") as plain:
                shutil.copyfileobj(source, plain, _CHUNK)
            work.run(["zstd", "-q", "-12", f"{_PLACE}/plain", "-o", f"{_PLACE}/packed"], chroot=True)
            with (place / "packed").open("rb") as made:
                shutil.copyfileobj(made, whole, _CHUNK)
        else:
            with gzip.GzipFile("", "wb", 9, fileobj=whole, mtime=0) as stream:
                shutil.copyfileobj(source, stream, _CHUNK)
    packed.replace(image)
    return codec


def _fast_codec(work: Work, found: Kernel) -> str:
    has_zstd = within(work.root, "/usr/bin/zstd").exists() and _supports(work.root, found, "ZSTD")
    return "zstd" if has_zstd else "gzip"


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> None:
    while size:
        chunk = source.read(min(size, _CHUNK))
        target.write(chunk)
        size -= len(chunk)


def _archives(image: BinaryIO) -> list[int]:
    """Where the archives in `image` begin; all but the last are plain cpio."""
    starts, at, end = [0], 0, image.seek(0, os.SEEK_END)
    while True:
        image.seek(at)
        head = image.read(_HEADER)
        if head[:6] not in _CPIO:
            return starts
        size, name_size = int(head[54:62], 16), int(head[94:102], 16)
        name = image.read(name_size).rstrip(b"\0")
        at = _aligned(at + _HEADER + name_size) + _aligned(size)
        if name == b"TRAILER!!!":
            while at < end:  # zeros up to the next archive, or to the end
                image.seek(at)
                chunk = image.read(_CHUNK)
                zeros = len(chunk) - len(chunk.lstrip(b"\0"))
                at += zeros
                if zeros < len(chunk):
                    break
            if at >= end:
                return starts
            starts.append(at)


def _aligned(offset: int) -> int:
    return -(-offset // 4) * 4
