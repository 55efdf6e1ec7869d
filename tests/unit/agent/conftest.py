"""A host as a directory, its boot loader and a web server with bad manners: what the agent's tests are made of."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent import bootstate
from hostplane.agent.state import Image
from hostplane.errors import HostError
from hostplane.rpc.client import AgentClient

DEADLINE = 20.0
OLD = b"the old image" * 1000
NEW = b"the new image" * 3000


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class HostDir:
    """One host below `root`, slot A proven and running."""

    OLD, NEW, DEADLINE = OLD, NEW, DEADLINE
    digest_of = staticmethod(digest_of)

    def __init__(self, root: Path) -> None:
        self.root = root
        self.boots = 0
        self.processes: list[subprocess.Popen[bytes]] = []
        self.settings: dict[str, Any] = {
            "allowUnsignedTar": True,
            "installed": {"digest": digest_of(OLD), "version": "v1", "size": len(OLD)},
            "stallSeconds": 2,
            "fetchAttempts": 2,
        }
        self.write("dev/hostplane/ROOT-A", OLD)
        self.write("dev/hostplane/ROOT-B", b"")
        self.write("payload", NEW)
        (root / "boot/hostplane").mkdir(parents=True)
        (root / "var/lib/hostplane").mkdir(parents=True)
        self.write_boot(bootstate.BootState(1, "A", True, 0, False, 0))
        self.configure()
        self.boot()

    @property
    def socket(self) -> str:
        return str(self.root / "run/hostplane/agent.sock")

    @property
    def image(self) -> dict[str, Any]:
        return self.image_of(NEW, "file:///payload")

    def image_of(self, content: bytes, ref: str) -> dict[str, Any]:
        size, digest = len(content), digest_of(content)
        return {"format": "rootTar", "ref": ref, "digest": digest, "size": size, "version": "v2"}

    def as_image(self) -> Image:
        """The same for calls within this process."""
        return Image(**self.image)

    def forget(self) -> None:
        """A host that was never touched: slot A proven and running, no state."""
        shutil.rmtree(self.root / "var/lib/hostplane")
        (self.root / "var/lib/hostplane").mkdir()
        self.write_boot(bootstate.BootState(1, "A", True, 0, False, 0))
        self.boot()

    def write(self, path: str, content: bytes | str, mode: int = 0o644) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)
        return target

    def configure(self, **settings: Any) -> None:
        self.settings.update(settings)
        self.write("etc/hostplane/agent.json", json.dumps(self.settings))

    def check(self, script: str, name: str = "50-check") -> None:
        self.write("etc/hostplane/checks.d/" + name, "#!/bin/sh\n" + script + "\n", 0o755)

    def write_boot(self, state: bootstate.BootState) -> None:
        for name in ("env2", "env1"):
            self.write("boot/hostplane/" + name, bootstate.render(state))

    def boot_state(self) -> bootstate.BootState:
        env1, env2 = ((self.root / "boot/hostplane" / name).read_bytes() for name in ("env1", "env2"))
        return bootstate.choose(env1, env2)

    def slot(self, name: str) -> bytes:
        return (self.root / "dev/hostplane" / ("ROOT-" + name)).read_bytes()

    def boot(self) -> str:
        """What the boot loader does; gives the slot. Fails when the slot holds no complete image."""
        env1, env2 = ((self.root / "boot/hostplane" / name).read_bytes() for name in ("env1", "env2"))
        slot, block = bootstate.plan_boot(env1, env2)
        assert slot is not None, "rescue"
        assert self.slot(slot).startswith((OLD, NEW)), "an incomplete system would be booted"
        if block is not None:
            self.write("boot/hostplane/env2", block)
            self.write("boot/hostplane/env1", block)
        self.boots += 1
        shutil.rmtree(self.root / "run", ignore_errors=True)
        (self.root / "run/hostplane").mkdir(parents=True)
        self.write("proc/cmdline", f"quiet hostplane.slot={slot}\n")
        self.write("proc/sys/kernel/random/boot_id", f"boot-{self.boots}\n")
        return slot

    # --- the agent as a process

    def start(self, *arguments: str, python: str = sys.executable, **options: Any) -> subprocess.Popen[bytes]:
        command = [python, "-m", "hostplane.agent.main"] if python == sys.executable else [python]
        command += ["serve", "--root", str(self.root), "--socket", self.socket, *arguments]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
        self.processes.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE)

    def client(self, path: str | None = None, host_uid: str = "") -> AgentClient:
        """A connection to the agent, waited for."""
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                return AgentClient(path or self.socket, timeout=DEADLINE, host_uid=host_uid).__enter__()
            except HostError as fault:
                if fault.name != "AgentUnreachable" or time.monotonic() > deadline:
                    raise
                threading.Event().wait(0.02)

    def until(self, client: AgentClient, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status for which `holds`."""
        deadline = time.monotonic() + DEADLINE
        status = client.call("status")
        while not holds(status):
            assert time.monotonic() < deadline, status
            status = client.call("wait", revision=status["revision"], timeoutSeconds=5)
        return status

    def staged(self, client: AgentClient, image: dict[str, Any] | None = None) -> dict[str, Any]:
        """The status once staging has ended."""
        client.call("stage", image=image or self.image)
        return self.until(client, lambda status: status["phase"] != "Staging")

    def restarted(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for the reboot the agent asked for, and boot; gives the slot."""
        assert process.wait(DEADLINE) == 0
        assert (self.root / "run/hostplane/reboot").exists()
        return self.boot()


@pytest.fixture(autouse=True)
def no_handler_stays() -> Iterator[None]:
    """The command line sends the log to the standard error of its own test, which is closed for the next one."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HostDir]:
    made = HostDir(tmp_path)
    yield made
    for process in made.processes:
        if process.poll() is None:
            made.kill(process)


class Web:
    """A web server; each request is answered by `behave(handler, number)`, numbers counting from 0."""

    def __init__(self) -> None:
        self.behave: Callable[[http.server.BaseHTTPRequestHandler, int], None] = lambda handler, number: None
        self.ranges: list[str | None] = []
        self.over = threading.Event()
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.ranges.append(self.headers["Range"])
                with contextlib.suppress(OSError):
                    web.behave(self, len(web.ranges) - 1)

            def log_message(self, *_: object) -> None:
                pass

        class QuietServer(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass

        self.server = QuietServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/image"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self._thread.start()

    def serve(self, content: bytes, cut: int | None = None) -> None:
        """Serve `content` with ranges; the first answer breaks off after `cut` bytes."""

        def behave(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
            asked = handler.headers["Range"]
            start = int(asked[len("bytes=") : -1]) if asked else 0
            handler.send_response(206 if asked else 200)
            if asked:
                handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            handler.send_header("Content-Length", str(len(content) - start))
            handler.end_headers()
            body = content[start:]
            handler.wfile.write(body[:cut] if cut is not None and number == 0 else body)

        self.behave = behave

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.close()


@pytest.fixture
def raw_socket(host: HostDir) -> Iterator[Callable[[str], socket.socket]]:
    """Bare connections to a unix socket, closed at the end."""
    opened: list[socket.socket] = []

    def connect(path: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE)
        directory = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        finally:
            os.close(directory)
        opened.append(sock)
        return sock

    yield connect
    for sock in opened:
        sock.close()
