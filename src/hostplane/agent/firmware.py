"""Versions of what starts the disk: shim, GRUB, and the ESP that holds them.

An upgrade never touches them, so nobody would notice how old they grow. Signed programs carry their version in a
section of their own (.sbat), others somewhere in their text; a GRUB for a BIOS is packed, so the disk's builder wrote
its version down. What the ESP really holds is read once a boot; where it cannot be read, the builder's word stands.
"""

import json
import os
import re
import struct
from typing import Dict, Iterable, Optional

from hostplane.agent import fat
from hostplane.agent.hostroot import HostRoot

__all__ = ["RECORD", "found_in", "grub_version", "read", "refresh"]

RECORD = "boot/hostplane/installed/firmware.json"
"""What the builder of the disk wrote: {"schema", "shim", "grub", "esp"}."""
_ESP = "dev/hostplane/ESP"
_SEEN = "run/hostplane/firmware.json"
_NAMES = ("shim", "grub", "esp")
_TEXT = {
    "shim": re.compile(rb"\$Version: ([0-9][0-9A-Za-z.+~-]{0,40}) \$"),
    "grub": re.compile(rb"\x00(2\.[0-9]{2}[0-9A-Za-z.+~-]{0,40})\x00"),
}
_LARGEST = 16 << 20


def found_in(programs: Iterable[bytes]) -> Dict[str, str]:
    """Versions of shim and GRUB among these EFI programs, as far as they tell."""
    found: Dict[str, str] = {}
    for program in programs:
        listed = _sbat(program)
        for name in ("shim", "grub"):
            version = listed.get(name) or ("" if listed else _in_text(name, program))
            if version:
                found.setdefault(name, version)
    return found


def grub_version(module: bytes) -> str:
    """The version in GRUB's normal.mod; empty where it has none."""
    return _in_text("grub", module)


def read(host: HostRoot) -> Dict[str, str]:
    """What is known: the builder's word, and over it what was seen on this boot. Empty strings are left out."""
    known: Dict[str, str] = {}
    for name in (RECORD, _SEEN):
        try:
            with open(host.path(name), "rb") as file:
                said = json.loads(file.read(65536).decode("utf-8"))
            known.update({key: str(said[key])[:100] for key in _NAMES if said.get(key)})
        except (OSError, ValueError, AttributeError, TypeError):
            continue
    return known


def refresh(host: HostRoot) -> None:
    """Note what the ESP holds; nothing where the host has none. Raises OSError, ValueError."""
    device = host.path(_ESP)
    if not os.path.exists(device):
        return
    files = fat.read_files(device, ("EFI", "BOOT"), _LARGEST)
    programs = [content for name, content in sorted(files.items()) if name.endswith(".EFI")]
    target = host.path(_SEEN)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target + ".new", "w", encoding="ascii") as note:
        json.dump(found_in(programs), note)
    os.replace(target + ".new", target)


def _in_text(name: str, program: bytes) -> str:
    match = _TEXT[name].search(program)
    return match.group(1).decode("ascii") if match else ""


def _sbat(program: bytes) -> Dict[str, str]:
    """Component -> version of the program's .sbat section; the distribution's own line counts before upstream's."""
    found: Dict[str, str] = {}
    for line in (_section(program, b".sbat") or b"").decode("ascii", "replace").splitlines():
        fields = line.split(",")
        if len(fields) >= 5:
            found[fields[0].partition(".")[0]] = fields[4].strip()
    return found


def _section(program: bytes, wanted: bytes) -> Optional[bytes]:
    """The content of a section of a PE program; None where it has none, or is none."""
    try:
        if program[:2] != b"MZ":
            return None
        (start,) = struct.unpack_from("<I", program, 0x3C)
        if program[start : start + 4] != b"PE\0\0":
            return None
        count, optional = struct.unpack_from("<H12xH", program, start + 6)
        for number in range(count):
            header = start + 24 + optional + 40 * number
            name, size, _, stored, offset = struct.unpack_from("<8sIIII", program, header)
            if name.rstrip(b"\0") == wanted:
                return program[offset : offset + min(size or stored, stored)].rstrip(b"\0")
    except struct.error:
        pass
    return None
