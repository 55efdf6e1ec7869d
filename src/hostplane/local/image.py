"""Images for simulated hosts: tiny root tars, the same bytes for the same arguments, and a loopback server for them.

An image is an uncompressed tar whose usr/lib/os-release names it, plus filler so that a download takes a moment. A
broken one has no os-release: it is complete, its digest is right, and no boot loader can start it.
"""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from pathlib import Path

import msgspec

from hostplane.local.bundleserver import FileServer

__all__ = ["Image", "ImageServer", "os_release", "root_tar", "write_image"]

DISTRO = "Demo OS"


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One image on this machine: what a Host's spec.image needs, but for where it is served."""

    path: str
    version: str
    digest: str
    size: int
    pretty_name: str


def os_release(version: str, pretty_name: str) -> str:
    """The file that names an operating system."""
    return f'NAME="{DISTRO}"\nID=demo\nVERSION_ID="{version}"\nPRETTY_NAME="{pretty_name}"\n'


def root_tar(version: str, *, pretty_name: str = "", filler_bytes: int = 256 * 1024, boots: bool = True) -> bytes:
    """The bytes of a root tar; a function of its arguments alone. `boots=False` leaves the os-release out."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for directory in ("etc", "usr", "usr/lib", "usr/share"):
            member = tarfile.TarInfo(directory)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        if boots:
            _add(tar, "usr/lib/os-release", os_release(version, pretty_name or f"{DISTRO} {version}").encode())
        _add(tar, "usr/share/filler", random.Random(version).randbytes(filler_bytes))
    return raw.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    tar.addfile(member, io.BytesIO(content))


def write_image(
    directory: Path, version: str, *, pretty_name: str = "", filler_bytes: int = 256 * 1024, boots: bool = True
) -> Image:
    """Writes `directory`/`version`.tar and says what it is."""
    content = root_tar(version, pretty_name=pretty_name, filler_bytes=filler_bytes, boots=boots)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{version}.tar"
    path.write_bytes(content)
    return Image(
        path=str(path),
        version=version,
        digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
        size=len(content),
        pretty_name=pretty_name or f"{DISTRO} {version}",
    )


class ImageServer(FileServer):
    """Serves the files of one directory."""

    def __init__(self, directory: Path) -> None:
        def find(path: str) -> Path | None:
            name = path.removeprefix("/")
            return None if "/" in name or name.startswith(".") else directory / name

        super().__init__(find)

    @property
    def url(self) -> str:
        """The base address, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def address(self, image: Image) -> str:
        """Where `image` is served."""
        return f"{self.url}/{Path(image.path).name}"
