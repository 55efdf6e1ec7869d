"""Layers between a machine and its disk, for `Machine(opened=...)`: a log of all writes, sectors that fail or lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

__all__ = ["recorded", "unreadable", "worn"]


def _quoted(path: Path) -> str:
    return str(path).replace(",", ",,")


def recorded(log: Path) -> Callable[[Path], str]:
    """Opens a raw disk so that every write is in `log` too, in sectors of 512 bytes.

    `log` is emptied now; a disk that is opened again goes on in it.
    """
    log.write_bytes(b"")

    def opened(disk: Path) -> str:
        return (
            f"driver=blklogwrites,{'log-append=on' if log.stat().st_size else 'log-sector-size=512'}"
            f",file.driver=raw,file.file.driver=file,file.file.filename={_quoted(disk)}"
            f",log.driver=raw,log.file.driver=file,log.file.filename={_quoted(log)}"
        )

    return opened


def unreadable(config: Path, first: int, sectors: int) -> Callable[[Path], str]:
    """Opens a raw disk of which `sectors` sectors of 512 bytes from `first` on give an input/output error when read.

    Args:
        config: where QEMU is told so; written here.
    """
    rules = (
        f'[inject-error]\nevent = "none"\niotype = "read"\nerrno = "5"\nonce = "off"\nsector = "{first + number}"\n'
        for number in range(sectors)
    )
    config.write_text("\n".join(rules))

    def opened(disk: Path) -> str:
        return (
            f"driver=blkdebug,config={_quoted(config)}"
            f",image.driver=raw,image.file.driver=file,image.file.filename={_quoted(disk)}"
        )

    return opened


def worn(description: Path, at: int, twin: int, size: int = 4096) -> Callable[[Path], str]:
    """Opens a raw disk on which the `size` bytes at `at` are the same cells as those at `twin`: one write changes both.

    Args:
        description: where QEMU is told so (a VMDK of several extents); written here.
    """

    def opened(disk: Path) -> str:
        total = disk.stat().st_size
        extents = ((0, at, 0), (at, size, twin), (at + size, total - at - size, at + size))
        lines = "".join(f'RW {length // 512} FLAT "{disk}" {start // 512}\n' for _, length, start in extents)
        head = '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="twoGbMaxExtentFlat"\n\n'
        description.write_text(f'{head}{lines}\nddb.adapterType = "ide"\n')
        return f"driver=vmdk,file.driver=file,file.filename={_quoted(description)}"

    return opened
