"""The end of the virtual machines' demo is read off the Hosts, and only what was told counts as success."""

from __future__ import annotations

import msgspec
import pytest

from hostplane.api.host import Host
from hostplane.local.demo_story import Release, Returned
from hostplane.local.vmstory import VmSummary, deviations, returned_from, runs

V2 = Release(version="2.0.0", digest="sha256:" + "2" * 64, pretty_name="v2")
V3 = Release(version="3.0.0", digest="sha256:" + "3" * 64, pretty_name="v3")
AS_TOLD = VmSummary(
    hosts=3,
    upgraded=3,
    returned=1,
    returned_hosts=[Returned(node="vm-1", name="CheckFailed", code="HP-6000", message="kubelet")],
    budget=1,
    max_unavailable_seen=1,
    wall_s=1.0,
)


def host(phase: str = "Idle", state: str = "Confirmed", digest: str = V2.digest, **status: object) -> Host:
    slots = {"A": {"state": state, "digest": digest, "version": "2.0.0"}, "B": {"state": "Bad"}}
    body = {"metadata": {"name": "vm-1"}, "status": {"phase": phase, "activeSlot": "A", "slots": slots, **status}}
    return msgspec.convert(body, Host)


def test_a_host_runs_a_release_only_when_it_is_on_it_for_good() -> None:
    assert runs(host(), V2)
    assert runs(host(phase="Staged"), V2)
    assert not runs(host(), V3)
    assert not runs(host(phase="Trial"), V2)
    assert not runs(host(phase="Rebooting"), V2)
    assert not runs(host(state="Trial"), V2)


def test_a_return_is_told_with_the_agents_own_reason() -> None:
    error = {"name": "CheckFailed", "code": "HP-6000", "message": "HP-6000: The kubelet does not answer."}
    back = host(failedDigests=[{"digest": V3.digest, "name": "CheckFailed"}], lastError={**error, "digest": V3.digest})
    told = Returned(node="vm-1", name="CheckFailed", code="HP-6000", message="The kubelet does not answer.")
    assert returned_from(back, V3) == told
    assert returned_from(back, V2) is None
    assert returned_from(host(), V3) is None


def test_what_went_as_told_has_no_deviation() -> None:
    assert deviations(AS_TOLD) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"upgraded": 2}, "VmDemoNotUpgraded"),
        ({"returned": 0, "returned_hosts": []}, "VmDemoNotReturned"),
        ({"returned": 2}, "VmDemoNotReturned"),
        ({"max_unavailable_seen": 2}, "DemoBudgetExceeded"),
    ],
)
def test_anything_else_is_a_deviation(change: dict[str, object], name: str) -> None:
    assert [why.name for why in deviations(msgspec.structs.replace(AS_TOLD, **change))] == [name]
