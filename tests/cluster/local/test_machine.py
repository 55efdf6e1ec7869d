"""A simulated host against the real API server, with a stub in the agent's place that does what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent.bootstate import BootState, render
from hostplane.errors import NotFoundError
from hostplane.kube.session import Session
from hostplane.local import processes
from hostplane.local.bootloader import set_fault
from hostplane.local.controlplane import ControlPlane
from hostplane.local.disk import SOCKET, install, slot_path, write_block
from hostplane.local.image import write_image
from hostplane.local.kubelet import Kubelet
from hostplane.local.machine import Machine, Timings
from hostplane.local.pods import Pods

# One word for each connection: reboot, idle (end), pid (answer and stay), crash.
STUB = """
import os, socket, sys
root = sys.argv[1]
assert os.environ["LISTEN_FDS"] == "1" and os.environ["LISTEN_PID"] == str(os.getpid())
listener = socket.socket(fileno=3)
open(root + "/var/lib/hostplane/starts", "a").write("x")
while True:
    listener.setblocking(True)
    connection, _ = listener.accept()
    word = connection.recv(100).decode()
    if word == "reboot":
        open(root + "/run/hostplane/reboot", "w").close()
    if word != "crash":
        connection.sendall(str(os.getpid()).encode())
    connection.close()
    if word == "crash":
        sys.exit(7)
    if word != "pid":
        sys.exit(0)
"""
FAST = Timings(boot=0.05, watchdog=0.1, restart=0.05)


async def say(machine: Machine, word: str) -> str:
    """Connects as a proxy would; the stub's answer."""
    reader, writer = await asyncio.open_unix_connection(str(machine.root / SOCKET))
    writer.write(word.encode())
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    await writer.wait_closed()
    return answer.decode()


@contextlib.asynccontextmanager
async def running(plane: ControlPlane, tmp_path: Path, **options: Any) -> AsyncIterator[tuple[Machine, Session]]:
    """One machine `n1` that runs, its kubelet and its pods."""
    root = tmp_path / "n1"
    install(root, write_image(tmp_path, "v1", filler_bytes=1000))
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    async with await Session.open(str(plane.kubeconfig), connections=2) as session:
        kubelet = Kubelet(session, "n1", {"pool": "a"})
        pods = Pods(session, lambda node: kubelet.is_up if node == "n1" else None)
        agent = [sys.executable, "-S", str(stub), str(root)]
        machine = Machine(root, kubelet, agent, timings=FAST, on_change=pods.host_changed, **options)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(machine.run()), group.create_task(pods.run())]
            await machine.until(lambda m: m.state == "running")
            yield machine, session
            for task in tasks:
                task.cancel()


async def eventually(read: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true answer; an API server can only be asked again."""
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(NotFoundError):
                if answer := await asyncio.to_thread(read):
                    return answer
            await asyncio.sleep(0.02)


def ready(plane: ControlPlane, expected: str) -> Callable[[], Any]:
    def read() -> Any:
        node = plane.api.request("GET", "/api/v1/nodes/n1")
        conditions = {c["type"]: c["status"] for c in node["status"].get("conditions", [])}
        return node if conditions.get("Ready") == expected else None

    return read


def test_a_host_that_boots_becomes_a_ready_node(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    async def story() -> None:
        async with running(clean_cluster, tmp_path) as (machine, _):
            node = await eventually(ready(clean_cluster, "True"))
            assert machine.boot is not None
            assert node["metadata"]["labels"]["pool"] == "a"
            assert node["status"]["nodeInfo"]["bootID"] == machine.boot.boot_id
            assert node["status"]["nodeInfo"]["osImage"] == "Demo OS v1"
            lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1"
            await eventually(lambda: clean_cluster.api.request("GET", lease)["spec"].get("renewTime"))

    asyncio.run(story())


def test_the_agent_runs_only_while_somebody_talks_to_it(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    async def story() -> None:
        async with running(clean_cluster, tmp_path) as (machine, _):
            starts = machine.root / "var/lib/hostplane/starts"
            assert machine.process("agent") is None
            assert not starts.exists()
            assert await say(machine, "pid")
            assert await say(machine, "idle")
            await machine.until(lambda m: m.process("agent") is None)
            assert machine.boots == 1
            assert await say(machine, "pid")
            assert starts.read_text() == "xx"

    asyncio.run(story())


def test_an_agent_that_dies_is_started_for_the_next_caller(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    async def story() -> None:
        async with running(clean_cluster, tmp_path) as (machine, _):
            first = await say(machine, "pid")
            os.kill(int(first), signal.SIGKILL)
            await machine.until(lambda m: m.process("agent") is None)
            assert await say(machine, "pid") != first
            assert machine.boots == 1

    asyncio.run(story())


def test_a_reboot_makes_the_node_notready_and_gives_it_a_new_boot_id(
    clean_cluster: ControlPlane, tmp_path: Path
) -> None:
    async def story() -> None:
        async with running(clean_cluster, tmp_path) as (machine, _):
            before = (await eventually(ready(clean_cluster, "True")))["status"]["nodeInfo"]["bootID"]
            went_down = asyncio.Event()
            machine.kubelet.down = _noting(machine.kubelet.down, went_down)  # type: ignore[method-assign]  # a spy
            await say(machine, "reboot")
            await machine.until(lambda m: m.boots == 2)
            assert went_down.is_set()
            assert machine.boot is not None
            after = await eventually(ready(clean_cluster, "True"))
            assert after["status"]["nodeInfo"]["bootID"] == machine.boot.boot_id != before
            assert not (machine.root / "run/hostplane/reboot").exists()

    asyncio.run(story())


def _noting(function: Callable[[], None], event: asyncio.Event) -> Callable[[], None]:
    def noted() -> None:
        event.set()
        function()

    return noted


def test_a_dead_host_is_notready_until_its_power_comes_back(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    async def story() -> None:
        async with running(clean_cluster, tmp_path) as (machine, _):
            await eventually(ready(clean_cluster, "True"))
            set_fault(machine.root, "A", "dead")
            machine.power_cut()
            await machine.until(lambda m: m.state == "dead")
            await eventually(ready(clean_cluster, "False"))
            set_fault(machine.root, "A", None)
            machine.power_cycle()
            await eventually(ready(clean_cluster, "True"))

    asyncio.run(story())


def test_a_hanging_trial_is_reset_until_the_old_slot_runs(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    async def story() -> None:
        async with running(clean_cluster, tmp_path) as (machine, _):
            image = write_image(tmp_path, "v2", filler_bytes=1000)
            shutil.copy(image.path, slot_path(machine.root, "B"))
            block = render(BootState(seq=2, first="B", a_ok=True, a_left=0, b_ok=False, b_left=2))
            for copy in ("env2", "env1"):
                write_block(machine.root / "boot/hostplane" / copy, block)
            set_fault(machine.root, "B", "hang-after-boot")
            await say(machine, "reboot")
            await machine.until(lambda m: m.state == "hanging")
            await machine.until(lambda m: m.state == "running")
            assert machine.boot is not None
            assert machine.boot.slot == "A"

    asyncio.run(story())


def test_the_agent_starts_by_itself_while_the_slot_is_unproven(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    async def story() -> None:
        async with running(clean_cluster, tmp_path) as (machine, _):
            block = render(BootState(seq=2, first="A", a_ok=False, a_left=3, b_ok=False, b_left=0))
            for copy in ("env2", "env1"):
                write_block(machine.root / "boot/hostplane" / copy, block)
            machine.power_cut()
            await machine.until(lambda m: m.boots == 2 and m.process("agent") is not None)

    asyncio.run(story())


def test_nothing_outlives_the_machine(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    async def story() -> list[processes.Process]:
        proxy = [sys.executable, "-S", "-c", "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"]
        async with running(clean_cluster, tmp_path, proxy=proxy) as (machine, _):
            await say(machine, "pid")
            await machine.until(lambda m: m.process("proxy") is not None)
            found = [machine.process("agent"), machine.process("proxy")]
        return [process for process in found if process is not None]

    children = asyncio.run(story())
    assert len(children) == 2
    assert not any(processes.is_alive(child) for child in children)


def test_pods_run_on_a_host_that_runs_and_leave_when_deleted(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    path = "/api/v1/namespaces/default/pods"
    spec = {"nodeName": "n1", "terminationGracePeriodSeconds": 30, "containers": [{"name": "c", "image": "i"}]}

    def is_ready(expected: str) -> Callable[[], Any]:
        def read() -> Any:
            conditions = clean_cluster.api.request("GET", f"{path}/p")["status"].get("conditions", [])
            return any(c["type"] == "Ready" and c["status"] == expected for c in conditions)

        return read

    def is_gone() -> bool:
        try:
            clean_cluster.api.request("GET", f"{path}/p")
        except NotFoundError:
            return True
        return False

    async def story() -> None:
        async with running(clean_cluster, tmp_path) as (machine, _):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
            clean_cluster.api.request("POST", path, pod)
            await eventually(is_ready("True"))
            set_fault(machine.root, "A", "dead")
            machine.power_cut()
            await eventually(is_ready("False"))
            clean_cluster.api.request("DELETE", f"{path}/p")
            assert not is_gone()  # nobody is there to stop its containers
            set_fault(machine.root, "A", None)
            machine.power_cycle()
            await eventually(is_gone)

    asyncio.run(story())


@pytest.mark.parametrize("kill", [False, True])
def test_a_kubelet_survives_an_api_server_outage(clean_cluster: ControlPlane, tmp_path: Path, kill: bool) -> None:
    async def story() -> None:
        async with running(clean_cluster, tmp_path) as (machine, _):
            await eventually(ready(clean_cluster, "True"))
            await asyncio.to_thread(clean_cluster.stop_apiserver, kill=kill)
            await say(machine, "reboot")
            await machine.until(lambda m: m.boots == 2)
            await asyncio.to_thread(clean_cluster.start_apiserver)
            assert machine.boot is not None
            new = machine.boot.boot_id
            await eventually(
                lambda: clean_cluster.api.request("GET", "/api/v1/nodes/n1")["status"]["nodeInfo"]["bootID"] == new
            )

    asyncio.run(story())
