"""GRUB against the reference: it boots the slot and writes the blocks that `bootstate.plan_boot` says, in every state.

The wide sweep runs inside one GRUB, which takes each case's boot state from a directory of its own; only the last step
(load the kernel) is replaced by a line that names the slot. The real boots go all the way to a kernel, power-on by
power-on; the blocks are read back from the disk.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hostplane.agent.bootstate import DEFAULT, BootState, choose, parse, plan_boot, render
from hostplane.image.recipe import Boot, Firmware
from hostplane.local.qemu import Machine
from tests.vm.grub_disk import SAYS, GrubDisk, args_block
from tests.vm.guest import PATIENCE

_SECONDS = 120.0 * PATIENCE
_HEADER = b"# GRUB Environment Block\n"
_SWEEP_SCRIPT = """
function hp_load {
  echo "CASE $hp_case BOOTS $hp_slot"
  # A real boot does not come back: nothing is left to try.
  set hp_booted=1; set A_ok=; set B_ok=; set A_left=; set B_left=
}
function hp_rescue {
  if [ -z "$hp_booted" ]; then echo "CASE $hp_case BOOTS nothing"; fi
}
function hp_play {
  set hp_case="$1"; set hp_booted=; set hp_state="($hp_disk,gpt3)/cases/$1"
  hp_automatic
}
"""


def _machine(disk: Path, firmware: Firmware, *, reboots: bool = True) -> Machine:
    return Machine(disk, firmware, memory_mib=128, cpus=1, overlay=False, reboots=reboots)


def _states(counts: Sequence[int] = range(10)) -> Iterator[BootState]:
    flags = (False, True)
    for first, a_ok, b_ok, a_left, b_left in itertools.product("AB", flags, flags, counts, counts):
        yield BootState(7, first, a_ok, a_left, b_ok, b_left)


def _damaged(block: bytes) -> dict[str, bytes]:
    """What may have become of a copy."""
    kinds = {
        "lost": bytes(1024),
        "no header": b"X" + block[1:],
        "torn": block.replace(b"end=7", b"end=6"),
        "unfinished": block[: block.index(b"end=7")],
        "without seq": block.replace(b"seq=7\n", b""),
        "order unknown": block.replace(b"order=", b"order=A "),
        "flag unknown": block.replace(b"A_ok=", b"A_ok=2"),
        "count unknown": block.replace(b"B_left=", b"B_left=1"),
        "empty": _HEADER,
    }
    return {name: kind[:1024].ljust(1024, b"#") for name, kind in kinds.items()}


def _cases(*, every: bool) -> dict[str, tuple[bytes, bytes]]:
    """(env1, env2) by name. Not every: fewer counts of tries, and two damaged copies only where a slot is on trial."""
    pairs: list[tuple[bytes, bytes]] = []
    for state in _states(range(10) if every else (0, 1, 2, 9)):
        pairs += [(render(state), render(state))]
    bases = (
        BootState(7, "B", True, 0, False, 3),
        DEFAULT._replace(seq=7),
        BootState(7, "B", True, 0, False, 0),
        BootState(7, "A", False, 2, False, 1),
        BootState(7, "A", False, 0, False, 0),
    )
    for number, state in enumerate(bases):
        good = render(state)
        other = render(state._replace(seq=6, first="A" if state.first == "B" else "B"))
        kinds = _damaged(good).values()
        pairs += [(kind, good) for kind in kinds] + [(good, kind) for kind in kinds]
        if every or number == 0:
            pairs += [(one, two) for one in kinds for two in kinds]
        pairs += [(good, other), (other, good)]
        # The power went between the two saves of a try: env2 is ahead of env1.
        pairs += [(good, block) for block in (plan_boot(good, good)[1],) if block]
    return {f"{number // 40}/{number % 40}": pair for number, pair in enumerate(pairs)}  # GRUB reads a directory slowly


def _expected(before: bytes, written: bytes | None) -> BootState | bytes | None:
    """What a copy holds afterwards: GRUB writes into a block that has its header, and into no other."""
    if written is None or not before.startswith(_HEADER):
        return before
    return parse(written)


@pytest.mark.parametrize(
    ("firmware", "every", "share"),
    [
        (Firmware.BIOS, False, 1),
        (Firmware.UEFI, False, 8),
        pytest.param(Firmware.BIOS, True, 1, marks=[pytest.mark.long, pytest.mark.timeout(1200 * PATIENCE)]),
        pytest.param(Firmware.UEFI, True, 1, marks=[pytest.mark.long, pytest.mark.timeout(1200 * PATIENCE)]),
    ],
)
def test_every_state_and_every_damage_ends_as_the_reference_says(
    tmp_path: Path, firmware: Firmware, every: bool, share: int
) -> None:
    cases = _cases(every=every)
    cases = {name: cases[name] for name in random.Random(7).sample(sorted(cases), len(cases) // share)}
    files = {
        f"cases/{name}/{copy}": pair[number]
        for name, pair in cases.items()
        for number, copy in enumerate(("env1", "env2"))
    }
    play = "".join(f"hp_play {name}\n" for name in cases) + 'echo "CASES OVER"\nhalt\n'
    disk = GrubDisk(tmp_path, DEFAULT, more=files, append=_SWEEP_SCRIPT + play, bootstate_mib=64)
    with _machine(disk.path, firmware) as machine:
        machine.wait_for("^CASES OVER", (1000 if every else 200) * PATIENCE)
        said = dict(re.findall(r"^CASE (\S+) BOOTS (\w+)$", machine.console, re.MULTILINE))

    wrong = {}
    for name, (env1, env2) in cases.items():
        slot, written = plan_boot(env1, env2)
        left = disk.read(f"cases/{name}/env1"), disk.read(f"cases/{name}/env2")
        is_as_said = all(
            parse(after) == wanted if isinstance(wanted, BootState) else after == wanted
            for after, wanted in zip(left, (_expected(env1, written), _expected(env2, written)), strict=True)
        )
        counted = choose(*left) == (parse(written) if written else choose(env1, env2))
        if said.get(name) != (slot or "nothing") or not is_as_said or not counted:
            wrong[name] = (env1[:90], env2[:90], said.get(name), slot, left[0][:90], left[1][:90])
    assert not wrong
    assert len(said) == len(cases)


def _sample(count: int) -> list[BootState]:
    every = [state for state in _states() if state.a_left < 4 and state.b_left < 4]
    return random.Random(5).sample(every, min(count, len(every)))


def _boot(disk: GrubDisk, firmware: Firmware) -> str | None:
    """One power-on: the slot whose kernel spoke, or None for the rescue text."""
    with _machine(disk.path, firmware, reboots=False) as machine:
        found = machine.wait_for(SAYS + "|no slot can be booted by itself", _SECONDS)
        if found[2]:
            machine.wait_off(_SECONDS)
        return found[2]


@pytest.mark.parametrize(
    ("firmware", "count"),
    [
        (Firmware.BIOS, 10),
        (Firmware.UEFI, 2),
        pytest.param(Firmware.BIOS, 128, marks=[pytest.mark.long, pytest.mark.timeout(900 * PATIENCE)]),
        pytest.param(Firmware.UEFI, 128, marks=[pytest.mark.long, pytest.mark.timeout(1800 * PATIENCE)]),
    ],
)
def test_a_real_boot_reaches_the_kernel_of_the_reference(tmp_path: Path, firmware: Firmware, count: int) -> None:
    disk = GrubDisk(tmp_path, DEFAULT)
    for state in _sample(count):
        block = render(state)
        disk.write_state(block, block)
        slot, written = plan_boot(block, block)
        assert (_boot(disk, firmware), state) == (slot, state)
        assert {parse(disk.read("env1")), parse(disk.read("env2"))} == {parse(written or block)}


@pytest.mark.parametrize("firmware", Firmware)
def test_a_bad_image_is_tried_as_often_as_it_has_tries_and_then_left(tmp_path: Path, firmware: Firmware) -> None:
    tries = 3 if firmware is Firmware.BIOS else 1
    disk = GrubDisk(tmp_path, BootState(3, "B", True, 0, False, tries))
    with _machine(disk.path, firmware) as machine:
        booted = [machine.wait_for(SAYS, _SECONDS)[2] for _ in range(tries + 2)]
    assert booted == [*"B" * tries, "A", "A"]


def test_the_kernel_is_told_its_slot_and_what_ends_every_hang(tmp_path: Path) -> None:
    disk = GrubDisk(tmp_path, BootState(3, "B", True, 0, False, 1))
    with _machine(disk.path, Firmware.BIOS) as machine:
        trial, proven = (machine.wait_for(SAYS, _SECONDS)[1].split() for _ in range(2))
    guids = {label: f"PARTUUID={disk.layout[label].guid}" for label in ("ROOT-A", "ROOT-B", "PERSIST")}
    common = {"rootfstype=ext4", "ro", "panic=10", "oops=panic", "rd.emergency=reboot", "rd.shell=0"}
    common |= {
        "systemd.crash_reboot",
        "console=ttyS0,115200",
        "quiet",
        "x.y=z",
        f"hostplane.persist={guids['PERSIST']}",
    }
    for slot, line in (("B", trial), ("A", proven)):
        root = guids[f"ROOT-{slot}"]
        assert common | {f"root={root}", f"hostplane.root={root}", f"hostplane.slot={slot}"} <= set(line)
    assert "nmi_watchdog=panic" in trial
    assert "nmi_watchdog=panic" not in proven


@pytest.mark.parametrize("file", ["vmlinuz", "initrd.img", "slot.cfg"])
def test_a_slot_without_a_file_gives_way(tmp_path: Path, file: str) -> None:
    disk = GrubDisk(tmp_path, BootState(3, "B", True, 0, True, 0), missing=[f"B/{file}"])
    before = disk.read("env1")
    assert _boot(disk, Firmware.BIOS) == "A"
    assert disk.read("env1") == before


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("vmlinuz", b"\0" * 4096),
        ("vmlinuz", b""),
        ("slot.cfg", b"set hp_args='unfinished"),
        ("slot.cfg", b"set hp_title=x\n"),
        ("slot.cfg", bytes(range(256)) * 4),
    ],
)
def test_a_slot_with_a_damaged_file_costs_its_try_and_gives_way(tmp_path: Path, file: str, content: bytes) -> None:
    state = BootState(3, "B", True, 0, False, 2)
    disk = GrubDisk(tmp_path, state, replaced={f"B/{file}": content})
    assert _boot(disk, Firmware.BIOS) == "A"
    assert parse(disk.read("env1")) == state._replace(b_left=1)


def test_uefi_gives_way_to_the_other_slot_too(tmp_path: Path) -> None:
    disk = GrubDisk(tmp_path, BootState(3, "B", True, 0, True, 0), replaced={"B/vmlinuz": b"not a kernel"})
    assert _boot(disk, Firmware.UEFI) == "A"


def test_a_try_that_cannot_be_counted_is_not_made(tmp_path: Path) -> None:
    state = BootState(3, "B", True, 0, False, 2)
    disk = GrubDisk(tmp_path, state)
    read_only = ["-set", "drive.disk0.readonly=on"]
    with Machine(disk.path, memory_mib=128, cpus=1, overlay=False, arguments=read_only) as machine:
        assert machine.wait_for(SAYS, _SECONDS)[2] == "A"
    assert parse(disk.read("env1")) == state


@pytest.mark.parametrize(
    ("copies", "extra"),
    [
        ((args_block(1, "for.a=1 more=2", "for.b=1"), args_block(0, "old=1", "old=1")), ["for.a=1", "more=2"]),
        ((args_block(1, "torn=1", "", end=0), args_block(0, "old=1", "for.b=1")), ["old=1"]),
        ((bytes(1024), bytes(1024)), []),
        ((args_block(1, "", ""), args_block(0, "old=1", "")), []),
    ],
)
def test_a_slot_gets_its_own_extra_arguments(tmp_path: Path, copies: tuple[bytes, bytes], extra: list[str]) -> None:
    state = BootState(3, "A", False, 2, True, 0)
    disk = GrubDisk(tmp_path, state, more={"args1": copies[0], "args2": copies[1]})
    with _machine(disk.path, Firmware.BIOS, reboots=False) as machine:
        line = machine.wait_for(SAYS, _SECONDS)[1].split()
    assert line[line.index("nmi_watchdog=panic") + 1 :] == extra
    assert parse(disk.read("env1")) == state._replace(a_left=1)


@pytest.mark.parametrize("firmware", Firmware)
def test_a_disk_that_is_not_the_first_goes_by_its_own_state(tmp_path: Path, firmware: Firmware) -> None:
    """Of two disks with the loader (a clone, say), each counts on its own; the firmware starts the second."""
    first = GrubDisk(tmp_path, BootState(3, "A", True, 0, True, 0), name="other")
    second = GrubDisk(tmp_path, BootState(3, "B", True, 0, False, 2), name="own")
    ahead = ["-set", "device.disk0-device.addr=0x10"]  # which the firmware finds after the other one
    ahead += ["-drive", f"if=none,id=ahead,format=raw,readonly=on,file={first.path}"]
    ahead += ["-device", "virtio-blk-pci,drive=ahead,addr=0x8"]
    with Machine(second.path, firmware, memory_mib=128, cpus=1, overlay=False, arguments=ahead) as machine:
        found = machine.wait_for(SAYS, _SECONDS)
    assert found[2] == "B"
    assert second.layout["ROOT-B"].guid in found[1]
    assert parse(second.read("env1")) == BootState(3, "B", True, 0, False, 1)


def test_with_nothing_left_a_person_is_told_and_may_choose(tmp_path: Path) -> None:
    disk = GrubDisk(tmp_path, BootState(3, "B", False, 0, False, 0))
    with _machine(disk.path, Firmware.BIOS) as machine:
        machine.wait_for("no slot can be booted by itself", _SECONDS)
        machine.wait_for("Esc: back to the menu", _SECONDS)
        machine.serials[0].send("\x1b", end="")
        machine.wait_for("Slot A by hand", _SECONDS)
        machine.wait_for("Rescue", _SECONDS)
        machine.serials[0].send("v")  # down by one
        assert machine.wait_for(SAYS, _SECONDS)[2] == "A"
    assert parse(disk.read("env1")) == BootState(3, "B", False, 0, False, 0)


def test_a_password_guards_the_menu_but_not_the_boot(tmp_path: Path) -> None:
    digest = "grub.pbkdf2.sha512.10." + "00" * 16 + "." + "11" * 64
    boot = Boot(timeout_seconds=5, console=("ttyS0,115200",), grub_password_hash=digest)
    disk = GrubDisk(tmp_path, DEFAULT, boot=boot)
    with _machine(disk.path, Firmware.BIOS) as machine:
        assert machine.wait_for(SAYS, _SECONDS)[2] == "A"
        machine.wait_for("Esc shows the menu", _SECONDS)
        machine.serials[0].send("\x1b", end="")
        machine.wait_for("Rescue", _SECONDS)
        machine.serials[0].send("c", end="")
        machine.wait_for("Enter username:", _SECONDS)
