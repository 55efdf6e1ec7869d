"""A real registry, certificates of an authority of our own, and a forward proxy that counts who comes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import socketserver
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

DEADLINE = 20.0
USER, PASSWORD = "reader", "pssst"
# bcrypt of PASSWORD: a registry takes no other form, and nothing here can make one
_HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuREut0OeZkktVgJfaqI98BtdiQWb53sa\n"


class Authority:
    """An authority that exists for one test run; EC keys, valid for two days."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        self.ca = directory / "ca.pem"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-subj", "/CN=test authority", "-keyout", directory / "ca.key", "-out", self.ca),
        )

    def issue(self, name: str, expired: bool = False) -> tuple[Path, Path]:
        """(certificate, key) for localhost."""
        cert, key, request = (self.directory / f"{name}.{end}" for end in ("pem", "key", "csr"))
        extension = self.directory / "san"
        extension.write_text("subjectAltName=DNS:localhost,DNS:registry.test\n")
        _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", f"/CN={name}", "-keyout", key, "-out", request),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.directory / "ca.key", "-out", cert),
            *("-set_serial", "2" if expired else "3", "-extfile", extension, "-days", "-1" if expired else "2"),
        )
        return cert, key


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=30)


class Options(NamedTuple):
    """How a registry lets in."""

    cert: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    password: bool = False
    token: dict[str, str] | None = None


class Registry:
    """Debian's registry in a directory of its own."""

    def __init__(self, directory: Path, options: Options = Options()) -> None:  # noqa: B008
        directory.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.host = f"localhost:{self.port}"
        lines = [
            "version: 0.1",
            "log: {level: error, accesslog: {disabled: true}}",
            f"storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}",
            "http:",
            f"  addr: 127.0.0.1:{self.port}",
        ]
        if options.cert is not None:
            lines += ["  tls:", f"    certificate: {options.cert}", f"    key: {options.key}"]
            if options.client_ca is not None:
                lines += [f"    clientcas: [{options.client_ca}]"]
        if options.password:
            (directory / "htpasswd").write_text(_HTPASSWD)
            lines += ["auth:", "  htpasswd:", "    realm: test", f"    path: {directory}/htpasswd"]
        if options.token is not None:
            lines += ["auth:", "  token:", *(f"    {key}: {value}" for key, value in options.token.items())]
        (directory / "config.yml").write_text("\n".join(lines) + "\n")
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            ["docker-registry", "serve", str(directory / "config.yml")],
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )
        deadline = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE)
        self._log.close()


def push(source: str, target: str, *options: str, everything: bool = True) -> None:
    """Copies an image, and everything its index names if told to, as anybody would."""
    done = subprocess.run(
        [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--quiet",
            *(["--all"] if everything else []),
            *options,
            source,
            f"docker://{target}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def digest_by_tag(registry: Registry, repository: str, tag: str) -> str:
    """What the registry has under a tag: not what was pushed, because tools write an index anew."""
    ref = f"docker://{registry.host}/{repository}:{tag}"
    command = ["skopeo", "inspect", "--raw", "--tls-verify=false", ref]
    raw = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
    return "sha256:" + hashlib.sha256(raw).hexdigest()


class Proxy:
    """A forward proxy for CONNECT and for whole addresses; with a password it lets nobody else through."""

    def __init__(self, password: str = "") -> None:
        self.asked: list[str] = []
        wanted = "Basic " + base64.b64encode(password.encode()).decode() if password else ""
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                first = self.rfile.readline().decode()
                headers = {}
                while (line := self.rfile.readline().decode().strip()) != "":
                    key, _, value = line.partition(":")
                    headers[key.lower()] = value.strip()
                proxy.asked.append(first.strip())
                method, target, _ = first.split()
                if wanted and headers.get("proxy-authorization") != wanted:
                    self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                    return
                place, _, path = (target if method == "CONNECT" else target[len("http://") :]).partition("/")
                host, _, port = place.partition(":")
                with socket.create_connection((host, int(port)), DEADLINE) as onward:
                    if method == "CONNECT":
                        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    else:
                        headers.pop("proxy-authorization", None)
                        lines = [f"{method} /{path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
                        onward.sendall("\r\n".join([*lines, "connection: close", "", ""]).encode())
                    back = threading.Thread(target=_pump, args=(onward, self.connection), daemon=True)
                    back.start()
                    if method == "CONNECT":
                        _pump(self.connection, onward)
                    back.join(DEADLINE)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://{password + '@' if password else ''}localhost:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
