"""One simulated host with the real agent and the real proxy; the test is the operator."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hostplane.api.host import HOST, Host
from hostplane.kube.informer import Informer
from hostplane.kube.session import Session
from hostplane.local.controlplane import ControlPlane
from hostplane.local.disk import SOCKET, install
from hostplane.local.image import Image, ImageServer, write_image
from hostplane.local.kubelet import Kubelet
from hostplane.local.machine import Machine, Timings
from hostplane.proxy.view import HostView

NODE = "n1"
SECONDS = 40.0
_AGENT = """
import os, sys, time
root = sys.argv[1]
try:
    how = open(root + "/broken").read()
except FileNotFoundError:
    how = ""
if how == "dies":
    sys.exit(1)
while how == "hangs" and os.path.exists(root + "/broken"):
    time.sleep(0.1)
if how:
    sys.exit(1)
from hostplane.agent.main import main
sys.exit(main(["serve", "--root", root, "--idle-seconds", "0.5"]))
"""


class Stand:
    """The host `n1` and its Host object, as an operator sees and writes it."""

    def __init__(self, plane: ControlPlane, session: Session, machine: Machine, images: dict[str, dict[str, Any]]):
        self.plane, self.session, self.machine, self.images = plane, session, machine, images
        self.view = HostView()

    async def create(self, **spec: Any) -> Host:
        """Make the Host."""
        return await self.session.create(HOST, {**HOST.manifest(NODE), "spec": {"nodeUid": "node-uid", **spec}})

    async def wish(self, **spec: Any) -> None:
        """Change the spec; None takes a member away."""
        await self.session.patch(HOST, NODE, {"spec": spec})

    async def grant(self, seq: int, stage: str, version: str, operation: str = "upgrade", trial: int = 60) -> None:
        """Write a stage of a grant."""
        digest = self.images[version]["digest"] if version else ""
        given = {"seq": seq, "operation": operation, "digest": digest, "stage": stage, "trialSeconds": trial}
        await self.wish(grant=given)

    async def until(self, holds: Callable[[Host], bool], seconds: float = SECONDS) -> Host:
        """The Host as soon as `holds`."""
        try:
            async with asyncio.timeout(seconds):
                while self.view.host is None or not holds(self.view.host):
                    await self.view.changed.wait()
        except TimeoutError:
            raise AssertionError(f"not in {seconds} s: {self.view.host}\n{self.logs()}") from None
        return self.view.host

    async def phase(self, phase: str) -> Host:
        """The Host as soon as it reports `phase`."""
        return await self.until(lambda host: host.status.phase == phase)

    async def kill(self, name: str) -> None:
        """SIGKILL the agent or the proxy, if it runs, and see it gone."""
        process = self.machine.process(name)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            await self.machine.until(lambda m: m.process(name) is not process)

    def break_agent(self, how: str) -> None:
        """An agent that starts from now on "dies" or "hangs"."""
        (self.machine.root / "broken").write_text(how)

    def mend_agent(self) -> None:
        """Undo it."""
        (self.machine.root / "broken").unlink()

    def logs(self) -> str:
        """What agent and proxy said last."""
        root = self.machine.root
        files = [root.parent / f"{root.name}.{name}.log" for name in ("agent", "proxy")]
        return "\n".join(file.read_text()[-3000:] for file in files if file.exists())


StandUp = Callable[..., contextlib.AbstractAsyncContextManager[Stand]]


@pytest.fixture
def stand_up(clean_cluster: ControlPlane, tmp_path: Path) -> StandUp:
    """`async with stand_up() as stand`.

    Keywords besides these go into the agent's configuration; `proxy_code` is Python that runs instead of the command.
    """

    @contextlib.asynccontextmanager
    async def standing(
        *, kubeconfig: Path | None = None, proxy_code: str = "", **agent_settings: Any
    ) -> AsyncIterator[Stand]:
        images = {v: write_image(tmp_path / "images", v, filler_bytes=20_000) for v in ("v1", "v2", "v3")}
        root = tmp_path / NODE
        install(root, images["v1"], **agent_settings)
        agent = [sys.executable, "-c", _AGENT, str(root)]
        proxy = [sys.executable, "-m", "hostplane.cli", "proxy", "--socket", str(root / SOCKET)]
        proxy += ["--kubeconfig", str(kubeconfig or clean_cluster.kubeconfig)]
        if proxy_code:
            proxy = [sys.executable, "-c", proxy_code, str(root / SOCKET), str(clean_cluster.kubeconfig)]
        with ImageServer(tmp_path / "images") as server:
            async with await Session.open(str(clean_cluster.kubeconfig), connections=2) as session:
                timings = Timings(boot=0.2, watchdog=0.5, restart=0.1)
                machine = Machine(root, Kubelet(session, NODE), agent, proxy, timings=timings)
                stand = Stand(
                    clean_cluster, session, machine, {v: _wished(image, server) for v, image in images.items()}
                )
                informer = Informer(session, HOST, on_change=lambda _, host: stand.view.see(host))
                tasks = [asyncio.create_task(machine.run()), asyncio.create_task(informer.run())]
                try:
                    await informer.synced()
                    yield stand
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

    return standing


def _wished(image: Image, server: ImageServer) -> dict[str, Any]:
    ref = server.address(image)
    return {"format": "rootTar", "ref": ref, "digest": image.digest, "size": image.size, "version": image.version}


@pytest.fixture
def scene() -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs an async test body with a limit on the whole."""

    def run(body: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(200):
                await body()

        asyncio.run(bounded())

    return run
