"""Staging against a web server with bad manners: the slot is right or empty in the end, and the reason is told."""

from __future__ import annotations

import http.server
import resource
import subprocess
import threading
from typing import Any

import pytest

from hostplane.agent.host import Host
from hostplane.agent.state import Image
from hostplane.errors import HostError


class Staging:
    """An agent within this process, ended with the test."""

    def __init__(self, host_dir: Any) -> None:
        self.host = Host(str(host_dir.root))
        self.host.start(lambda: None)

    def run(self, image: dict[str, Any], **options: Any) -> dict[str, Any]:
        status = self.host.stage(Image(**image), **options)
        while status["phase"] == "Staging":
            status = self.host.wait(status["revision"], 20)
        return status


@pytest.fixture
def agent(host: Any):
    started: list[Staging] = []

    def start() -> Staging:
        started.append(Staging(host))
        return started[-1]

    yield start
    for staging in started:
        staging.host.close()


def failure(status: dict[str, Any]) -> str:
    assert status["phase"] == "Failed"
    assert status["slots"]["B"] == {"state": "Empty", "digest": "", "version": "", "size": 0}
    return str(status["lastError"]["name"])


def test_an_image_is_staged_with_zeros_behind_it_and_the_boot_order_stays(host: Any, web: Any, agent: Any) -> None:
    host.write("dev/hostplane/ROOT-B", b"x" * (len(host.NEW) + 5000))
    host.write_boot(host.boot_state().with_slot("B", True, 0))
    web.serve(host.NEW)
    status = agent().run(host.image_of(host.NEW, web.url))
    assert status["phase"] == "Staged"
    assert status["slots"]["B"] == {
        "state": "Staged",
        "digest": host.image["digest"],
        "version": "v2",
        "size": len(host.NEW),
    }
    assert host.slot("B") == host.NEW + bytes(5000)
    assert host.boot_state().first == "A"
    assert not host.boot_state().is_ok("B")


def test_a_dropped_connection_is_resumed_where_it_broke(host: Any, web: Any, agent: Any) -> None:
    web.serve(host.NEW, cut=1000)
    assert agent().run(host.image_of(host.NEW, web.url))["phase"] == "Staged"
    assert web.ranges == [None, "bytes=1000-"]


def test_a_server_without_ranges_is_read_again(host: Any, web: Any, agent: Any) -> None:
    def behave(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(host.NEW)))
        handler.end_headers()
        handler.wfile.write(host.NEW if number else host.NEW[:1000])

    web.behave = behave
    assert agent().run(host.image_of(host.NEW, web.url))["phase"] == "Staged"
    assert host.slot("B") == host.NEW


def test_a_chunked_body_is_taken(host: Any, web: Any, agent: Any) -> None:
    def behave(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n" % len(host.NEW) + host.NEW + b"\r\n0\r\n\r\n")

    web.behave = behave
    assert agent().run(host.image_of(host.NEW, web.url))["phase"] == "Staged"


def test_a_truncated_payload_fails_and_the_next_try_goes_on_from_there(host: Any, web: Any, agent: Any) -> None:
    def behave(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(host.NEW)))
        handler.end_headers()
        handler.wfile.write(host.NEW[:1000])

    web.behave = behave
    staging = agent()
    assert failure(staging.run(host.image_of(host.NEW, web.url))) == "PayloadTruncated"
    web.serve(host.NEW)
    assert staging.run(host.image_of(host.NEW, web.url))["phase"] == "Staged"
    assert web.ranges[-1] == "bytes=1000-"


def test_an_oversized_payload_is_refused_before_its_first_byte(host: Any, web: Any, agent: Any) -> None:
    web.serve(host.NEW + b"!")
    assert failure(agent().run(host.image_of(host.NEW, web.url))) == "PayloadSizeMismatch"
    assert host.slot("B") == b""


def test_an_endless_body_ends_at_the_promised_size(host: Any, web: Any, agent: Any) -> None:
    def behave(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not web.over.is_set():
            handler.wfile.write(host.NEW)

    web.behave = behave
    assert failure(agent().run(host.image_of(host.NEW, web.url))) == "PayloadSizeMismatch"
    assert len(host.slot("B")) <= len(host.NEW)


def test_a_wrong_digest_is_never_staged(host: Any, web: Any, agent: Any) -> None:
    web.serve(bytes(len(host.NEW)))
    assert failure(agent().run(host.image_of(host.NEW, web.url))) == "PayloadDigestMismatch"


@pytest.mark.parametrize("drip", [b"", b"."])
def test_a_server_that_stalls_is_given_up(host: Any, web: Any, agent: Any, drip: bytes) -> None:
    host.configure(stallSeconds=0.3, fetchAttempts=1)

    def behave(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(host.NEW)))
        handler.end_headers()
        while not web.over.wait(0.05):
            handler.wfile.write(drip)

    web.behave = behave
    assert failure(agent().run(host.image_of(host.NEW, web.url))) in ("PayloadUnreachable", "PayloadTruncated")


def test_a_server_that_drips_is_given_up_and_the_next_staging_goes_on_from_there(
    host: Any, web: Any, agent: Any
) -> None:
    def behave(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(host.NEW)))
        handler.end_headers()
        for at in range(0, len(host.NEW), 10):
            handler.wfile.write(host.NEW[at : at + 10])
            if web.over.wait(0.01):
                return

    host.configure(stallSeconds=20, minimumBytesPerSecond=100_000, minimumOverSeconds=0.3)
    web.behave = behave
    staging = agent()
    status = staging.run(host.image_of(host.NEW, web.url))
    assert (failure(status), status["failedDigests"]) == ("PayloadTooSlow", [])
    web.serve(host.NEW)
    assert staging.run(host.image_of(host.NEW, web.url))["phase"] == "Staged"
    assert int(web.ranges[-1][len("bytes=") : -1]) >= 10


@pytest.mark.parametrize(("status", "name"), [(404, "PayloadRefused"), (503, "PayloadUnreachable")])
def test_a_server_that_refuses_is_named(host: Any, web: Any, agent: Any, status: int, name: str) -> None:
    host.configure(fetchAttempts=1)
    web.behave = lambda handler, number: handler.send_error(status)
    assert failure(agent().run(host.image_of(host.NEW, web.url))) == name


def test_a_redirect_to_nowhere_ends(host: Any, web: Any, agent: Any) -> None:
    def behave(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/again")
        handler.end_headers()

    web.behave = behave
    assert failure(agent().run(host.image_of(host.NEW, web.url))) == "PayloadSourceRefused"


@pytest.mark.parametrize(
    ("status", "header", "value", "name"),
    [
        (302, "Location", "http://[", "PayloadSourceRefused"),
        (401, "WWW-Authenticate", 'Bearer realm="http://[",service="x"', "FetchDenied"),
    ],
)
def test_an_address_that_is_none_is_a_reason(
    host: Any, web: Any, agent: Any, status: int, header: str, value: str, name: str
) -> None:
    def behave(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(status)
        handler.send_header(header, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    web.behave = behave
    assert failure(agent().run(host.image_of(host.NEW, web.url))) == name


def test_a_full_slot_is_a_reason(host: Any, web: Any, agent: Any) -> None:
    host.configure(slotBytes=1000)
    web.serve(host.NEW)
    assert failure(agent().run(host.image_of(host.NEW, web.url))) == "PayloadTooLarge"


def test_a_full_disk_is_a_reason(host: Any) -> None:
    """The real thing: the process may not write files beyond 8 KiB."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    host.start(preexec_fn=limit)
    with host.client() as client:
        status = host.staged(client)
    assert failure(status) == "SlotFull"


def test_another_image_replaces_the_one_on_its_way(host: Any, web: Any, agent: Any) -> None:
    is_begun = threading.Event()

    def behave(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        handler.wfile.write(bytes(5000))
        is_begun.set()
        web.over.wait(host.DEADLINE)

    web.behave = behave
    staging = agent()
    staging.host.stage(Image(**host.image_of(bytes(100000), web.url)))
    assert is_begun.wait(host.DEADLINE)
    status = staging.run(host.image)
    assert (status["phase"], status["slots"]["B"]["digest"]) == ("Staged", host.image["digest"])


def test_what_is_staged_already_is_not_fetched_again(host: Any, web: Any, agent: Any) -> None:
    web.serve(host.NEW)
    staging = agent()
    staging.run(host.image_of(host.NEW, web.url))
    staging.run(host.image_of(host.NEW, web.url))
    assert len(web.ranges) == 1


def test_what_runs_already_is_never_staged_over_the_way_back(host: Any, agent: Any) -> None:
    assert agent().run(host.image_of(host.OLD, "file:///payload"))["phase"] == "Idle"
    assert host.slot("B") == b""


def test_a_rotten_slot_is_fetched_anew(host: Any, web: Any, agent: Any) -> None:
    web.serve(host.NEW)
    staging = agent()
    staging.run(host.image_of(host.NEW, web.url))
    staging.host.close()
    state = host.root / "var/lib/hostplane/state.json"
    state.write_text(state.read_text().replace('"phase": "Staged",\n "released"', '"phase": "Staging",\n "released"'))
    host.write("dev/hostplane/ROOT-B", bytes(len(host.NEW)))
    again = agent()
    status = again.host.status()
    while status["phase"] == "Staging":
        status = again.host.wait(status["revision"], 20)
    assert (status["phase"], host.slot("B")) == ("Staged", host.NEW)
    assert len(web.ranges) == 2


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"format": "bundle"}, "PayloadUnreachable"),
        ({"format": "diff"}, "FormatUnsupported"),
        ({"ref": "ftp://example.com/x"}, "PayloadSourceRefused"),
        ({"ref": "file:///../etc/passwd"}, "PayloadSourceRefused"),
        ({"ref": "file:///dev"}, "PayloadUnreachable"),
        ({"ca": "../../shadow"}, "CertificateRefused"),
        ({"ca": "missing.pem"}, "CertificateRefused"),
        ({"ref": "http://127.0.0.1:9/x", "plain_http": False}, "PayloadSourceRefused"),
    ],
)
def test_what_could_never_be_used_is_refused(host: Any, agent: Any, changes: dict[str, Any], name: str) -> None:
    try:
        status = agent().run({**host.image, **changes})
        found = status["lastError"]["name"]
    except HostError as fault:
        found = fault.name
    assert found == name
    assert host.slot("B") == b""


def test_a_host_that_wants_signatures_takes_no_plain_tar(host: Any, agent: Any) -> None:
    host.configure(allowUnsignedTar=False)
    with pytest.raises(HostError, match="only proof"):
        agent().run(host.image)


def test_https_is_verified_with_the_given_authority_and_a_client_certificate(host: Any, agent: Any, web: Any) -> None:
    import ssl

    certs = host.root / "etc/KubeOS/certs"
    certs.mkdir(parents=True)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-keyout", certs / "key.pem", "-out", certs / "ca.pem", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs / "ca.pem", certs / "key.pem")
    context.load_verify_locations(certs / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    web.server.socket = context.wrap_socket(web.server.socket, server_side=True, do_handshake_on_connect=False)
    web.serve(host.NEW)
    host.configure(fetchAttempts=1)
    url = f"https://localhost:{web.server.server_port}/image"
    image = {**host.image_of(host.NEW, url), "ca": "ca.pem"}
    staging = agent()
    assert failure(staging.run(image)) in ("PayloadUnreachable", "PayloadTruncated")
    assert staging.run({**image, "cert": "ca.pem", "key": "key.pem"})["phase"] == "Staged"
    assert staging.run(host.image_of(host.NEW + b"x", url))["lastError"]["name"] == "PayloadUnreachable"
