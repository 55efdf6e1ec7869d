"""The disk of a simulated host as an installer leaves it: two slots, the boot state, and the agent's configuration.

Everything a real host keeps on its disk lies below one directory, the host's root; nothing here runs.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import msgspec

from hostplane.agent.bootstate import BootState, render
from hostplane.errors import LocalError
from hostplane.local.image import Image

__all__ = ["SOCKET", "Release", "install", "read_release", "slot_path", "write_block"]

SOCKET = "run/hostplane/agent.sock"
_SOCKET_PATH_MAX = 107
_PADDING = 4096


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """What a slot's os-release says, and the file itself."""

    text: str
    pretty_name: str
    version_id: str


def slot_path(root: Path, slot: str) -> Path:
    """The file that stands for a slot's partition."""
    return root / "dev" / "hostplane" / f"ROOT-{slot}"


def install(root: Path, image: Image, **agent_settings: object) -> None:
    """Puts `image` into slot A, proven, leaves B empty; `agent_settings` go into etc/hostplane/agent.json as they are.

    Raises:
        LocalError: the path is too long for the agent's socket.
    """
    if len(os.fsencode(root / SOCKET)) > _SOCKET_PATH_MAX:
        raise LocalError("PathTooLong", path=root / SOCKET, limit=_SOCKET_PATH_MAX)
    for directory in ("dev/hostplane", "boot/hostplane", "etc/hostplane/checks.d", "var/lib/hostplane", "run", "proc"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    slot_path(root, "A").write_bytes(Path(image.path).read_bytes() + bytes(_PADDING))
    slot_path(root, "B").write_bytes(b"")
    block = render(BootState(seq=1, first="A", a_ok=True, a_left=0, b_ok=False, b_left=0))
    for copy in ("env2", "env1"):
        write_block(root / "boot" / "hostplane" / copy, block)
    installed = {"digest": image.digest, "version": image.version, "size": image.size}
    configuration = {"allowUnsignedTar": True, "installed": installed, **agent_settings}
    (root / "etc/hostplane/agent.json").write_bytes(msgspec.json.format(msgspec.json.encode(configuration), indent=2))


def write_block(path: Path, block: bytes) -> None:
    """Writes one copy of the boot state in place, as GRUB does: no truncation, no rename."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, block, 0)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def read_release(slot: Path) -> Release | None:
    """The os-release of the root tar in `slot`; None when it holds no complete tar or one without that file."""
    text = None
    try:
        with slot.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.name.removeprefix("./") == "usr/lib/os-release" and member.isfile():
                    content = tar.extractfile(member)
                    text = content.read(65536).decode("utf-8", "replace") if content else None
            file.seek(tar.offset)
            is_complete = file.read(512) == bytes(512)
    except (OSError, tarfile.TarError, EOFError):
        return None
    if text is None or not is_complete:
        return None
    fields = dict(line.partition("=")[::2] for line in text.splitlines())
    version = fields.get("VERSION_ID", "").strip("\"'")
    return Release(text=text, pretty_name=fields.get("PRETTY_NAME", "").strip("\"'"), version_id=version)
