"""A group's own settings: a standing wish beside the Rollouts, under the same budget, that one bad host stops."""

from __future__ import annotations

from typing import Any

import msgspec

from hostplane.api.core import Node
from hostplane.api.host import Grant, HostSettings, HostStatus, SettingsModel, SettingsStatus
from hostplane.api.validate import settings_refusal
from hostplane.errors import reason
from hostplane.planning.actions import SetGrant
from hostplane.planning.outcome import Plan
from hostplane.planning.progress import group_status
from hostplane.planning.snapshot import NEVER
from hostplane.planning.wishes import own_settings, tag, wishes

from . import build
from .clusters import NOW, begun, decide, reasons

S1 = HostSettings(version="s1", configs=[SettingsModel(model="sysctl")], enforce=True)


def idle(name: str, version: str = "", **spec: Any) -> Any:
    """A host on v2 that has nothing to do but its settings."""
    shown = build.host(name).status
    slots = {**shown.slots, "A": msgspec.structs.replace(shown.slots["A"], digest=build.digest("v2"), version="v2")}
    fields: dict[str, Any] = {"slots": slots}
    if version:
        fields["settings"] = SettingsStatus(version=version)
    status: HostStatus = msgspec.structs.replace(shown, **fields)
    return build.host(name, status=status, **spec)


def world(count: int, *, limit: int = 1, settings: HostSettings | None = S1, **fields: Any) -> dict[str, Any]:
    names = [f"n{i}" for i in range(count)]
    labels = {"pool": "web", "hostplane.dev/agent": "native"}
    nodes: dict[str, Node] = {n: build.node(n, labels=labels) for n in names}
    group = build.group("web", max_unavailable=limit, settings=settings)
    hosts = {n: idle(n) for n in names}
    return {"nodes": nodes, "hosts": hosts, "groups": {"web": group}, **fields}


def granted(decided: Plan) -> SetGrant:
    (action,) = decided.begin
    assert isinstance(action, SetGrant)
    return action


def test_they_are_handed_out_without_a_rollout_and_within_the_budget() -> None:
    decided = decide(world(3))
    assert begun(decided) == ["n0"]
    action = granted(decided)
    assert action.settings == S1
    assert (action.grant.operation, action.grant.stage, action.grant.digest) == ("configure", "Switch", "")
    assert reasons(decided) == {"n1": "BudgetFull", "n2": "BudgetFull"}


def test_a_host_that_has_them_is_done_and_one_that_joins_late_catches_up() -> None:
    cluster = world(3)
    cluster["hosts"] |= {"n0": idle("n0", "s1"), "n1": idle("n1", "s1")}
    assert begun(decide(cluster)) == ["n2"]
    cluster["hosts"]["n2"] = idle("n2", "s1")
    decided = decide(cluster)
    assert not decided.begin
    status = group_status(cluster["groups"]["web"], decided.owners["group/web"], decided.wishes.groups["web"], (), NOW)
    assert (status.up_to_date, status.current) == (3, None)


def test_an_unfinished_rollout_speaks_for_the_group() -> None:
    for operation in ("upgrade", "configure"):
        extra = {"settings": HostSettings(version="r1")} if operation == "configure" else {}
        running = build.rollout("r", operation=operation, paused=True, **extra)
        assert not decide(world(1, rollouts={"r": running}, images={"v2": build.image()})).begin


def test_they_stand_above_a_complete_configure_rollout() -> None:
    old = build.rollout("r", operation="configure", settings=HostSettings(version="r1"), complete=True)
    assert granted(decide(world(1, rollouts={"r": old}))).settings == S1
    assert granted(decide(world(1, settings=None, rollouts={"r": old}))).settings == HostSettings(version="r1")


def test_the_image_comes_first() -> None:
    cluster = world(1, rollouts={"up": build.rollout(complete=True)}, images={"v2": build.image()})
    shown = msgspec.structs.replace(build.host("n0").status, phase="Idle")
    cluster["hosts"]["n0"] = build.host("n0", status=shown)  # on v1: it joined late
    decided = decide(cluster)
    assert not decided.begin
    assert reasons(decided) == {"n0": "AwaitingStaging"}


def test_a_host_that_could_not_take_them_stops_the_others_until_they_are_other_ones() -> None:
    cluster = world(3)
    failed = own_settings(cluster["groups"]["web"])
    grant = Grant(
        seq=4,
        operation="configure",
        stage="Release",
        rollout=tag(failed),
        verdict="HostFault",
        why="SettingsNotApplied",
    )
    cluster["hosts"]["n0"] = idle("n0", grant=grant)
    decided = decide(cluster)
    assert not decided.begin
    assert reasons(decided) == {"n0": "SettingsNotApplied", "n1": "TooManyFailed", "n2": "TooManyFailed"}
    cluster["groups"]["web"] = build.group("web", settings=msgspec.structs.replace(S1, version="s2"))
    assert begun(decide(cluster)) == ["n0"]


def test_settings_that_no_host_could_take_are_said_and_stop_nothing_else() -> None:
    bad = HostSettings(version="s1", configs=[SettingsModel(model="kuberntes.kubelet")])
    why = settings_refusal(bad)
    assert why is not None
    cluster = world(2, settings=bad, refused={"settings/web": why}, rollouts={"up": build.rollout()})
    cluster["images"] = {"v2": build.image()}
    decided = decide(cluster)
    assert not decided.begin
    status = group_status(cluster["groups"]["web"], decided.owners["group/web"], decided.wishes.groups["web"], (), NOW)
    said = {c.type: (c.status, c.reason, c.message) for c in status.conditions}
    assert said["SettingsAccepted"][:2] == ("False", "SettingsModelUnknown")
    assert "kuberntes.kubelet" in said["SettingsAccepted"][2]
    assert status.up_to_date == 2  # the upgrade goes on


def test_drift_is_a_condition_of_the_group() -> None:
    cluster = world(2)
    shown = msgspec.structs.replace(
        idle("n1", "s1").status, settings=SettingsStatus(version="s1", drift=["/etc/motd: files /etc/motd"])
    )
    cluster["hosts"] = {"n0": idle("n0", "s1"), "n1": build.host("n1", status=shown)}
    decided = decide(cluster)
    status = group_status(cluster["groups"]["web"], decided.owners["group/web"], decided.wishes.groups["web"], (), NOW)
    (said,) = [c for c in status.conditions if c.type == "Drifted"]
    assert (said.status, said.reason) == ("True", "SettingsDrifted")
    assert "on 1 of the hosts" in said.message
    assert "n1" in said.message


def test_never_is_never() -> None:
    cluster = world(1)
    cluster["nodes"]["n0"] = build.node("n0", labels={"pool": "web", "hostplane.dev/agent": "native", NEVER: ""})
    assert not decide(cluster).begin


def test_every_version_of_them_is_a_wish_of_its_own() -> None:
    one = build.group("web", settings=S1)
    other = build.group("web", settings=msgspec.structs.replace(S1, version="s2"))
    assert own_settings(one).metadata.uid != own_settings(other).metadata.uid
    assert len(tag(own_settings(one))) <= 128
    assert not wishes({"web": one}, {}, unsettled={"web"}).groups["web"].has_own_settings


def test_without_a_version_every_change_is_a_wish_of_its_own() -> None:
    said = HostSettings(configs=[SettingsModel(model="sysctl")])
    found = set()
    for settings in (said, msgspec.structs.replace(said, enforce=True), HostSettings(configs=[])):
        made = granted(decide(world(1, settings=settings))).settings
        assert made is not None
        assert made.version
        assert made.configs == settings.configs
        found.add(made.version)
        cluster = world(1, settings=settings)
        cluster["hosts"]["n0"] = idle("n0", made.version)
        assert not decide(cluster).begin
    assert len(found) == 3


def test_what_a_host_would_refuse_is_refused_before() -> None:
    assert settings_refusal(S1) is None
    assert settings_refusal(HostSettings()) == reason("SettingsUnversioned")
    assert settings_refusal(HostSettings(), needs_version=False) is None
