"""A host's Python, the oldest and the newest there is here, merges a whole /etc by itself."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from hostplane.image.root.agentapp import build_agent
from tests.unit.agent.etc.conftest import Rig
from tests.unit.agent.test_zipapp import interpreters

MERGE = """
import json, sys
from hostplane.agent import etc
from hostplane.agent.etc import owners
from hostplane.agent.hostroot import HostRoot
host = HostRoot(sys.argv[1])
seen = etc.preview(host, "A", "B")
report = etc.prepare(host, "A", "B", "keep")
owners.settle(host, "A")
print(json.dumps([seen == report, report.merged, report.conflicts, etc.differences(host, "A")]))
"""


@pytest.mark.parametrize("python", interpreters())
def test_a_host_merges_by_itself(python: str, rig: Rig, tmp_path: Path) -> None:
    rig.write(rig.root, "etc/crictl.yaml", "a: 1\n")
    rig.live("crictl.yaml", "# mine\na: 1\nb: 2\n")
    rig.image("crictl.yaml", "a: 2\n")
    rig.live("sysctl.conf", "a=1\nb=2\n")
    rig.image("sysctl.conf", "a=9\nb=1\n")
    rig.live("motd", "me\n")
    rig.image("motd", "new\n")
    (rig.persist / "etc/A/caf\udce9").write_text("x")
    app = build_agent(tmp_path / "agent.pyz")
    done = subprocess.run(
        [python, "-c", MERGE, str(rig.root)],
        env={"PYTHONPATH": str(app), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    same, merged, conflicts, changes = json.loads(done.stdout)
    assert (same, merged) == (True, 2)
    assert [conflict[0] for conflict in conflicts] == ["motd"]
    assert ["A", "caf\\xe9"] in changes
    assert rig.merged("crictl.yaml") == "# mine\na: 2\nb: 2\n"
