"""What a root holds that an auditor asks about, collected once while it is still a directory of files.

Files that give rights away (set-user-ID, set-group-ID, capabilities, writable by all), units that start by themselves,
what listens, and who may log in. Read from the tree alone and without following a link out of it; nothing of the root
runs. Units are enabled here when a `.wants` or `.requires` directory links to them, which is what `systemctl enable`
makes; generators and D-Bus activation are not seen, and services are known to listen only by a list (`data/
listeners.toml`). The reader is told which is which.
"""

from __future__ import annotations

import os
import stat
import struct
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostplane.errors import ImageError
from hostplane.image.root.rootpath import within

__all__ = ["collect"]

_SCHEMA = "1.0"
_UNIT_DIRECTORIES = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
_LISTEN = {"ListenStream": "tcp", "ListenDatagram": "udp", "ListenSequentialPacket": "seqpacket"}
_TEXT_BYTES = 1 << 20
_NO_LOGIN = ("nologin", "false", "sync", "shutdown", "halt")
_CAPABILITY_WORDS = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin "
    "sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override "
    "mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
)
_CAPABILITIES = _CAPABILITY_WORDS.split()


def collect(root: Path) -> dict[str, Any]:
    """The inventory of the tree at `root`: JSON values only, in one order. Unreadable files are passed over."""
    setuid, capable, writable = [], [], []
    files = size = 0
    top = str(root).rstrip("/")
    for path, state in _walk(str(root)):
        name = path[len(top) :]
        if stat.S_ISREG(state.st_mode):
            files += 1
            size += state.st_size
            if state.st_mode & (stat.S_ISUID | stat.S_ISGID):
                setuid.append({"path": name, "mode": f"{stat.S_IMODE(state.st_mode):04o}", "owner": state.st_uid})
                setuid[-1]["group"] = state.st_gid
            if state.st_mode & 0o111 and (rights := _capabilities(path)):
                capable.append({"path": name, "capabilities": rights})
        is_shared = stat.S_ISREG(state.st_mode) or (stat.S_ISDIR(state.st_mode) and not state.st_mode & stat.S_ISVTX)
        if is_shared and state.st_mode & stat.S_IWOTH:
            writable.append(name)
    enabled, masked = _units(root)
    modules = next((path for path in (root / "usr/lib/modules", root / "lib/modules") if path.is_dir()), None)
    return {
        "schema": _SCHEMA,
        "files": files,
        "bytes": size,
        "osRelease": _os_release(root),
        "kernels": [] if modules is None else sorted(entry.name for entry in modules.iterdir() if entry.is_dir()),
        "setuid": sorted(setuid, key=lambda one: str(one["path"])),
        "capabilities": sorted(capable, key=lambda one: one["path"]),
        "worldWritable": sorted(writable),
        "enabledUnits": sorted(enabled),
        "maskedUnits": sorted(masked),
        "listeners": _listeners(root, enabled - masked),
        "accounts": _accounts(root),
    }


def _walk(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every file and directory below `root` on its file system, without following links."""
    device = os.lstat(root).st_dev
    todo = [root]
    while todo:
        try:
            entries = list(os.scandir(todo.pop()))
        except OSError:
            continue
        for entry in entries:
            state = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(state.st_mode) and state.st_dev == device:
                todo.append(entry.path)
            yield entry.path, state


def _capabilities(path: str) -> str:
    """A file's capabilities as getcap writes them, without the file system's own encoding; empty for none."""
    try:
        raw = os.getxattr(path, "security.capability", follow_symlinks=False)
    except OSError:
        return ""
    if len(raw) < 20:
        return "unknown"
    magic, permitted, inheritable, permitted_high, inheritable_high = struct.unpack_from("<5I", raw)
    held, passed = permitted | permitted_high << 32, inheritable | inheritable_high << 32
    names = [f"cap_{name}" for bit, name in enumerate(_CAPABILITIES) if (held | passed) >> bit & 1]
    flags = ("e" if magic & 1 else "") + ("i" if passed else "") + ("p" if held else "")
    return f"{','.join(names)}={flags}"


def _text(root: Path, path: str) -> str:
    """The head of a text file of the root; empty when there is none, or when its links lead nowhere."""
    try:
        with within(root, path).open("rb") as file:
            return file.read(_TEXT_BYTES).decode("utf-8", "replace")
    except (OSError, ImageError):
        return ""


def _listed(root: Path, path: str) -> list[str]:
    try:
        return sorted(os.listdir(within(root, path)))
    except (OSError, ImageError):
        return []


def _units(root: Path) -> tuple[set[str], set[str]]:
    """(units that some unit wants or requires by a link, masked units)."""
    enabled, masked = set(), set()
    for directory in _UNIT_DIRECTORIES:
        for name in _listed(root, directory):
            if name.endswith((".wants", ".requires")):
                enabled.update(_listed(root, f"{directory}/{name}"))
            link = root / directory / name
            if link.is_symlink() and os.readlink(link) == "/dev/null":
                masked.add(name)
    return enabled, masked


def _unit_text(root: Path, name: str) -> str:
    """A unit's file and its drop-ins, the first directory's file winning; a template stands for its instances."""
    template = f"{name.partition('@')[0]}@.{name.rpartition('.')[2]}" if "@" in name else name
    texts: list[str] = []
    for own in dict.fromkeys((name, template)):
        for directory in _UNIT_DIRECTORIES:
            text = _text(root, f"{directory}/{own}")
            if text and not texts:
                texts.append(text)
    for directory in reversed(_UNIT_DIRECTORIES):
        folder = f"{directory}/{name}.d"
        texts += [_text(root, f"{folder}/{part}") for part in _listed(root, folder) if part.endswith(".conf")]
    return "\n".join(texts)


def _listeners(root: Path, enabled: set[str]) -> list[dict[str, str]]:
    """Where the host will listen: sockets by their own lines, services by the list of those known to."""
    known: dict[str, list[str]] = tomllib.loads(
        (Path(__file__).parent.parent / "data" / "listeners.toml").read_text("utf-8")
    )["units"]
    found = []
    for unit in sorted(enabled):
        if unit.endswith(".socket"):
            found += [
                {"unit": unit, "protocol": protocol, "address": address, "how": "socket unit"}
                for protocol, address in _sockets(_unit_text(root, unit))
            ]
        for text in known.get(unit, ()):
            protocol, _, address = text.partition(" ")
            found.append({"unit": unit, "protocol": protocol, "address": address, "how": "known service"})
    return found


def _sockets(text: str) -> list[tuple[str, str]]:
    """(protocol, address) of each Listen line; an empty value forgets the ones before it."""
    found: list[tuple[str, str, str]] = []
    for line in text.splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or key not in _LISTEN:
            continue
        if not value:
            found = [one for one in found if one[0] != key]
        else:
            is_local = value.startswith(("/", "@", "%t"))
            found.append((key, "unix" if is_local else "vsock" if value.startswith("vsock") else _LISTEN[key], value))
    return [(protocol, address) for _, protocol, address in found]


def _os_release(root: Path) -> dict[str, str]:
    text = _text(root, "etc/os-release") or _text(root, "usr/lib/os-release")
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def _accounts(root: Path) -> list[dict[str, Any]]:
    """Accounts with a shell, a password or a key for SSH."""
    secrets = dict(line.split(":")[:2] for line in _text(root, "etc/shadow").splitlines() if line.count(":") >= 2)
    found = []
    for line in _text(root, "etc/passwd").splitlines():
        words = line.split(":")
        if len(words) != 7 or not words[2].isdecimal():
            continue
        name, _, uid, _, _, home, shell = words
        keys = sum(1 for key in _text(root, f"{home}/.ssh/authorized_keys").splitlines() if key.strip()[:1] not in "#")
        has_password = secrets.get(name, "*").lstrip("!") not in ("", "*")
        password = "set" if has_password and not secrets[name].startswith("!") else "none"
        if secrets.get(name) == "":
            password = "empty"
        if password != "none" or keys or not shell.rpartition("/")[2].startswith(_NO_LOGIN):
            account = {"name": name, "uid": int(uid), "shell": shell, "password": password, "sshKeys": keys}
            found.append(account)
    return found
