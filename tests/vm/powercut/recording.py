"""Records what a machine writes: what `Machine(opened=...)` takes for a disk whose writes go to a log as well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

__all__ = ["recorded", "unreadable"]


def _quoted(path: Path) -> str:
    return str(path).replace(",", ",,")


def recorded(log: Path) -> Callable[[Path], str]:
    """Opens a raw disk so that every write is in `log` too, in sectors of 512 bytes. `log` is emptied."""
    log.write_bytes(b"")

    def opened(disk: Path) -> str:
        return (
            "driver=blklogwrites,log-sector-size=512"
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
