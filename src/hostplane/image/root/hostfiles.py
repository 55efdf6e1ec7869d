"""Puts Hostplane's own files into a root: agent, units, udev rule, and the script that mounts the host's state.

Called by the files stage, before the recipe's own files, so that a recipe may replace any of them. It only writes:
nothing runs in the root, and the links that enable units are made by hand, below /usr/lib, where neither a preset nor a
slot's own /etc undoes them. What is fixed lies as a tree below data/host, with paths as in the root: `common`, and one
for each initramfs generator. A file that begins with #! becomes executable.

A root is one image for many hosts, so whatever makes a host that host (machine-id, ssh host keys) is taken out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from hostplane.agent.settings.policy import DEFAULT_PATHS
from hostplane.distros.profile import Profile
from hostplane.image.disk.filesystems import ext4
from hostplane.image.recipe import Partition, Recipe
from hostplane.image.root import agentapp
from hostplane.image.root.rootpath import within
from hostplane.image.stage import Inputs, Work

__all__ = ["image_json", "inputs", "install", "policy_json", "remove_identity"]

_DATA = Path(__file__).parent.parent / "data" / "host"
_LIBRARY = "usr/lib/hostplane"
_UNITS = "usr/lib/systemd/system"
_MOUNT_POINTS = {
    **dict.fromkeys(("boot/hostplane", "dev", "etc", "home", "mnt", "opt", "persist", "proc", "run"), 0o755),
    **dict.fromkeys(("srv", "sys", "usr/local", "var"), 0o755),
    "root": 0o700,
    "tmp": 0o1777,
}
_ENABLED = {
    "local-fs.target": ("boot-hostplane.mount", "tmp.mount"),
    "multi-user.target": (
        *("hostplane-banner.service", "hostplane-grow.service", "hostplane-sshkeys.service"),
        "hostplane-state.service",
    ),
    "paths.target": ("hostplane-drift.path",),
    "sockets.target": ("hostplane-agent.socket",),
    "sysinit.target": ("hostplane-owners.service", "hostplane-trial.service"),
    "timers.target": ("hostplane-banner.timer", "hostplane-drift.timer"),
}
_TMP_MOUNT = """[Unit]
Description=Temporary files
Conflicts=umount.target
Before=local-fs.target umount.target

[Mount]
What=tmpfs
Where=/tmp
Type=tmpfs
Options=mode=1777,strictatime,nosuid,nodev
"""
_OWN_IDENTITY = ("hostplane/blocked",)
"""Below /etc: what is said of the host and not of a slot. A return must not forget which images are forbidden."""
_ISSUE_DIRECTORY = b"/etc/issue.d"
_AGETTY = ("usr/sbin/agetty", "sbin/agetty")


def inputs(recipe: Recipe, profile: Profile) -> Inputs:
    """What `install` depends on."""
    if not recipe.agent:
        return {}
    return {
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in _fixed(profile)},
        "agent": agentapp.agent_digest(),
        "image": image_json(recipe, profile).decode(),
        "identity": [*profile.identity, *_OWN_IDENTITY],
        "partitions": [[part.label, part.fs, part.mount, part.style] for part in recipe.disk.partitions],
        "keys": _digest_of(recipe.signing.trusted_keys),
        "tries": recipe.boot.tries,
        "policy": policy_json(recipe).decode(),
    }


def image_json(recipe: Recipe, profile: Profile) -> bytes:
    """What an image says of itself in its root: its name, what it demands of its successors, how it makes slots."""
    root = ext4.features(ext4.ROOT_FEATURES, profile.ext4_features)
    said = {
        "schema": "1.0",
        "name": recipe.name,
        "version": recipe.version,
        "distro": recipe.distro,
        "release": recipe.release,
        "arch": recipe.arch.value,
        "rootFs": recipe.disk.fs.value,
        "verity": recipe.disk.verity,
        "minimumVersion": recipe.image.minimum_version,
        "mkfs": {
            "ext4": list(root),
            "boot": list(ext4.features(ext4.BOOT_FEATURES, profile.boot_ext4_features)),
            "xfs": list(profile.xfs_options),
        },
    }
    return json.dumps(said, indent=2).encode() + b"\n"


def policy_json(recipe: Recipe) -> bytes:
    """What settings may touch on a host of this image without a signature."""
    paths = recipe.settings.allowed_paths
    allowed = list(DEFAULT_PATHS if paths is None else paths)
    said = {"schema": "1.0", "settings": {"allowedPaths": allowed, "signedModels": list(recipe.settings.signed_models)}}
    return json.dumps(said, indent=2).encode() + b"\n"


def install(work: Work) -> None:
    """Write everything into `work.root`; safe to repeat. Nothing where the recipe wants no agent.

    Raises:
        ImageError: RootPathLoops.
        LocalError: VendoredLibraryMissing, in an installation without the agent's libraries.
    """
    recipe, profile, root = work.recipe, work.profile, work.root
    if not recipe.agent:
        return
    for directory, mode in _MOUNT_POINTS.items():
        _directory(root, directory, mode)
    for name, content in _fixed(profile):
        _write(root, name, content)
    agentapp.build_agent(_inside(root, f"{_LIBRARY}/agent.pyz"))
    _link(root, "usr/bin/hostplane-agent", "../lib/hostplane/agent.pyz")
    _write(root, f"{_LIBRARY}/image.json", image_json(recipe, profile))
    _write(root, f"{_LIBRARY}/identity", "".join(f"{path}\n" for path in (*profile.identity, *_OWN_IDENTITY)).encode())
    _write(root, "etc/hostplane/agent.json", json.dumps({"bootTries": recipe.boot.tries}).encode() + b"\n")
    _write(root, f"{_LIBRARY}/policy.json", policy_json(recipe))
    _directory(root, "etc/hostplane/checks.d", 0o755)
    _directory(root, f"{_LIBRARY}/keys", 0o755)
    if recipe.signing.trusted_keys:
        _write(root, f"{_LIBRARY}/keys/trusted.json", Path(recipe.signing.trusted_keys).read_bytes())
    if not within(root, f"{_UNITS}/tmp.mount").exists():
        _write(root, f"{_UNITS}/tmp.mount", _TMP_MOUNT.encode())
    for target, units in _ENABLED.items():
        for unit in units:
            _link(root, f"{_UNITS}/{target}.wants/{unit}", f"../{unit}")
    # Partitions are found by name on the root's own disk; nobody else mounts any by guessing from its type.
    _link(root, "etc/systemd/system-generators/systemd-gpt-auto-generator", "/dev/null")
    for partition in recipe.disk.partitions:
        if partition.mount:
            _mount_partition(root, partition, partition.mount)
    _show_banner(root)
    remove_identity(root, profile)


def remove_identity(root: Path, profile: Profile) -> None:
    """Take out of `root` what only one host may have; also for whoever adds files after `install`."""
    keys = [pattern for pattern in profile.identity if pattern.startswith("ssh/")]
    for path in [found for pattern in keys for found in within(root, "etc").glob(pattern)]:
        path.unlink()
    machine_id = _inside(root, "etc/machine-id")
    if machine_id.is_symlink():
        machine_id.unlink()
    machine_id.write_bytes(b"")  # kept as an empty file, so that it has a label where labels matter
    machine_id.chmod(0o444)
    if within(root, "var/lib/dbus").is_dir():
        _link(root, "var/lib/dbus/machine-id", "/etc/machine-id")


def _fixed(profile: Profile) -> Iterator[tuple[str, bytes]]:
    """(path in the root, content) of what is the same in every image."""
    for part in ("common", profile.initramfs):
        for source in sorted((_DATA / part).rglob("*")):
            if source.is_file():
                yield source.relative_to(_DATA / part).as_posix(), source.read_bytes()


def _inside(root: Path, name: str) -> Path:
    """`name` in `root`, its directory made; a link on the way means what it means in the running host."""
    path = within(root, name, follow=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write(root: Path, name: str, content: bytes) -> None:
    path = _inside(root, name)
    if path.is_symlink():
        path.unlink()
    path.write_bytes(content)
    path.chmod(0o755 if content.startswith(b"#!") else 0o644)


def _directory(root: Path, name: str, mode: int) -> None:
    """A directory or, where the distribution has it so, its link to one."""
    path = _inside(root, name)
    if not path.is_symlink() and not path.is_dir():
        path.mkdir()
        path.chmod(mode)


def _link(root: Path, name: str, goal: str) -> None:
    path = _inside(root, name)
    path.unlink(missing_ok=True)
    path.symlink_to(goal)


def _digest_of(path: str | None) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""


def _mount_partition(root: Path, partition: Partition, mount: str) -> None:
    """A data partition's mount, in the style asked for; both wait for the device by its own name on this very disk."""
    _directory(root, mount.strip("/"), 0o755)
    device, kind = f"/dev/hostplane/{partition.label}", partition.fs.value
    if partition.style == "fstab":
        table = _inside(root, "etc/fstab")
        before = table.read_text() if table.exists() else ""
        line = f"{device} {mount} {kind} defaults,nofail 0 2\n"
        if line not in before:
            table.write_text(before + ("" if before.endswith("\n") or not before else "\n") + line)
        return
    unit = _escaped(mount) + ".mount"
    text = f"[Unit]\nDescription={partition.label}\n\n[Mount]\nWhat={device}\nWhere={mount}\nType={kind}\n"
    _write(root, f"etc/systemd/system/{unit}", f"{text}\n[Install]\nWantedBy=local-fs.target\n".encode())
    _link(root, f"etc/systemd/system/local-fs.target.wants/{unit}", f"../{unit}")


def _escaped(path: str) -> str:
    """A path as systemd spells it in a unit's name."""
    parts = path.strip("/").encode()
    plain = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_."
    spelled = "".join(
        "-" if byte == 0x2F else chr(byte) if byte in plain and not (at == 0 and byte == 0x2E) else f"\\x{byte:02x}"
        for at, byte in enumerate(parts)
    )
    return spelled or "-"


def _show_banner(root: Path) -> None:
    """A login prompt shows /etc/issue and what is in /etc/issue.d; an old one knows only the former.

    There /etc/issue becomes a file that the banner writes, what the image had in it at its head.
    """
    agetty = next((path for name in _AGETTY if (path := within(root, name)).is_file()), None)
    issue = _inside(root, "etc/issue")
    if agetty is None or issue.is_symlink():
        return
    if _ISSUE_DIRECTORY in agetty.read_bytes():
        _link(root, "etc/issue.d/hostplane.issue", "../../run/issue.d/hostplane.issue")
        if not issue.exists():  # without it the directory is not looked at
            _write(root, "etc/issue", b"")
        return
    _write(root, f"{_LIBRARY}/issue", issue.read_bytes() if issue.exists() else b"")
    _link(root, "etc/issue", "../run/hostplane/issue")
