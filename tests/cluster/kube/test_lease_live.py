"""Leader election on a real Lease; one candidate is a process that gets stopped."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from hostplane.kube.lease import LEASE, Leader, boot_clock
from hostplane.kube.session import Session
from hostplane.local.controlplane import ControlPlane
from tests.cluster.kube.fault_proxy import faults
from tests.cluster.kube.kube_live import until

TIMES = {"duration": 3.0, "renew": 2.0, "retry": 0.3}
CANDIDATE = """
import asyncio, json, sys
from hostplane.kube.lease import Leader, boot_clock
from hostplane.kube.session import Session

async def believe(leader):
    while True:
        now = boot_clock()
        if leader.is_leader:
            print(now, flush=True)
        await asyncio.sleep(0.002)

async def main():
    async with await Session.open(sys.argv[1]) as session, asyncio.TaskGroup() as tasks:
        leader = Leader(session, "default", "election", "stopped", **json.loads(sys.argv[2]))
        tasks.create_task(believe(leader))
        while True:
            await leader.acquire()
            await leader.lost()

asyncio.run(main())
"""


def test_a_stopped_leader_is_replaced_and_knows_it(clean_cluster: ControlPlane) -> None:
    async def main() -> None:
        async with await Session.open(clean_cluster.kubeconfig) as session:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", CANDIDATE, str(clean_cluster.kubeconfig), json.dumps(TIMES)),
                stdout=asyncio.subprocess.PIPE,
            )
            assert process.stdout is not None
            beliefs: list[float] = []

            async def read(stream: asyncio.StreamReader = process.stdout) -> None:
                async for line in stream:
                    beliefs.append(float(line))

            reading = asyncio.create_task(read())
            try:
                await until(lambda: beliefs)
                second = Leader(session, "default", "election", "second", **TIMES)
                taking = asyncio.create_task(second.acquire())
                await until(lambda: second._seen is not None)
                process.send_signal(signal.SIGSTOP)
                await until(taking.done)
                reign = boot_clock()
                process.send_signal(signal.SIGCONT)
                keeping = asyncio.create_task(second.lost())
                await until(lambda: boot_clock() > reign + 4)  # longer than the duration: it had its chances
                assert second.is_leader
                assert max(beliefs) < reign
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
                await second.release()
                await until(lambda: beliefs[-1] > reign, 10)
                lease = await session.get(LEASE, "election", "default")
                assert lease.spec.holder_identity == "stopped"
            finally:
                process.kill()
                await process.wait()
                await reading

    asyncio.run(main())


def test_a_leader_survives_a_short_outage_and_yields_to_a_long_one(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            faults(clean_cluster.kubeconfig, tmp_path) as proxy,
            await Session.open(proxy.kubeconfig) as session,
        ):
            leader = Leader(session, "default", "election", "only", **TIMES)
            await leader.acquire()
            keeping = asyncio.create_task(leader.lost())
            proxy.inject("PATCH", "/leases/", b"", times=2)  # happened, but the answers are lost
            await until(lambda: sum("PATCH" in line for line in proxy.seen) >= 5)
            assert leader.is_leader
            proxy.inject("PATCH", "/leases/", b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", times=1000)
            await until(keeping.done, 5)
            assert not leader.is_leader

    asyncio.run(main())


def test_only_one_of_many_leads(clean_cluster: ControlPlane) -> None:
    async def main() -> None:
        async with await Session.open(clean_cluster.kubeconfig) as session:
            leaders = [Leader(session, "default", "election", f"c{number}", **TIMES) for number in range(5)]
            taking = [asyncio.create_task(leader.acquire()) for leader in leaders]
            order = []
            for _ in leaders:
                await until(lambda: any(leader.is_leader for leader in leaders), 10)
                (leading,) = [leader for leader in leaders if leader.is_leader]
                order.append(leading.identity)
                await leading.release()
            await asyncio.gather(*taking)
            assert sorted(order) == [f"c{number}" for number in range(5)]

    asyncio.run(main())
