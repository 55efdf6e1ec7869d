"""An apt repository of a few real packages, signed for real, made in a second and served as a test wants it."""

from __future__ import annotations

import base64
import hashlib
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hostplane.image.building.tools import require

__all__ = ["SUITE", "DebRepository", "certificates", "served"]

SUITE = "bookworm"
_DATE = "Sat, 01 Jun 2024 00:00:00 UTC"
EPOCH = 1717200000


class DebRepository:
    """A repository below `here`/repository with its key in `here`/key.asc."""

    def __init__(self, here: Path) -> None:
        """Make an empty one, with a key of its own."""
        require("gpg")
        require("dpkg-deb")
        self.here = here
        self.path = here / "repository"
        self.key = here / "key.asc"
        self._gpg_home = here / "gpg"
        self._gpg_home.mkdir(parents=True, mode=0o700)
        self._stanzas: dict[str, str] = {}
        self._gpg("--quick-generate-key", "--batch", "--passphrase", "", "Test", "ed25519", "sign", "never")
        self.key.write_bytes(self._gpg("--export", "--armor"))
        (self.path / "pool").mkdir(parents=True)

    def close(self) -> None:
        """End the key's agent."""
        subprocess.run(["gpgconf", "--homedir", str(self._gpg_home), "--kill", "all"], check=True, timeout=30)

    def add(self, name: str, version: str = "1.0", *, depends: str = "", essential: bool = False, **files: str) -> None:
        """A package; `files` are contents by path, with __ for a slash and no dot needed."""
        tree = self.here / "build" / f"{name}_{version}"
        (tree / "DEBIAN").mkdir(parents=True)
        copyright_file = tree / f"usr/share/doc/{name}/copyright"
        copyright_file.parent.mkdir(parents=True)
        copyright_file.write_text(
            "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2+\n"
        )
        for path, content in files.items():
            file = tree / path.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: T <t@example.com>\n"
        control += f"Depends: {depends}\n" if depends else ""
        control += "Essential: yes\n" if essential else ""
        control += f"Description: {name}\n"
        (tree / "DEBIAN/control").write_text(control)
        deb = self.path / "pool" / f"{name}_{version}_amd64.deb"
        command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(deb)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        raw = deb.read_bytes()
        self._stanzas[deb.name] = (
            f"{control}Filename: pool/{deb.name}\nSize: {len(raw)}\nSHA256: {hashlib.sha256(raw).hexdigest()}\n"
        )

    def remove(self, name: str, version: str) -> None:
        """Take a version out of the index, as archives do."""
        del self._stanzas[f"{name}_{version}_amd64.deb"]

    def publish(self, *, signed: bool = True) -> None:
        """Write and sign the indexes."""
        suite = self.path / "dists" / SUITE
        packages = suite / "main/binary-amd64/Packages"
        packages.parent.mkdir(parents=True, exist_ok=True)
        packages.write_text("".join(f"{stanza}\n" for stanza in self._stanzas.values()))
        raw = packages.read_bytes()
        release = (
            f"Origin: Test\nSuite: {SUITE}\nCodename: {SUITE}\nDate: {_DATE}\nArchitectures: amd64\nComponents: main\n"
            f"SHA256:\n {hashlib.sha256(raw).hexdigest()} {len(raw)} main/binary-amd64/Packages\n"
        )
        (suite / "Release").write_text(release)
        (suite / "InRelease").unlink(missing_ok=True)
        if signed:
            (suite / "InRelease").write_bytes(self._gpg("--clearsign", stdin=release.encode()))

    def _gpg(self, *words: str, stdin: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(self._gpg_home), "--batch", "--quiet", *words]
        return subprocess.run(command, input=stdin, capture_output=True, check=True, timeout=60).stdout


class _Handler(SimpleHTTPRequestHandler):
    """Files for those who know the password; each request is counted."""

    login = ""
    requests: list[str]

    def do_GET(self) -> None:
        expected = f"Basic {base64.b64encode(self.login.encode()).decode()}"
        self.requests.append(self.path)
        if self.login and self.headers.get("Authorization") != expected:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        return


@contextmanager
def served(
    directory: Path, *, login: str = "", certificate: Mapping[str, Path] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """(address, requested paths) of a server of `directory`; with `certificate` over TLS, asking for the client's."""
    requests: list[str] = []
    handler = type("Handler", (_Handler,), {"login": login, "requests": requests})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(directory)))
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate["server"], certificate["server_key"])
        context.load_verify_locations(certificate["ca"])
        context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        host = "localhost" if certificate else "127.0.0.1"
        yield f"{scheme}://{host}:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def certificates(here: Path) -> dict[str, Path]:
    """A private authority, and what it signed: the server's and a client's certificate, with their keys."""
    require("openssl")
    here.mkdir()
    made = {"ca": here / "ca.pem", "ca_key": here / "ca.key"}
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    _openssl(
        "req", "-x509", *curve, "-days", "2", "-subj", "/CN=Test CA", "-keyout", made["ca_key"], "-out", made["ca"]
    )
    for name in ("server", "client"):
        key, request, signed = here / f"{name}.key", here / f"{name}.csr", here / f"{name}.pem"
        _openssl("req", *curve, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        names = here / f"{name}.ext"
        names.write_text("subjectAltName=DNS:localhost\n")
        signer = ["-CA", made["ca"], "-CAkey", made["ca_key"], "-CAcreateserial", "-extfile", names]
        _openssl("x509", "-req", "-days", "2", "-in", request, *signer, "-out", signed)
        made |= {name: signed, f"{name}_key": key}
    return made


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)
