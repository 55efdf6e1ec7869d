"""A NodeGroup's settings, from the API server to the host's files: operator, proxy and agent are the real ones."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostplane.agent.main import main as agent_main
from hostplane.api.core import NODE
from hostplane.api.host import Host
from hostplane.api.nodegroup import NODEGROUP, NodeGroup
from hostplane.errors import NotFoundError
from tests.cluster.operator.harness import operator
from tests.cluster.proxy.conftest import NODE as NAME
from tests.cluster.proxy.conftest import Stand

Scene = Callable[..., None]
KUBELET = "# the image's\nmaxPods: 110\n"
SELECTOR = {"selector": {"matchLabels": {"group": "g"}}}
CONFIGS: list[dict[str, Any]] = [
    {"model": "sysctl", "contents": [{"key": "vm.swappiness", "value": 1}]},
    {"model": "kubelet", "contents": [{"key": "maxPods", "value": 50}]},
    {"model": "files", "contents": [{"key": "/etc/motd", "value": "hello\n"}]},
]


def furnish(root: Path) -> None:
    """What the settings need on a simulated host."""
    policy = {"schema": "1.0", "settings": {"allowedPaths": ["/etc/motd"]}}
    for name, text in {
        "proc/sys/vm/swappiness": "60\n",
        "var/lib/kubelet/config.yaml": KUBELET,
        "etc/motd": "welcome\n",
        "usr/lib/hostplane/policy.json": json.dumps(policy),
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


async def join(stand: Stand) -> None:
    """The node says that it carries our agent, and to which group it belongs."""
    await stand.machine.until(lambda machine: machine.state == "running")
    labels = {"hostplane.dev/agent": "native", "group": "g"}
    for _ in range(100):
        try:
            await stand.session.patch(NODE, NAME, {"metadata": {"labels": labels}})
            return
        except NotFoundError:  # its kubelet has not said so yet
            await asyncio.sleep(0.1)


async def wish(stand: Stand, version: str, configs: list[dict[str, Any]], **more: Any) -> None:
    """Give the group these settings."""
    settings = {"version": version, "configs": configs, "undo": False, "enforce": False, **more}
    spec = {**SELECTOR, "settings": settings}
    try:
        await stand.session.patch(NODEGROUP, "g", {"spec": spec})
    except NotFoundError:
        await stand.session.create(NODEGROUP, NODEGROUP.manifest("g", spec=spec))


async def group_says(stand: Stand, holds: Callable[[NodeGroup], bool]) -> NodeGroup:
    """The group as soon as `holds`, looked at again at every change."""
    async with asyncio.timeout(30):
        while True:
            listed = await stand.session.list(NODEGROUP)
            group: NodeGroup = listed.items[0]
            if holds(group):
                return group
            async with stand.session.watch(NODEGROUP, listed.resource_version) as changes:
                async for change in changes:
                    if change.object is not None:
                        break


def has(version: str, **fields: Any) -> Callable[[Host], bool]:
    """Whether a Host reports these settings."""

    def holds(host: Host) -> bool:
        found = host.status.settings
        if found is None or found.version != version:
            return False
        return all(getattr(found, name) == value for name, value in fields.items())

    return holds


def test_settings_of_a_group_reach_the_hosts_files_drift_is_seen_and_put_right(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up() as stand, operator(str(stand.plane.kubeconfig)):
            root = stand.machine.root
            furnish(root)
            await wish(stand, "s1", CONFIGS)
            await join(stand)
            host = await stand.until(has("s1", error=""))
            assert host.spec.grant is not None
            assert host.spec.grant.rollout.endswith("/1")
            assert (root / "proc/sys/vm/swappiness").read_text() == "1\n"
            assert (root / "etc/sysctl.d/99-zz-hostplane.conf").read_text() == "vm.swappiness = 1\n"
            assert (root / "var/lib/kubelet/config.yaml").read_text() == KUBELET.replace("110", "50")
            assert (root / "etc/motd").read_text() == "hello\n"
            assert stand.machine.boots == 1
            await stand.until(lambda h: h.spec.grant is not None and h.spec.grant.stage == "Release")
            group = await group_says(stand, lambda g: g.status.up_to_date == 1)
            assert group.status.current is None

            (root / "etc/motd").write_text("not so\n")
            await drift(root)
            await stand.until(has("s1", drift=["/etc/motd: files /etc/motd"]))
            await wish(stand, "s2", CONFIGS, enforce=True)
            await stand.until(has("s2", drift=[]))
            assert (root / "etc/motd").read_text() == "hello\n"
            (root / "etc/motd").write_text("not so\n")
            await drift(root)
            assert (root / "etc/motd").read_text() == "hello\n"

            await wish(stand, "s3", [], undo=True)
            await stand.until(has("s3"))
            assert (root / "etc/motd").read_text() == "welcome\n"
            assert (root / "var/lib/kubelet/config.yaml").read_text() == KUBELET
            assert not (root / "etc/sysctl.d/99-zz-hostplane.conf").exists()

    scene(body)


async def drift(root: Path) -> None:
    """What hostplane-drift.service runs."""
    assert await asyncio.to_thread(agent_main, ["settings", "drift", "--root", str(root)]) == 0


def test_settings_that_hurt_are_taken_back_and_nobody_else_gets_them(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up() as stand, operator(str(stand.plane.kubeconfig)):
            root = stand.machine.root
            furnish(root)
            await stand.session.create(NODEGROUP, NODEGROUP.manifest("g", spec=SELECTOR))
            await join(stand)
            await stand.until(lambda h: bool(h.status.phase))
            sick = root / "run/hostplane/unhealthy/kubelet.service"
            sick.parent.mkdir(parents=True)
            sick.write_text("")
            await wish(stand, "s1", [*CONFIGS, {"model": "check", "contents": [{"key": "seconds", "value": 1}]}])
            host = await stand.until(lambda h: h.status.settings is not None and bool(h.status.settings.error))
            assert host.status.settings is not None
            assert "HP-6423" in host.status.settings.error
            assert (root / "var/lib/kubelet/config.yaml").read_text() == KUBELET
            assert (root / "etc/motd").read_text() == "welcome\n"
            group = await group_says(stand, lambda g: any(c.type == "Failed" for c in g.status.conditions))
            assert group.status.up_to_date == 0
            sick.unlink()
            await wish(stand, "s2", CONFIGS)
            await stand.until(has("s2", error=""))

    scene(body)


def test_settings_that_no_host_could_take_are_said_on_the_group_and_touch_no_host(stand_up: Any, scene: Scene) -> None:
    async def body() -> None:
        async with stand_up() as stand, operator(str(stand.plane.kubeconfig)):
            furnish(stand.machine.root)
            await stand.session.create(NODEGROUP, NODEGROUP.manifest("g", spec=SELECTOR))
            await join(stand)
            await stand.until(lambda h: bool(h.status.phase))
            wrong = [{"model": "kernel.arguments", "contents": [{"key": "root", "value": "/dev/sda1"}]}]
            await wish(stand, "s1", wrong)
            group = await group_says(
                stand, lambda g: any(c.type == "SettingsAccepted" and c.status == "False" for c in g.status.conditions)
            )
            (said,) = [c for c in group.status.conditions if c.type == "SettingsAccepted"]
            assert said.reason == "SettingRefused"
            assert "root of kernel.arguments" in said.message
            host = await stand.until(lambda h: True)
            assert host.spec.grant is None

    scene(body)


async def told(stand: Stand, file: Path, *words: str) -> tuple[int, str]:
    """`hostplane settings diff`: exit code and what it says."""
    command = [sys.executable, "-m", "hostplane.cli", "settings", "diff", str(file), *words]
    command += ["--kubeconfig", str(stand.plane.kubeconfig)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


def test_the_desk_is_told_what_settings_would_change_and_nothing_does(
    stand_up: Any, scene: Scene, tmp_path: Path
) -> None:
    def document(*more: dict[str, Any]) -> Path:
        settings = {"version": "s1", "configs": [*CONFIGS, *more]}
        file = tmp_path / f"{len(more)}.json"
        file.write_text(json.dumps({"kind": "NodeGroup", "spec": {**SELECTOR, "settings": settings}}))
        return file

    async def body() -> None:
        async with stand_up() as stand:
            root = stand.machine.root
            furnish(root)
            (root / "etc/motd").write_text("hello\n")  # as wished already
            (root / "boot/hostplane/args1").write_bytes(b"")  # a loader of ours
            before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and "etc" in path.parts}
            await stand.create()
            await stand.phase("Idle")
            arguments = {"model": "kernel.arguments", "contents": [{"key": "audit", "value": 0}]}
            code, said = await told(stand, document(arguments), NAME)
            assert (code, said.splitlines()) == (
                0,
                [
                    f"{NAME}: a reboot is needed; services told: restart kubelet.service",
                    "  /etc/sysctl.d/99-zz-hostplane.conf: sysctl vm.swappiness",
                    "  /var/lib/kubelet/config.yaml: kubelet maxPods",
                    "  /boot/hostplane/args#A: kernel.arguments audit",
                    "  /boot/hostplane/args#B: kernel.arguments audit",
                    "  /proc/sys/vm/swappiness: sysctl vm.swappiness",
                ],
            )
            forbidden = {"model": "files", "contents": [{"key": "/etc/passwd", "value": "secret"}]}
            code, said = await told(stand, document(arguments, forbidden), NAME, "nobody", "--json", "--seconds", "20")
            answers = json.loads(said)
            assert code == 1
            assert "HP-6421" in answers[NAME]["error"], "as configuring would be refused"
            assert "secret" not in said
            assert "nobody" in answers["nobody"]["error"]
            assert {path: path.read_bytes() for path in before} == before
            assert (root / "var/lib/kubelet/config.yaml").read_text() == KUBELET
            host = await stand.until(lambda host: host.spec.preview is None and host.status.preview is None)
            assert host.status.settings is None
            await stand.kill("agent")
            stand.break_agent("hangs")
            code, said = await told(stand, document(), NAME, "--seconds", "2")
            assert (code, "HP-7517" in said) == (1, True)
            stand.mend_agent()
            await stand.until(lambda host: host.spec.preview is None and host.status.preview is None)

    scene(body)
