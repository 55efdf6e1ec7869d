"""The session against a real API server: what each verb does, and how refusals look."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from hostplane.api.meta import ApiStruct, ObjectMeta, Resource
from hostplane.errors import ClusterError, ConflictError, GoneError, NotFoundError, ThrottledError, UnreachableError
from hostplane.kube.session import Session
from hostplane.local.controlplane import ControlPlane
from tests.cluster.kube.fault_proxy import CUT, answer, faults
from tests.cluster.kube.kube_live import NODE


class Any_(ApiStruct, frozen=True, kw_only=True, gc=False):
    metadata: ObjectMeta = ObjectMeta()


POD = Resource(Any_, "", "v1", "Pod", "pods", namespaced=True)
BUDGET = Resource(Any_, "policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", namespaced=True)


def test_a_list_in_pages_is_whole_and_at_one_version(clean_cluster: ControlPlane) -> None:
    async def main() -> None:
        async with await Session.open(clean_cluster.kubeconfig) as session:
            async with asyncio.TaskGroup() as tasks:
                for number in range(23):
                    labels = {"odd": str(number % 2)}
                    body = {"metadata": {"name": f"n{number}", "labels": labels}}
                    tasks.create_task(session.create(NODE, body))
            versions = [page.resource_version async for page in session.pages(NODE, limit=5)]
            assert len(versions) == 5
            assert len(set(versions)) == 1
            assert {item.metadata.name for item in (await session.list(NODE, limit=5)).items} == {
                f"n{number}" for number in range(23)
            }
            assert len((await session.list(NODE, label_selector="odd=1", limit=5)).items) == 11
            found = await session.list(NODE, field_selector="metadata.name=n7")
            assert [item.metadata.name for item in found.items] == ["n7"]

    asyncio.run(main())


def test_writes_are_conditional_where_they_say_so(clean_cluster: ControlPlane) -> None:
    async def main() -> None:
        async with await Session.open(clean_cluster.kubeconfig) as session:
            made = await session.create(NODE, NODE.manifest("n"))
            with pytest.raises(ConflictError) as caught:
                await session.create(NODE, NODE.manifest("n"))
            assert caught.value.name == "ObjectExists"
            condition = {"resourceVersion": made.metadata.resource_version}
            cordoned = await session.patch(NODE, "n", {"metadata": condition, "spec": {"unschedulable": True}})
            assert cordoned.spec.unschedulable
            with pytest.raises(ConflictError) as caught:
                await session.patch(NODE, "n", {"metadata": condition, "spec": {"unschedulable": False}})
            assert caught.value.name == "WriteConflict"
            with pytest.raises(ConflictError):
                await session.delete(NODE, "n", uid="00000000-0000-0000-0000-000000000000")
            await session.delete(NODE, "n", uid=made.metadata.uid)
            with pytest.raises(NotFoundError):
                await session.get(NODE, "n")

    asyncio.run(main())


def test_apply_owns_its_fields_and_status_is_apart(clean_cluster: ControlPlane) -> None:
    async def main() -> None:
        async with await Session.open(clean_cluster.kubeconfig) as session:
            one = {"metadata": {"name": "n", "labels": {"a": "1"}}}
            two = {"metadata": {"name": "n", "labels": {"a": "2"}}}
            await session.patch(NODE, "n", one, kind="apply", field_manager="first")
            with pytest.raises(ConflictError, match="first"):
                await session.patch(NODE, "n", two, kind="apply", field_manager="second")
            forced = await session.patch(NODE, "n", two, kind="apply", field_manager="second", force=True)
            assert forced.metadata.labels == {"a": "2"}
            status = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
            await session.patch(NODE, "n", status, subresource="status")
            raw = json.loads(await session.request("GET", "/api/v1/nodes/n"))
            assert raw["status"]["conditions"][0]["type"] == "Ready"
            operations = [{"op": "remove", "path": "/metadata/labels/a"}]
            assert (await session.patch(NODE, "n", operations, kind="json")).metadata.labels == {}

    asyncio.run(main())


def test_a_refusal_carries_the_servers_words(clean_cluster: ControlPlane) -> None:
    async def main() -> None:
        async with await Session.open(clean_cluster.kubeconfig) as session:
            with pytest.raises(ClusterError, match="not a label!") as caught:
                await session.create(
                    NODE, NODE.manifest("n") | {"metadata": {"name": "n", "labels": {"a": "not a label!"}}}
                )
            assert caught.value.name == "RequestInvalid"
            assert await session.request("GET", "/readyz") == b"ok"

    asyncio.run(main())


def test_a_wrong_token_is_forbidden(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    wrong = tmp_path / "kubeconfig"
    wrong.write_text(clean_cluster.kubeconfig.read_text().replace(clean_cluster.token, "wrong"))

    async def main() -> None:
        async with await Session.open(wrong) as session:
            with pytest.raises(ClusterError) as caught:
                await session.list(NODE)
            assert caught.value.name == "RequestForbidden"

    asyncio.run(main())


def test_an_untrusted_server_is_unreachable(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    content = clean_cluster.kubeconfig.read_text().replace("certificate-authority:", "ignored:")
    (tmp_path / "kubeconfig").write_text(content)

    async def main() -> None:
        async with await Session.open(tmp_path / "kubeconfig") as session:
            with pytest.raises(UnreachableError, match="certificate"):
                await session.create(NODE, NODE.manifest("n"))

    asyncio.run(main())


def test_an_eviction_is_blocked_by_its_budget_by_name(clean_cluster: ControlPlane) -> None:
    async def main() -> None:
        async with await Session.open(clean_cluster.kubeconfig) as session:
            labels = {"app": "web"}
            pod = POD.manifest("p", "default", spec={"containers": [{"name": "c", "image": "i"}], "nodeName": "n"})
            pod["metadata"]["labels"] = labels
            made = await session.create(POD, pod, "default")
            ready = [{"type": "Ready", "status": "True"}]
            await session.patch(POD, "p", {"status": {"phase": "Running", "conditions": ready}}, "default", "status")
            budget = BUDGET.manifest(
                "web-budget", "default", spec={"minAvailable": 1, "selector": {"matchLabels": labels}}
            )
            await session.create(BUDGET, budget, "default")
            with pytest.raises(ThrottledError, match="web-budget") as caught:
                await session.evict("default", "p", uid=made.metadata.uid)
            assert caught.value.name == "EvictionBlocked"
            await session.delete(BUDGET, "web-budget", "default")
            await session.evict("default", "p", uid=made.metadata.uid, grace_seconds=0, dry_run=True)
            assert (await session.get(POD, "p", "default")).metadata.deletion_timestamp is None
            with pytest.raises(ConflictError):
                await session.evict("default", "p", uid="00000000-0000-0000-0000-000000000000")
            await session.evict("default", "p", uid=made.metadata.uid, grace_seconds=0)
            with pytest.raises(NotFoundError):
                await session.get(POD, "p", "default")

    asyncio.run(main())


def test_a_watch_from_before_the_servers_memory_is_gone(clean_cluster: ControlPlane) -> None:
    async def main() -> None:
        async with await Session.open(clean_cluster.kubeconfig) as session:
            await session.create(NODE, NODE.manifest("n"))
            await asyncio.to_thread(clean_cluster.restart, kill=True)  # its memory begins here
            with pytest.raises(GoneError):
                async with session.watch(NODE, "1") as changes:
                    await anext(changes)

    asyncio.run(main())


@pytest.mark.long  # the server sends one a minute, and promises none sooner
def test_a_bookmark_carries_a_quiet_watch_past_what_it_does_not_see(clean_cluster: ControlPlane) -> None:
    async def main() -> None:
        async with await Session.open(clean_cluster.kubeconfig) as session:
            mine = "metadata.name=mine"
            version = (await session.list(NODE, field_selector=mine)).resource_version
            other = await session.create(NODE, NODE.manifest("other"))
            async with session.watch(NODE, version, field_selector=mine, seconds=150) as changes:
                bookmark = await anext(changes)
            assert bookmark.object is None
            assert int(bookmark.resource_version) >= int(other.metadata.resource_version)

    asyncio.run(main())


def test_reads_outlast_429_and_cuts_and_writes_report_them(clean_cluster: ControlPlane, tmp_path: Path) -> None:
    async def main() -> None:
        async with faults(clean_cluster.kubeconfig, tmp_path) as proxy, await Session.open(proxy.kubeconfig) as session:
            proxy.inject("GET", "/nodes", answer(429, retry_after=0.01))
            proxy.inject("GET", "/nodes", CUT)
            proxy.inject("GET", "/nodes", answer(503))
            assert (await session.list(NODE)).items == []
            assert len(proxy.seen) == 4
            proxy.inject("POST", "/nodes", answer(429, retry_after=4))
            with pytest.raises(ThrottledError) as caught:
                await session.create(NODE, NODE.manifest("n"))
            assert caught.value.retry_after == 4
            proxy.inject("POST", "/nodes", CUT)
            with pytest.raises(UnreachableError):
                await session.create(NODE, NODE.manifest("n"))
            assert (await session.get(NODE, "n")).metadata.name == "n"  # it had happened

    asyncio.run(main())
