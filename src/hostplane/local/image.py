"""Images for simulated hosts: tiny root tars, the same bytes for the same arguments, and a loopback server for them.

An image is an uncompressed tar whose usr/lib/os-release names it, plus filler so that a download takes a moment. A
broken one has no os-release: it is complete, its digest is right, and no boot loader can start it.
"""

from __future__ import annotations

import hashlib
import http.server
import io
import random
import re
import tarfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

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


class ImageServer:
    """Serves the files of one directory on a free loopback port, with ranges, from a thread of its own."""

    def __init__(self, directory: Path) -> None:
        root = directory

        class Handler(_Handler):
            directory = root

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    @property
    def url(self) -> str:
        """The base address, without a slash at its end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def address(self, image: Image) -> str:
        """Where `image` is served."""
        return f"{self.url}/{Path(image.path).name}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    directory: Path
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        path = self.directory / name
        if "/" in name or name.startswith(".") or not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        first, last = _range(self.headers.get("Range", ""), size)
        self.send_response(206 if self.headers.get("Range") and last >= first else 200)
        self.send_header("Content-Type", "application/x-tar")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        if self.headers.get("Range"):
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        with path.open("rb") as file:
            file.seek(first)
            left = last - first + 1
            while left > 0 and (piece := file.read(min(65536, left))):
                self.wfile.write(piece)
                left -= len(piece)

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the agents say what they fetch."""


def _range(header: str, size: int) -> tuple[int, int]:
    """First and last byte of a single range; the whole file for anything else."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", header.strip())
    if match and int(match[1]) < size:
        return int(match[1]), min(int(match[2]) if match[2] else size - 1, size - 1)
    return 0, size - 1
