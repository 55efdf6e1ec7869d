"""`hostplane image boot`: the disk that was built, in a virtual machine, until it says how it is."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from hostplane.image.recipe import Arch
    from hostplane.local.qemu import Machine

__all__ = ["command"]

_LEAVE = b"\x1d"  # Ctrl-]


@click.command(short_help="Boot a built disk in a virtual machine.")
@click.argument("out", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--firmware", type=click.Choice(["bios", "uefi"]), default="bios", show_default=True, help="What starts it."
)
@click.option("--secure-boot", is_flag=True, help="UEFI that starts nothing unsigned.")
@click.option("--arch", type=click.Choice(["x86_64", "aarch64"]), help="Processor (default: what the report says).")
@click.option("--memory", type=click.IntRange(256), default=2048, show_default=True, metavar="MIB", help="Its memory.")
@click.option("--cpus", type=click.IntRange(1, 64), default=2, show_default=True, help="Its processors.")
@click.option("--ssh", type=click.IntRange(1, 65535), metavar="PORT", help="Forward 127.0.0.1:PORT to its ssh port.")
@click.option("--timeout", type=click.FloatRange(1), default=600.0, show_default=True, help="Seconds until a login.")
@click.option("--write/--snapshot", default=False, help="Keep what it writes to the disk, or forget it (default).")
@click.option("--keep", is_flag=True, help="Let it run on until Ctrl-C.")
@click.option("--interactive", is_flag=True, help="Hand the console over; Ctrl-] ends the machine.")
def command(
    out: Path,
    firmware: str,
    secure_boot: bool,
    arch: str | None,
    memory: int,
    cpus: int,
    ssh: int | None,
    timeout: float,
    write: bool,
    keep: bool,
    interactive: bool,
) -> int:
    """Boot OUT, a directory that `build` wrote or a disk file, and show its console.

    Exit code 0: it reached a login and says that it is healthy. The disk stays as it is without --write.
    HOSTPLANE_QEMU_ACCEL=kvm uses the machine's own virtualization.
    """
    from hostplane.errors import LocalError
    from hostplane.image.recipe import Firmware
    from hostplane.local import bootcheck
    from hostplane.local.qemu import Machine

    for number in (signal.SIGTERM, signal.SIGHUP):  # the machine's files go with it
        signal.signal(number, _interrupt)
    machine = Machine(
        bootcheck.find_disk(out),
        Firmware.UEFI if secure_boot else Firmware(firmware),
        arch=_arch(out, arch),
        memory_mib=memory,
        cpus=cpus,
        overlay=not write,
        forwards=[(ssh, 22)] if ssh else (),
        network=True,
        secure_boot=secure_boot,
        live=None if interactive else _show,
        raw=_pass if interactive else None,
    )
    with machine:
        if interactive:
            _hand_over(machine)
            return 0
        booted = bootcheck.watch(machine.serials[0], timeout)
        click.echo("")
        if not booted.is_healthy:
            raise LocalError("ImageNotHealthy", image=booted.image, slot=booted.slot, state=booted.state)
        _say("ImageBooted", image=booted.image, slot=booted.slot, seconds=round(booted.seconds))
        if keep:
            _say("MachineKept", ssh=f"ssh -p {ssh} root@127.0.0.1" if ssh else "--ssh PORT")
            _stay(machine)
    return 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _say(name: str, **params: object) -> None:
    from hostplane.cli.language import phrase

    click.echo(phrase(name, **params), err=True)


def _arch(out: Path, wanted: str | None) -> Arch:
    """As asked for, else as the build's report says, else this machine's usual one."""
    import msgspec

    from hostplane.image.recipe import Arch

    if wanted is None and (out / "report.json").is_file():
        report = msgspec.json.decode((out / "report.json").read_bytes())
        wanted = report.get("arch") if isinstance(report, dict) else None
    return Arch(wanted) if wanted else Arch.X86_64


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _pass(data: bytes) -> None:
    os.write(sys.stdout.fileno(), data)


def _stay(machine: Machine) -> None:
    """Until the machine ends or somebody presses Ctrl-C."""
    try:
        while not machine.serials[0].closed:
            machine.serials[0].drain(3600.0)
    except KeyboardInterrupt:
        click.echo("", err=True)


def _hand_over(machine: Machine) -> None:
    """What is typed goes to the machine, untouched, until Ctrl-] or its end."""
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin) if os.isatty(stdin) else None
    if before:
        tty.setraw(stdin)
    try:
        while not machine.serials[0].closed:
            ready, _, _ = select.select([stdin], [], [], 0.2)
            if not ready:
                continue
            typed = os.read(stdin, 4096)
            if not typed or _LEAVE in typed:
                break
            machine.serials[0].send(typed.decode("utf-8", "replace"), end="")
    finally:
        if before:
            termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        click.echo("", err=True)
