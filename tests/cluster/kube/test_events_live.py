"""Events as kubectl shows them."""

from __future__ import annotations

import asyncio
import json

from hostplane.errors import reason
from hostplane.kube.events import EventRecorder
from hostplane.kube.session import Session
from hostplane.local.controlplane import ControlPlane
from tests.cluster.kube.kube_live import NODE


def test_repeated_events_are_one_with_a_count(clean_cluster: ControlPlane) -> None:
    async def main() -> None:
        async with await Session.open(clean_cluster.kubeconfig) as session:
            node = await session.create(NODE, NODE.manifest("n"))
            recorder = EventRecorder(session, "hostplane-test")
            why = reason("LeadershipLost", identity="x")
            for _ in range(100):
                recorder.emit(NODE, node, why)
            recorder.emit(NODE, "n", why, "Warning")
            await recorder.flush(10)
            recorder.emit(NODE, node, why)
            await recorder.flush(10)
            found = json.loads(await session.request("GET", "/api/v1/namespaces/default/events"))["items"]
        assert {(event["type"], event["count"]) for event in found} == {("Normal", 101), ("Warning", 1)}
        assert {event["reason"] for event in found} == {"LeadershipLost"}
        described = clean_cluster.kubectl("describe", "node", "n")
        assert "not the leader" in str(described)

    asyncio.run(main())
