"""An upgrade's /etc on a booted host: merged by the agent as its unit runs it, owners settled early, and back again."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.guest import TEST_SECONDS, Bench, Guest
from tests.vm.restarting import rebooting

pytestmark = pytest.mark.timeout(TEST_SECONDS)
UNIT = "/usr/lib/systemd/system/hostplane-agent.service"
# The unit's own sandbox around another program.
MERGE = (
    r"sed -e '/^ExecStart=/d; /^Restart/d; /^Type=/d; /^\[Service\]/a Type=oneshot' "
    r"-e '/^\[Service\]/a ExecStart=/usr/bin/python3 /var/lib/merge.py\nStandardOutput=file:/run/merge'"
    f" {UNIT} >/run/systemd/system/merge.service"
    " && systemctl daemon-reload && { systemctl start merge || { cat /run/merge; false; }; } && cat /run/merge"
)
SCRIPT = r"""import sys
sys.path.insert(0, "/usr/lib/hostplane/agent.pyz")
from hostplane.agent import bootstate, etc
from hostplane.agent.hostroot import HostRoot
if sys.argv[1:]:
    files = bootstate.BootFiles("/boot/hostplane", lambda: None)
    state = files.read()
    files.write(state.with_slot(sys.argv[1], True, 0)._replace(first=sys.argv[1], seq=state.seq + 1))
else:
    report = etc.prepare(HostRoot("/"), "A", "B", "stop")
    print("moved", sorted(set(each.name for each in report.moved)), "merged", report.merged)
"""
PRINT = (
    "cd /persist/etc/A && find . -type f -exec sha256sum {} + | sort | sha256sum;"
    r" find . -printf '%p %m %U %G %l\n' | sort | sha256sum"
)
TIMESYNC = "stat -c %U /var/lib/systemd/timesync"


def number_of(passwd: str, name: str) -> str:
    found = re.search(rf"^{name}:x:(\d+):", passwd, re.MULTILINE)
    assert found, f"no {name} in the image"
    return found.group(1)


def swapped(passwd: str, one: str, other: str) -> str:
    first, second = number_of(passwd, one), number_of(passwd, other)
    half = re.sub(rf"(?m)^{one}:x:{first}:", f"{one}:x:{second}:", passwd)
    return re.sub(rf"(?m)^{other}:x:{second}:", f"{other}:x:{first}:", half)


def test_both_sides_arrive_owners_follow_and_going_back_restores_the_old_etc(
    debian_disk: Callable[..., Path], tmp_path: Path
) -> None:
    bench = Bench(debian_disk(), tmp_path)
    bench.copy_slot()
    passwd = subprocess.run(
        ["debugfs", "-R", "cat /etc/passwd", f"{bench.path}?offset={bench.parts['ROOT-B'][0]}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    for name, content in (
        ("passwd", swapped(passwd, "systemd-timesync", "systemd-network") + "fresh:x:321:65534::/:/bin/false\n"),
        ("motd", "the new image\n"),
    ):
        (tmp_path / name).write_text(content)
        bench.debugfs("ROOT-B", "cd /etc", f"rm {name}", f"write {tmp_path / name} {name}", f"sif {name} mode 0100644")
    with rebooting(bench.path) as machine:
        host = Guest(machine)
        assert host.banner() == ("A", "healthy")
        host.log_in()
        host.run(f"echo {base64.b64encode(SCRIPT.encode()).decode()} | base64 -d >/var/lib/merge.py")
        host.run("useradd -m -u 1500 ops && systemctl mask e2scrub_all.timer && chmod 600 /etc/motd")
        assert host.run(TIMESYNC).strip() == "systemd-timesync"
        assert "M /etc/passwd" in host.run("hostplane-agent etc diff")
        assert "moved ['systemd-network', 'systemd-timesync'] merged 1" in host.run(MERGE)
        assert host.run(
            "ls /persist/etc; findmnt -rno TARGET | grep -c hostplane/etc; losetup -a", fails=False
        ).split() == [
            "A",
            "B",
            "0",
        ]
        live = host.run(PRINT)
        host.run("python3 /var/lib/merge.py B")
        host.reboot()
        assert host.banner() == ("B", "healthy")
        host.log_in()
        assert host.run("cat /etc/motd; stat -c %a /etc/motd").split() == ["the", "new", "image", "600"]
        assert host.run("id -u ops; id -u fresh; id -u systemd-timesync").split() == [
            "1500",
            "321",
            number_of(passwd, "systemd-network"),
        ]
        assert host.run(TIMESYNC).strip() == "systemd-timesync"
        assert host.run(
            "systemctl is-active hostplane-owners; readlink /etc/systemd/system/e2scrub_all.timer"
        ).split() == [
            "active",
            "/dev/null",
        ]
        assert host.run(PRINT) == live
        host.run("python3 /var/lib/merge.py A")
        host.reboot()
        assert host.banner() == ("A", "healthy")
        host.log_in()
        assert host.run(TIMESYNC).strip() == "systemd-timesync"
        assert host.run("id -u systemd-timesync").strip() == number_of(passwd, "systemd-timesync")
        assert host.run(PRINT) == live
