"""Settings on a real host: systemd restarts and enables, GRUB hands over arguments, drift is seen by itself."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hostplane.cli.settings import command
from hostplane.image.building.store import default_store
from tests.vm.guest import COMMAND_SECONDS, TEST_SECONDS
from tests.vm.upgrade.host import UpgradeHost, powered_on
from tests.vm.upgrade.images import Images, Keys

UNIT = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/touch /run/mine

[Install]
WantedBy=multi-user.target
"""
PLAIN: list[dict[str, Any]] = [
    {"model": "sysctl", "contents": [{"key": "vm.swappiness", "value": 7}]},
    {"model": "kernel.arguments", "contents": [{"key": "audit", "value": "0"}, {"key": "hp.test"}]},
    {"model": "limits", "contents": [{"key": "* hard nofile", "value": 5000}]},
    {"model": "hostname", "contents": [{"key": "name", "value": "renamed"}]},
    {
        "model": "files",
        "contents": [
            {
                "key": "/etc/systemd/journald.conf.d/60-mine.conf",
                "value": {"content": "[Journal]\nRuntimeMaxUse=9M\n", "restart": "systemd-journald.service"},
            },
            {"key": "/etc/motd", "value": "hello\n"},
        ],
    },
]
UNITS = [{"model": "units", "contents": [{"key": "mine.service", "value": {"content": UNIT}}]}]


def configure(host: UpgradeHost, seq: int, version: str, configs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """`settings` of the report after the request."""
    report = host.call("configure", seq=seq, settings={"version": version, "configs": configs, **more})
    found: dict[str, Any] = report["settings"]
    return found


@pytest.mark.long
@pytest.mark.timeout(2 * TEST_SECONDS)
def test_settings_hold_now_and_after_a_reboot_and_go_when_they_are_taken_back(images: Images, tmp_path: Path) -> None:
    one, key = images.made(), Keys(default_store().parent / "tests/upgrade-keys").private
    assert one.disk is not None
    with powered_on(one.disk, {}) as host:
        before = host.tree("/etc")
        journal = host.run("systemctl show -p MainPID systemd-journald.service")
        assert configure(host, 1, "s1", PLAIN) == {"version": "s1", "error": "", "rebootNeeded": True}
        assert host.run("sysctl -n vm.swappiness; uname -n; cat /etc/motd").split() == ["7", "renamed", "hello"]
        assert host.run("systemctl show -p MainPID systemd-journald.service") != journal

        error = configure(host, 2, "s2", UNITS)["error"]
        assert error.startswith("HP-6421"), error
        document = tmp_path / "s3.json"
        document.write_text(json.dumps({"version": "s3", "configs": UNITS}))
        signed = CliRunner().invoke(command, ["sign", str(document), "--key", str(key), "--key-id", "test"])
        assert signed.exit_code == 0, signed.output
        assert configure(host, 3, "s3", UNITS, signatures=signed.output.strip())["error"] == ""
        assert host.run("systemctl is-enabled mine.service; ls /run/mine").split() == ["enabled", "/run/mine"]

        host.run("rm /etc/systemd/system/multi-user.target.wants/mine.service")
        deadline = time.monotonic() + COMMAND_SECONDS
        while "drift" not in (found := host.call("status")["settings"]):
            assert time.monotonic() < deadline, found
            host.run("sleep 1")
        assert found["drift"] == ["/etc/systemd/system/multi-user.target.wants/mine.service: units mine.service"]
        assert configure(host, 4, "s4", PLAIN, enforce=True)["error"] == ""
        host.run("echo other >/etc/motd; sysctl -w vm.swappiness=60")
        while host.run("cat /etc/motd; sysctl -n vm.swappiness").split() != ["hello", "7"]:
            assert time.monotonic() < deadline + COMMAND_SECONDS
            host.run("sleep 1")

        host.reboot()
        assert host.arrive("A")
        assert {"audit=0", "hp.test"} <= set(host.run("cat /proc/cmdline").split())
        assert host.run("sysctl -n vm.swappiness; uname -n").split() == ["7", "renamed"]
        assert host.call("status")["settings"] == {"version": "s4", "error": ""}

        assert host.run("hostplane-agent settings undo").split()[0] == "Everything"
        assert host.run("uname -n; test -e /etc/systemd/system/mine.service || echo gone").split() == ["small", "gone"]
        after = host.tree("/etc")
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        assert not {path for path in changed if not path.endswith(".d")}, changed
