"""Virtual machines that are Nodes of a local cluster: their disks, their credentials, their power switch.

A machine gets everything that makes it that node before its first boot, by its disk (`vmdisk`): name, the API server's
certificate, the kubelet's token, the proxy's token bound to the Node. No image holds a secret. What a guest says on its
console is kept in a file of its own. QEMU writes to a throw-away file, so a machine leaves nothing behind.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from hostplane.errors import LocalError
from hostplane.image.recipe import Firmware
from hostplane.kube.session import Session
from hostplane.local import credentials, state
from hostplane.local.controlplane import ControlPlane
from hostplane.local.kubeconfig import kubeconfig_text
from hostplane.local.qemu import Machine
from hostplane.local.vmdisk import prepare_disk

__all__ = ["Guests", "node_name"]

MEMORY_MIB = 1024
_CERTIFICATE = "/etc/kubernetes/apiserver.crt"
_LABELS = {"hostplane.dev/agent": "native"}


def node_name(index: int) -> str:
    """The name of the machine with this index, from 0."""
    return f"vm-{index + 1}"


class Guests:
    """The machines `names`, their disks and consoles in `directory`. Nothing runs before `start`."""

    def __init__(self, directory: Path, names: list[str]) -> None:
        self.names = names
        self._directory = directory
        self._machines: dict[str, Machine] = {}
        self._open = contextlib.ExitStack()

    async def prepare(self, session: Session, cluster: Path, image: Path) -> None:
        """Register the Nodes of the cluster in `cluster`, and make each machine's disk from `image`.

        Raises:
            LocalError: DiskNotPrepared. ClusterError: the Node is refused.
        """
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        plane = ControlPlane(cluster, guests=self.names)
        plane.url = state.load(cluster).url
        for name in self.names:
            proxy = await credentials.guest_token(session, name, {**_LABELS, "kubernetes.io/hostname": name})
            tokens = {"kubelet": plane.kubelet_token(name), "hostplane-proxy": proxy}
            kubeconfigs = {
                user: kubeconfig_text(url=plane.guests_url, ca=_CERTIFICATE, token=token, user=user)
                for user, token in tokens.items()
            }
            files = {
                "hostname": f"{name}\n",
                "kubernetes/apiserver.crt": plane.ca.read_text("ascii"),
                "kubernetes/kubelet.conf": kubeconfigs["kubelet"],
                "kubernetes/hostplane-proxy.conf": kubeconfigs["hostplane-proxy"],
            }
            prepare_disk(image, self._directory / f"{name}.raw", files)

    def start(self, name: str) -> None:
        """Power on.

        Raises:
            LocalError: QemuMissing, MachineNotStarted.
        """
        console = self._open.enter_context((self._directory / f"{name}.console.log").open("wb", buffering=0))

        def keep(data: bytes) -> None:
            console.write(data)

        machine = Machine(
            self._directory / f"{name}.raw",
            Firmware.BIOS,
            memory_mib=MEMORY_MIB,
            network=True,
            raw=keep,
            arguments=["-name", name],
        )
        self._machines[name] = machine.start()

    @property
    def started(self) -> set[str]:
        """Whose power is on."""
        return set(self._machines)

    def check(self) -> None:
        """See that what was started still runs.

        Raises:
            LocalError: GuestEnded.
        """
        for name, machine in self._machines.items():
            if machine.exit_code is not None:
                tail = " / ".join(machine.console.splitlines()[-3:])[-400:]
                raise LocalError("GuestEnded", node=name, tail=tail)

    def stop(self) -> None:
        """Cut the power of all. Safe to repeat."""
        for machine in self._machines.values():
            machine.kill()
        self._machines.clear()
        self._open.close()
