"""One simulated host: power, firmware, systemd's socket activation, kubelet and the proxy's pod. The agent is real.

    off ──boot loader──▶ running ──agent asks for a reboot, or power_cut()──▶ off ...
                 └──▶ dead (nothing to boot; power_cycle() tries again)      hanging ──watchdog──▶ off

The machine knows nothing of upgrades. It holds the agent's listening socket and starts the agent when somebody
connects, or at boot while the running slot is unproven (the trial's service), and takes an exit together with the file
run/hostplane/reboot for a reboot. What runs on it dies with it, by SIGKILL, as at the end of every real shutdown.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from hostplane.agent.bootstate import BootFiles
from hostplane.local import processes
from hostplane.local.bootloader import Boot, boot
from hostplane.local.disk import SOCKET
from hostplane.local.kubelet import Kubelet

__all__ = ["Machine", "Timings"]


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """How long simulated hardware takes, in seconds."""

    boot: float = 1.0
    """From the reset until the kernel runs."""
    watchdog: float = 2.0
    """Until a hanging system is reset."""
    restart: float = 0.5
    """Between two starts of a program that keeps ending."""


class _Reset(Exception):
    """The machine goes down and boots again."""


class Machine:
    """One host below `root`; `run` it as a task. `agent` and `proxy` are commands, the latter None for no proxy.

    Attributes:
        state: off, running, hanging or dead.
        boot: the running system, None while there is none.
        boots: how many systems came up so far.
    """

    def __init__(
        self,
        root: Path,
        kubelet: Kubelet,
        agent: list[str],
        proxy: list[str] | None = None,
        *,
        timings: Timings | None = None,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        self.root, self.kubelet, self.node = root, kubelet, kubelet.node
        self.state: str = "off"
        self.boot: Boot | None = None
        self.boots = 0
        self._agent, self._proxy = agent, proxy
        self._timings = timings or Timings()
        self._on_change = on_change or (lambda node: None)
        self._power = asyncio.Event()
        self._waiters: set[asyncio.Event] = set()
        self._children: dict[str, processes.Process] = {}

    def power_cut(self) -> None:
        """Everything on the machine stops at this instant; then it boots again. A dead machine tries to boot."""
        self._power.set()

    power_cycle = power_cut

    def process(self, name: str) -> processes.Process | None:
        """The running `agent` or `proxy`, for tests that kill it."""
        return self._children.get(name)

    async def until(self, holds: Callable[[Machine], bool], seconds: float = 30.0) -> None:
        """Waits until `holds(self)`; looked at again whenever the state changes.

        Raises:
            TimeoutError: it did not within `seconds`.
        """
        changed = asyncio.Event()
        self._waiters.add(changed)
        try:
            async with asyncio.timeout(seconds):
                while not holds(self):
                    await changed.wait()
                    changed.clear()
        finally:
            self._waiters.discard(changed)

    async def run(self) -> None:
        """Powers the host on and keeps it so until cancelled; leaves no process behind."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.kubelet.run())
            group.create_task(self._cycle())

    async def _cycle(self) -> None:
        while True:
            self._power.clear()
            found = await asyncio.to_thread(boot, self.root)
            if found is None:
                self._became("dead", None)
                await self._power.wait()
            elif found.fault == "hang-after-boot":
                self._became("hanging", None)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._timings.watchdog):
                        await self._power.wait()
            else:
                try:
                    await self._powered_on(found)
                finally:
                    self._became("off", None)
            await asyncio.sleep(self._timings.boot)

    async def _powered_on(self, found: Boot) -> None:
        """Returns when the machine went down: by its agent's wish or by power_cut()."""
        path = self.root / SOCKET
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.setblocking(False)
            listener.bind(str(path))
            path.chmod(0o660)
            listener.listen(16)
            self.boots += 1
            self._became("running", found)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._serve_agent(listener, found))
                    group.create_task(self._lose_power())
                    if self._proxy is not None:
                        group.create_task(self._serve_proxy(self._proxy))
            except* _Reset:
                pass

    async def _lose_power(self) -> None:
        await self._power.wait()
        raise _Reset

    async def _serve_agent(self, listener: socket.socket, found: Boot) -> None:
        reboot = self.root / "run" / "hostplane" / "reboot"
        boot_files = BootFiles(str(self.root / "boot" / "hostplane"), lambda: None)
        while True:
            if boot_files.read().is_ok(found.slot):
                await _readable(listener)
            await self._run_child("agent", self._agent, listener.fileno())
            if reboot.exists():
                raise _Reset
            await asyncio.sleep(self._timings.restart)

    async def _serve_proxy(self, command: list[str]) -> None:
        while True:
            await self._run_child("proxy", command, None)
            await asyncio.sleep(self._timings.restart)

    async def _run_child(self, name: str, command: list[str], listen: int | None) -> None:
        log = self.root.parent / f"{self.root.name}.{name}.log"
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "NODE_NAME": self.node}
        child = processes.spawn(name, command, log, environment, listen=listen, own_session=False)
        self._children[name] = child
        self._tell()
        try:
            await processes.exited(child)
        finally:
            processes.end([child], signal_number=9)
            del self._children[name]
            self._tell()

    def _became(self, state: str, found: Boot | None) -> None:
        self.state, self.boot = state, found
        if found is not None:
            self.kubelet.running(found)
        else:
            self.kubelet.down()
        self._tell()
        self._on_change(self.node)

    def _tell(self) -> None:
        for waiter in self._waiters:
            waiter.set()


async def _readable(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(listener, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(listener)
