"""What firmware, GRUB and kernel do to a simulated host: pick a slot by the boot state, try it, else the next.

It decides with the agent's own `plan_boot`, so the simulated and the real boot state mean the same. It never repairs:
a host whose proven slot does not start, or that has no slot left to try, stays down.

Faults, for tests and the demo, in hardware/fault.json, read at each boot: {"ROOT-A" or "ROOT-B": fault}
    no-boot           the loader cannot start the slot (as an incomplete image, or one without os-release)
    hang-after-boot   the kernel starts and nothing else does, until the watchdog resets the machine
    not-ready         the slot runs, but its kubelet never becomes Ready
    dead              the machine does not come back at all
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import msgspec

from hostplane.agent.bootstate import plan_boot
from hostplane.local.disk import Release, read_release, slot_path, write_block

__all__ = ["FAULTS", "Boot", "boot", "read_faults", "set_fault"]

FAULTS = ("no-boot", "hang-after-boot", "not-ready", "dead")
_ATTEMPTS = 32  # more than two slots with nine tries each


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """A system that came up. `fault` is what ails it, "" for nothing; `attempts` counts this one."""

    slot: str
    boot_id: str
    release: Release
    fault: str = ""
    attempts: int = 1


def set_fault(root: Path, slot: str, fault: str | None) -> None:
    """Makes `slot` (A or B) of the host fail so at its next boot; None heals it."""
    if fault is not None and fault not in FAULTS:
        raise ValueError(fault)
    faults = {name: known for name, known in read_faults(root).items() if name != f"ROOT-{slot}"}
    if fault is not None:
        faults[f"ROOT-{slot}"] = fault
    (root / "hardware").mkdir(exist_ok=True)
    (root / "hardware" / "fault.json").write_bytes(msgspec.json.encode(faults))


def read_faults(root: Path) -> dict[str, str]:
    """The faults by partition name."""
    try:
        return msgspec.json.decode((root / "hardware" / "fault.json").read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}


def boot(root: Path) -> Boot | None:
    """Boots the host once, which may take several tries; None when it stays down. run/ is empty afterwards."""
    shutil.rmtree(root / "run", ignore_errors=True)
    (root / "run" / "hostplane").mkdir(parents=True)
    for attempt in range(1, _ATTEMPTS + 1):
        env = root / "boot" / "hostplane"
        slot, block = plan_boot(_read(env / "env1"), _read(env / "env2"))
        if slot is None:
            return None
        if block is not None:
            write_block(env / "env2", block)
            write_block(env / "env1", block)
        fault = read_faults(root).get(f"ROOT-{slot}", "")
        if fault == "dead":
            return None
        release = None if fault == "no-boot" else read_release(slot_path(root, slot))
        if release is not None:
            return _started(root, slot, release, fault, attempt)
        if block is None:  # a proven slot: the loader would try it for ever
            return None
    return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _started(root: Path, slot: str, release: Release, fault: str, attempts: int) -> Boot:
    boot_id = str(uuid.uuid4())
    (root / "proc" / "sys" / "kernel" / "random").mkdir(parents=True, exist_ok=True)
    (root / "proc" / "cmdline").write_text(f"root=PARTLABEL=ROOT-{slot} hostplane.slot={slot} panic=10\n", "ascii")
    (root / "proc" / "sys" / "kernel" / "random" / "boot_id").write_text(boot_id + "\n", "ascii")
    (root / "etc" / "os-release").write_text(release.text, "utf-8")
    return Boot(slot=slot, boot_id=boot_id, release=release, fault=fault, attempts=attempts)
