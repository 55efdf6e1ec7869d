"""A root of one program, and the command line that builds it, as a process that can be killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from hostplane.image.building.tools import require

_DEADLINE = 60.0
_RECIPE = """\
name = "tiny"
version = "1"
distro = "debian"
release = "12"
agent = false

[packages]
backend = "tree"
source = "root"
defaults = false
kernel = false

[disk]
size_gib = 10

[image]
outputs = ["root-tar"]
"""
# Where a file asks for it, a step says that it has come here and stays until it is killed.
_HOLD = """
[[script]]
name = "hold-{when}-{stage}"
stage = "{stage}"
when = "{when}"
place = "host"
environment = {{ HERE = "{here}" }}
content = "if [ -e $HERE/hold-{when}-{stage} ]; then touch $HERE/held-{when}-{stage}; exec sleep 3737; fi"
"""


class Tiny:
    """The recipe in `here`/recipe.toml, its root beside it, and builds of it."""

    def __init__(self, here: Path) -> None:
        """Make the root."""
        require("busybox")
        self.here = here
        self.store = here / "store"
        self.out = here / "out"
        self.recipe = here / "recipe.toml"
        root = here / "root"
        for name in ("bin", "etc", "usr/lib", "var", "run", "proc", "sys", "dev", "tmp", "root", "home"):
            (root / name).mkdir(parents=True, exist_ok=True)
        program = shutil.which("busybox")
        assert program is not None
        shutil.copy(program, root / "bin/busybox")
        for name in ("sh", "cat", "ls", "sleep", "touch", "id", "mount", "env", "chown", "mkdir", "rm"):
            (root / "bin" / name).symlink_to("busybox")
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\n")
        (root / "etc/group").write_text("root:x:0:\n")
        (root / "usr/lib/os-release").write_text('ID=debian\nVERSION_ID="12"\nPRETTY_NAME="tiny"\n')
        self.write()

    def write(self, more: str = "") -> None:
        """The recipe, with `more` tables."""
        self.recipe.write_text(_RECIPE + more)

    def holds(self, *points: tuple[str, str]) -> str:
        """Scripts that can hold a build before or after a stage: more for `write`."""
        return "".join(_HOLD.format(when=when, stage=stage, here=self.here) for when, stage in points)

    def command(self, *arguments: str) -> list[str]:
        """The command line of a build."""
        head = [sys.executable, "-m", "hostplane.cli", "image", "build", str(self.recipe), "--json"]
        return [*head, "--store", str(self.store), "-o", str(self.out), *arguments]

    def build(
        self, *arguments: str, env: Mapping[str, str] | None = None, expect: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Build to the end."""
        done = subprocess.run(
            self.command(*arguments),
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=_DEADLINE,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    def how(self, *arguments: str) -> dict[str, str]:
        """Build, and say of each stage whether it was made or cached."""
        last = json.loads(self.build(*arguments).stdout.splitlines()[-1])
        return {row["stage"]: row["how"] for row in last["stages"]}

    def told(self) -> list[dict[str, Any]]:
        """The events of the build that was held last."""
        lines = (self.here / "held.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    @contextmanager
    def held(self, when: str, stage: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A build that has come to `when` `stage` and stays there; whoever asked ends it. Its events are `told`."""
        hold, held = self.here / f"hold-{when}-{stage}", self.here / f"held-{when}-{stage}"
        hold.touch()
        log = (self.here / "held.log").open("wb")
        process = subprocess.Popen(self.command(*arguments), stdout=log, stderr=log, start_new_session=True)
        try:
            until(lambda: held.exists() or process.poll() is not None, "the build did not come to the point")
            assert process.poll() is None, (self.here / "held.log").read_text()
            hold.unlink()
            yield process
        finally:
            hold.unlink(missing_ok=True)
            held.unlink(missing_ok=True)
            if process.poll() is None:
                process.kill()
            process.wait(10)
            log.close()


def events(done: subprocess.CompletedProcess[str], kind: str) -> list[dict[str, Any]]:
    """The events of one kind that a build told."""
    return [event for line in done.stdout.splitlines() if (event := json.loads(line))["event"] == kind]


def until(is_so: Callable[[], bool], otherwise: str) -> None:
    """Wait for something another process does."""
    end = time.monotonic() + _DEADLINE
    while not is_so():
        assert time.monotonic() < end, otherwise
        time.sleep(0.01)


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The builder's worker, and process 1 of the worker's namespaces below it."""
    found = psutil.Process(process.pid).children()
    return [*found, *(child for worker in found for child in worker.children())]


def traces(here: Path) -> dict[str, object]:
    """What a build might leave behind on the machine: mounts, loop devices, processes that know of `here`."""
    processes = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.cwd()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(here) in word for word in words) and not _is_test(words):
            processes.append(words)
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    loops = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return {
        "mounts": [line for line in mounts if str(here) in line or " hostplane " in line],
        "loops": [line for line in loops if str(here) in line],
        "processes": processes,
    }


def _is_test(words: list[str]) -> bool:
    return any("pytest" in word for word in words)


def gone(process: psutil.Process) -> None:
    """Kill it as nothing can prevent."""
    process.send_signal(signal.SIGKILL)
