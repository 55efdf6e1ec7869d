"""A host's Python, the oldest and the newest there is here, fetches a bundle over TLS by itself."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import hostplane
from tests.registry.servers import Authority
from tests.unit.agent.fetch.faulty import Faulty, Handler
from tests.unit.agent.fetch.layouts import Bundle, Site, sha256
from tests.unit.agent.test_zipapp import interpreters

READER = """
import hashlib, json, sys, threading
from hostplane.agent.bundle.manifest import Descriptor
from hostplane.agent.fetch import open_bundle
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.state import Image
from hostplane.errors import HostError
root, ref, digest, frames, size = sys.argv[1:]
source = open_bundle(HostRoot(root), Image(format="bundle", ref=ref, digest=digest), threading.Event())
blob = Descriptor("frames", frames, int(size), {}, "", "")
whole = hashlib.sha256(b"".join(source.blob(blob))).hexdigest()
parts = hashlib.sha256(b"".join(source.ranges(blob, [(5, 100), (100000, 9000), (299990, 10)]))).hexdigest()
found = [len(source.manifest()), len(source.signatures()), whole, parts]
source.close()
try:
    image = Image(format="bundle", ref=ref.replace("localhost", "127.0.0.1"), digest=digest)
    open_bundle(HostRoot(root), image, threading.Event()).manifest()
except HostError as fault:
    found.append(fault.name)
print(json.dumps(found))
"""


@pytest.mark.parametrize("python", interpreters())
def test_a_hosts_python_needs_nothing_but_itself(
    site: Site, bundle: Bundle, serve: Callable[..., Faulty], tmp_path: Path, python: str
) -> None:
    authority = Authority(tmp_path / "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("localhost"))
    server = serve(bundle.directory, context)
    cut: list[str] = []

    def before(handler: Handler, number: int) -> bool:
        if handler.headers["Range"] or cut or not handler.path.endswith(bundle.frames.digest[7:]):
            return False
        cut.append(handler.path)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(bundle.content)))
        handler.end_headers()
        handler.wfile.write(bundle.content[:70_000])
        handler.close_connection = True
        return True

    server.before = before
    site.configure(registries={"localhost": {"ca": site.write("/ca.pem", authority.ca.read_text())}})
    site.host()
    source = str(Path(hostplane.__file__).parents[1])
    words = [str(site.root), server.url, bundle.digest, bundle.frames.digest, str(bundle.frames.size)]
    done = subprocess.run(
        [python, "-W", "error", "-c", READER, *words],
        env={"PYTHONPATH": source, "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    content = bundle.content
    parts = content[5:105] + content[100000:109000] + content[299990:]
    size = (bundle.directory / "blobs/sha256" / bundle.digest[7:]).stat().st_size
    expected = [size, 1, sha256(content)[7:], sha256(parts)[7:], "PayloadUnreachable"]
    assert json.loads(done.stdout) == expected
    assert cut
