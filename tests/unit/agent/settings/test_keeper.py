"""The agent's settings, over its socket and at the console: outcome, drift, undo, another slot, what was cut off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from hostplane.agent.hostroot import HostRoot
from hostplane.agent.main import main
from hostplane.agent.settings import bootargs
from hostplane.agent.settings.journal import Journal
from hostplane.agent.settings.request import Request
from hostplane.rpc.client import AgentClient
from tests.unit.agent.settings.test_request import UNIT, furnish, policy

CONFIGS = [
    {"model": "sysctl", "contents": [{"key": "vm.swappiness", "value": 1}]},
    {"model": "files", "contents": [{"key": "/etc/motd", "value": "hello\n"}]},
]


def settings(version: str, configs: Any = None, **more: Any) -> dict[str, Any]:
    return {"version": version, "configs": CONFIGS if configs is None else configs, **more}


@pytest.fixture
def agent(host: Any) -> Iterator[AgentClient]:
    furnish(host)
    host.start()
    client = host.client(host_uid="uid")
    yield client
    client.close()


def test_settings_are_reported_with_what_they_need_and_kept_over_a_restart(host: Any, agent: AgentClient) -> None:
    arguments = [{"model": "kernel.arguments", "contents": [{"key": "quiet"}]}]
    status = agent.call("configure", seq=3, settings=settings("s1", CONFIGS + arguments))
    assert status["settings"] == {"version": "s1", "error": "", "rebootNeeded": True}
    assert (host.root / "etc/motd").read_text() == "hello\n"
    assert agent.call("configure", seq=3, settings=settings("s1", CONFIGS + arguments))["seq"] == 3
    host.kill(host.processes[0])
    host.boot()
    host.start()
    with host.client() as again:
        assert again.call("status")["settings"] == {"version": "s1", "error": ""}  # it has rebooted


def test_a_refusal_is_in_the_report_and_the_next_request_mends_it(host: Any, agent: AgentClient) -> None:
    wrong = [{"model": "files", "contents": [{"key": "/etc/shadow", "value": "x"}]}]
    status = agent.call("configure", seq=3, settings=settings("s1", wrong))
    assert status["settings"]["version"] == ""
    assert status["settings"]["error"].startswith("HP-6421: ")
    assert not (host.root / "etc/shadow").exists()
    assert agent.call("configure", seq=4, settings=settings("s2"))["settings"] == {"version": "s2", "error": ""}


def test_drift_is_found_by_the_units_command_and_told_to_who_rests(
    host: Any, agent: AgentClient, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.call("configure", seq=3, settings=settings("s1"))
    look = ["settings", "drift", "--root", str(host.root)]
    assert main(look) == 0
    assert capsys.readouterr().out == "All settings hold.\n"
    assert not (host.root / "run/hostplane/news").exists()
    (host.root / "etc/motd").write_text("other\n")
    assert main(look) == 0
    assert capsys.readouterr().out == "/etc/motd: files /etc/motd\n"
    assert agent.call("status")["settings"]["drift"] == ["/etc/motd: files /etc/motd"]
    assert (host.root / "run/hostplane/news").exists()
    (host.root / "etc/motd").write_text("hello\n")
    assert main(look) == 0
    assert "drift" not in agent.call("status")["settings"]


def test_drift_is_put_right_where_the_settings_say_so(host: Any, agent: AgentClient) -> None:
    agent.call("configure", seq=3, settings=settings("s1", enforce=True))
    (host.root / "etc/motd").write_text("other\n")
    host.write("proc/sys/vm/swappiness", "60\n")
    assert main(["settings", "drift", "--root", str(host.root)]) == 0
    assert (host.root / "etc/motd").read_text() == "hello\n"
    assert (host.root / "proc/sys/vm/swappiness").read_text() == "1\n"
    assert agent.call("status")["settings"] == {"version": "s1", "error": ""}


def test_the_veto_holds_enforcement_back(host: Any, agent: AgentClient) -> None:
    agent.call("configure", seq=3, settings=settings("s1", enforce=True))
    (host.root / "etc/motd").write_text("other\n")
    host.write("etc/hostplane/never", "")
    assert main(["settings", "drift", "--root", str(host.root)]) == 0
    assert (host.root / "etc/motd").read_text() == "other\n"
    assert agent.call("status")["settings"]["drift"]


def test_undo_at_the_console(host: Any, agent: AgentClient) -> None:
    agent.call("configure", seq=3, settings=settings("s1"))
    assert main(["settings", "undo", "--root", str(host.root)]) == 0
    assert (host.root / "etc/motd").read_text() == "welcome\n"
    assert "settings" not in agent.call("status")  # the cluster's wish, where it stands, comes again


def test_settings_that_another_slots_etc_does_not_have_are_wished_again(host: Any, agent: AgentClient) -> None:
    agent.call("configure", seq=3, settings=settings("s1"))
    host.kill(host.processes[0])
    state = json.loads((host.root / "var/lib/hostplane/state.json").read_text())
    host.write("var/lib/hostplane/state.json", json.dumps({**state, "settingsSlot": "B"}))
    host.start()
    with host.client() as again:  # the other slot ran last, and this one's /etc holds them still
        host.until(again, lambda status: status.get("settings", {}).get("version") == "s1")
    host.kill(host.processes[1])
    state = json.loads((host.root / "var/lib/hostplane/state.json").read_text())
    host.write("var/lib/hostplane/state.json", json.dumps({**state, "settingsSlot": "B"}))
    (host.root / "etc/motd").write_text("of the other slot\n")
    host.start()
    with host.client() as again:
        host.until(again, lambda status: "settings" not in status)
    assert (host.root / "etc/motd").read_text() == "of the other slot\n"


def test_a_request_that_was_interrupted_is_finished_by_the_next_agent(host: Any) -> None:
    from hostplane.agent.settings import carry

    furnish(host)
    root = HostRoot(str(host.root))
    request = Request("s1", [("files", "", [("/etc/motd", "hello\n", "")])])
    plan = carry.make_plan(root, "A", request, None)
    from hostplane.agent.settings.journal import Record

    Journal(root).begin(Record().followed_by(plan, request, root.boot_id(), []))
    assert (host.root / "etc/motd").read_text() == "welcome\n"
    host.start()
    with host.client() as agent:
        status = host.until(agent, lambda status: "settings" in status)
    assert status["settings"] == {"version": "s1", "error": ""}
    assert (host.root / "etc/motd").read_text() == "hello\n"


# --- diff


def test_diff_shows_everything_and_changes_nothing(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    furnish(host)
    configs = [
        *CONFIGS,
        {"model": "kernel.arguments", "contents": [{"key": "quiet"}]},
        {"model": "kubelet", "contents": [{"key": "maxPods", "value": 50}]},
        {"model": "units", "contents": [{"key": "my.service", "value": {"content": UNIT}}]},
    ]
    document = {"kind": "NodeGroup", "spec": {"settings": settings("s1", configs)}}
    file = host.write("group.json", json.dumps(document))
    before = bootargs.ArgsFiles(str(host.root / "boot/hostplane"), lambda: None).read()
    assert main(["settings", "diff", str(file), "--root", str(host.root)]) == 0
    out = capsys.readouterr().out
    for line in (
        "-welcome",
        "+hello",
        "+quiet",
        "-maxPods: 110 # many",
        "+-> /etc/systemd/system/my.service",
        "/proc/sys/vm/swappiness: 60 -> 1",
        "Services: restart kubelet.service, settle my.service",
        "Checked afterwards, within 45 s: kubelet.service",
        "A reboot is needed: yes",
    ):
        assert line + "\n" in out
    assert (host.root / "etc/motd").read_text() == "welcome\n"
    assert bootargs.ArgsFiles(str(host.root / "boot/hostplane"), lambda: None).read() == before
    assert not (host.root / "var/lib/hostplane/settings").exists()
    yaml = host.write("group.yaml", "spec:\n  settings:\n    version: s1\n    configs: []\n")
    assert main(["settings", "diff", str(yaml), "--root", str(host.root)]) == 0
    assert capsys.readouterr().out == "Nothing would change.\n"


@pytest.mark.parametrize("text", ["", "[]", "a: [", "spec: {}", '{"configs": 1}', '{"configs": [1]}'])
def test_a_document_that_is_none_is_refused(host: Any, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = host.write("x.yaml", text)
    assert main(["settings", "diff", str(file), "--root", str(host.root)]) == 1
    assert "HP-6428" in capsys.readouterr().err


def test_an_image_without_a_readable_policy_takes_no_settings(host: Any) -> None:
    furnish(host)
    host.write("usr/lib/hostplane/policy.json", "{")
    file = host.write("x.json", json.dumps(settings("s1")))
    assert main(["settings", "diff", str(file), "--root", str(host.root)]) == 1
    host.write("usr/lib/hostplane/policy.json", policy("/etc/motd", signed=("sysctl",)))
    assert main(["settings", "diff", str(file), "--root", str(host.root)]) == 1
