"""A virtual machine with serial consoles, for booting what was built: by `hostplane image boot` and by tests.

    with Machine(disk, Firmware.UEFI) as machine:
        machine.wait_for("login:", 120)
        machine.send("root")

The disk is opened through a throw-away overlay, so that it is never changed unless asked; the firmware's variables are
a private copy. Every wait has a deadline. The machine ends with the `with`, with this process, and with the *thread*
that started it (the kernel's parent-death signal follows the thread): start it from a thread that stays.

Everything is emulated where KVM is not asked for (HOSTPLANE_QEMU_ACCEL=kvm): slower, and the same everywhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from hostplane.errors import LocalError
from hostplane.image.recipe import Arch, Firmware
from hostplane.local.serialport import SerialPort

__all__ = ["Machine", "make_overlay"]

_STOP_SECONDS = 10.0
_QMP_SECONDS = 20.0
_TOOL_SECONDS = 60.0


class _Platform(NamedTuple):
    """How one architecture is emulated."""

    program: str
    package: str
    machine: str
    kvm_cpu: str
    display: tuple[str, ...]
    firmware: tuple[tuple[str, str], ...]
    """(code, variables) of UEFI, wherever the distributions put them; the first that exists is taken."""
    secure: tuple[tuple[str, str], ...] = ()
    """The same with Secure Boot on and Microsoft's keys in the variables."""


_PLATFORMS = {
    Arch.X86_64: _Platform(
        "qemu-system-x86_64",
        "qemu-system-x86, ovmf",
        "q35",
        "max,-arch-capabilities",  # whose MSR some hypervisors below refuse
        ("-device", "VGA"),
        (
            ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
            ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
            ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
            ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
            ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
        ),
        (
            ("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
            ("/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/OVMF/OVMF_VARS.ms.fd"),
            ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"),
            ("/usr/share/qemu/ovmf-x86_64-smm-ms-code.bin", "/usr/share/qemu/ovmf-x86_64-smm-ms-vars.bin"),
        ),
    ),
    Arch.AARCH64: _Platform(
        "qemu-system-aarch64",
        "qemu-system-arm, qemu-efi-aarch64",
        "virt",
        "host",
        (),
        (
            ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
            ("/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"),
        ),
    ),
}
_BUSES = {
    "virtio": "virtio-blk-pci,drive={id}",
    "scsi": "scsi-hd,drive={id},bus=scsi.0",
    "sata": "ide-hd,drive={id},bus=ide.{number}",
    "nvme": "nvme,drive={id},serial={id}",
}


class Machine:
    """One virtual machine. Nothing runs before `start` (or `with`); `stop` may be called at any time and repeated."""

    def __init__(
        self,
        disk: Path,
        firmware: Firmware = Firmware.BIOS,
        *,
        arch: Arch = Arch.X86_64,
        memory_mib: int = 1024,
        cpus: int = 2,
        overlay: bool = True,
        drives: Sequence[Path] = (),
        bus: str = "virtio",
        network: bool = False,
        forwards: Sequence[tuple[int, int]] = (),
        reboots: bool = True,
        consoles: int = 1,
        variables: Path | None = None,
        secure_boot: bool = False,
        live: Callable[[str], None] | None = None,
        raw: Callable[[bytes], None] | None = None,
        opened: Callable[[Path], str] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        """Describe the machine.

        Args:
            disk: raw or qcow2.
            overlay: write to throw-away files; False: write to `disk` and `drives` themselves.
            drives: further disks.
            bus: virtio, scsi, sata or nvme.
            network: user-mode network; the host is 10.0.2.2 there.
            forwards: (port on 127.0.0.1, port of the machine); brings the network with it.
            reboots: False: a reboot ends the machine.
            consoles: number of serial ports.
            variables: UEFI variables that are kept from one machine to the next; made when missing.
            secure_boot: UEFI that starts nothing unsigned; x86_64 alone.
            live: is given what the first console says, at once, in another thread, without terminal escapes.
            raw: the same, every byte.
            opened: what `-drive` says instead of a disk's format and file: a layer of QEMU's between disk and machine.
            arguments: more of QEMU's own.
        """
        self._disks = (disk, *drives)
        self._platform = _PLATFORMS[arch]
        self._firmware, self._bus, self._variables, self._secure = firmware, bus, variables, secure_boot
        self._overlay, self._consoles, self._onlookers = overlay, consoles, (live, raw)
        self._network, self._forwards = network or bool(forwards), tuple(forwards)
        self._opened = opened or (lambda disk: f"format={_format(disk)},file={_quoted(disk)}")
        self._plain = ["-m", str(memory_mib), "-smp", str(cpus), *([] if reboots else ["-no-reboot"]), *arguments]
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._qmp: socket.socket | None = None
        self._replies = b""
        self.serials: tuple[SerialPort, ...] = ()

    @property
    def console(self) -> str:
        """What the first serial console said so far, without terminal escapes."""
        return self.serials[0].text if self.serials else ""

    @property
    def exit_code(self) -> int | None:
        """QEMU's own; None while the machine runs or has not been started."""
        return self._process.poll() if self._process else None

    def start(self) -> Self:
        """Power on.

        Raises:
            LocalError: QemuMissing; MachineNotStarted with what QEMU says.
        """
        assert self._process is None, "a machine starts once"
        program, launcher = shutil.which(self._platform.program), shutil.which("setpriv")
        if program is None or launcher is None:
            what = self._platform.program if program is None else "setpriv"
            raise LocalError("QemuMissing", what=what, package=self._platform.package if not program else "util-linux")
        self._directory = Path(tempfile.mkdtemp(prefix="hostplane-vm-"))
        lines = [socket.socketpair() for _ in range(self._consoles + 1)]
        try:
            theirs = [line[1] for line in lines]
            for line in theirs:
                os.set_inheritable(line.fileno(), True)
            with (self._directory / "stderr").open("wb") as stderr:
                self._process = subprocess.Popen(
                    [launcher, "--pdeathsig", "KILL", "--", program, *self._command([s.fileno() for s in theirs])],
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    pass_fds=[line.fileno() for line in theirs],
                    start_new_session=True,
                )
            self._qmp = lines[-1][0]
            self.serials = tuple(
                SerialPort(ours, *(self._onlookers if number == 0 else ()))
                for number, (ours, _) in enumerate(lines[:-1])
            )
        except BaseException:
            for ours, _ in lines:
                ours.close()
            self.kill()
            raise
        finally:
            for _, inherited in lines:
                inherited.close()
        self._greet()
        return self

    def wait_for(self, pattern: str, timeout: float, *, unless: str | None = None) -> re.Match[str]:
        """`SerialPort.wait_for` on the first console."""
        return self.serials[0].wait_for(pattern, timeout, unless=unless)

    def send(self, line: str) -> None:
        """Type `line` and Enter on the first console."""
        self.serials[0].send(line)

    def wait_off(self, timeout: float) -> int:
        """Wait until the machine has switched itself off (or, where it may not reboot, wants to); its exit code.

        Raises:
            LocalError: MachineStillOn, with the console's last lines.
        """
        assert self._process is not None
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            tail = " / ".join(self.console.splitlines()[-8:])[-800:]
            raise LocalError("MachineStillOn", seconds=f"{timeout:g}", tail=tail) from None
        for serial in self.serials:
            serial.drain(5.0)
        return code

    def qmp(self, command: str, **arguments: object) -> Any:
        """One command of QEMU's own control protocol; what it returns.

        Raises:
            LocalError: MachineRefused, with QEMU's words.
        """
        request: dict[str, object] = {"execute": command}
        if arguments:
            request["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            assert self._qmp is not None
            self._qmp.sendall(json.dumps(request).encode() + b"\n")
            while True:
                reply = self._reply()
                if "error" in reply:
                    raise LocalError("MachineRefused", command=command, detail=reply["error"]["desc"])
                if "return" in reply:
                    return reply["return"]
        except OSError as error:
            raise LocalError("MachineRefused", command=command, detail=self._stderr() or str(error)) from error

    def reset(self) -> None:
        """Press the reset button: an immediate reboot, nothing flushed by the guest."""
        self.qmp("system_reset")

    def stop(self) -> None:
        """End the machine: what the guest has written to its disks is kept, nothing else is."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Cut the power."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self, lines: list[int]) -> list[str]:
        assert self._directory is not None
        machine = f"{self._platform.machine},smm=on" if self._secure else self._platform.machine
        command = ["-nodefaults", "-no-user-config", "-display", "none", "-machine", machine]
        if os.environ.get("HOSTPLANE_QEMU_ACCEL") == "kvm":
            command += ["-accel", "kvm", "-accel", "tcg,thread=multi", "-cpu", self._platform.kvm_cpu]
        else:
            command += ["-accel", "tcg,thread=multi", "-cpu", "max"]
        command += [*self._platform.display, "-device", "virtio-rng-pci"]
        if self._firmware is Firmware.UEFI:
            command += self._uefi(self._directory)
        if self._bus == "scsi":
            command += ["-device", "virtio-scsi-pci,id=scsi"]
        for number, disk in enumerate(self._disks):
            command += self._drive(number, disk, self._directory)
        for number, line in enumerate(lines[:-1]):
            command += ["-chardev", f"socket,id=line{number},fd={line}", "-serial", f"chardev:line{number}"]
        command += ["-chardev", f"socket,id=control,fd={lines[-1]}", "-mon", "chardev=control,mode=control"]
        if self._network:
            forwards = "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in self._forwards)
            return [*command, "-nic", f"user,model=virtio-net-pci{forwards}", *self._plain]
        return [*command, "-nic", "none", *self._plain]

    def _uefi(self, directory: Path) -> list[str]:
        for code, template in self._platform.secure if self._secure else self._platform.firmware:
            if Path(code).exists() and Path(template).exists():
                variables = self._variables or directory / "variables.fd"
                if not variables.exists():
                    shutil.copyfile(template, variables)
                guarded = ["-global", "driver=cfi.pflash01,property=secure,value=on"] if self._secure else []
                return [
                    *guarded,
                    *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_quoted(code)}"),
                    *("-drive", f"if=pflash,unit=1,format=raw,file={_quoted(variables)}"),
                ]
        raise LocalError("QemuMissing", what="UEFI firmware", package=self._platform.package)

    def _drive(self, number: int, disk: Path, directory: Path) -> list[str]:
        name, cache = f"disk{number}", "writeback"
        if self._overlay:
            disk, cache = make_overlay(disk, directory / f"{name}.qcow2"), "unsafe"  # nobody reads it afterwards
        device = _BUSES[self._bus].format(id=name, number=number) + f",id={name}-device,bootindex={number}"
        drive = f"if=none,id={name},cache={cache},discard=unmap,{self._opened(disk)}"
        return ["-drive", drive, "-device", device]

    def _greet(self) -> None:
        assert self._qmp is not None
        try:
            self._qmp.settimeout(_QMP_SECONDS)
            self._reply()
            self.qmp("qmp_capabilities")
        except (OSError, LocalError) as error:
            detail = self._stderr() or str(error)
            self.kill()
            raise LocalError("MachineNotStarted", detail=detail) from error

    def _reply(self) -> Any:
        """The next reply or event."""
        assert self._qmp is not None
        while b"\n" not in self._replies:
            data = self._qmp.recv(65536)
            if not data:
                raise ConnectionResetError("the machine has ended")
            self._replies += data
        line, self._replies = self._replies.split(b"\n", 1)
        return json.loads(line)

    def _stderr(self) -> str:
        if self._process is None or self._directory is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        return " ".join((self._directory / "stderr").read_text("utf-8", "replace").split())[-600:]

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._signal(how)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait(_STOP_SECONDS)
        for serial in self.serials:
            serial.drain(_STOP_SECONDS)
            serial.close()
        if self._qmp is not None:
            self._qmp.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _signal(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:  # unreaped, so the id is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, how)


def make_overlay(disk: Path, overlay: Path) -> Path:
    """Make `overlay`, a qcow2 file that holds what is written from now on; `disk` is only read. Returns `overlay`.

    Raises:
        LocalError: QemuMissing; MachineNotStarted when the disk cannot be read.
    """
    program = shutil.which("qemu-img")
    if program is None:
        raise LocalError("QemuMissing", what="qemu-img", package="qemu-utils")
    command = [program, "create", "-q", "-f", "qcow2", "-F", _format(disk), "-b", str(disk.absolute()), str(overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False)
    if done.returncode:
        raise LocalError("MachineNotStarted", detail=" ".join(done.stderr.split())[-600:])
    return overlay


def _format(disk: Path) -> str:
    try:
        with disk.open("rb") as file:
            return "qcow2" if file.read(4) == b"QFI\xfb" else "raw"
    except OSError as error:
        raise LocalError("MachineNotStarted", detail=f"{disk}: {error.strerror}") from error


def _quoted(path: Path | str) -> str:
    return str(path).replace(",", ",,")
