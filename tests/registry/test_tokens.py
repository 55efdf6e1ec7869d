"""Debian's registry behind a token service: a token for nobody in particular, for a name and password, and renewed."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from hostplane.errors import HostError
from tests.registry.servers import Authority, Options, Registry, push
from tests.unit.agent.fetch.faulty import Faulty, Handler, send
from tests.unit.agent.fetch.layouts import Bundle, Site

REPO = "hosts/debian"
BASIC = "Basic cmVhZGVyOnBzc3N0"


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Issuer:
    """Signs tokens as the registry wants them: ES256, the certificate in the header."""

    def __init__(self, authority: Authority) -> None:
        self.cert, self._key = authority.issue("issuer")

    def token(self, actions: list[str], repository: str = REPO) -> str:
        der = subprocess.run(
            ["openssl", "x509", "-in", str(self.cert), "-outform", "DER"], check=True, capture_output=True, timeout=30
        ).stdout
        now = int(time.time())
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        access = [{"type": "repository", "name": repository, "actions": actions}] if actions else []
        claims = {"iss": "test issuer", "sub": "", "aud": "test service", "exp": now + 300, "nbf": now - 10, "iat": now}
        text = ".".join(_b64(json.dumps(part).encode()) for part in (header, {**claims, "jti": "1", "access": access}))
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self._key)],
            input=text.encode(),
            check=True,
            capture_output=True,
            timeout=30,
        ).stdout
        return f"{text}.{_b64(_raw(signature))}"


def _raw(der: bytes) -> bytes:
    """r and s of a DER signature, 32 bytes each."""
    at, found = 2, []
    for _ in range(2):
        size = der[at + 1]
        found.append(int.from_bytes(der[at + 2 : at + 2 + size], "big").to_bytes(32, "big"))
        at += 2 + size
    return b"".join(found)


class Guarded:
    """A registry with its token service, and what the service was asked."""

    def __init__(self, registry: Registry, service: Faulty) -> None:
        self.registry, self.service = registry, service
        self.host = registry.host

    def scopes(self) -> list[str]:
        return [parse_qs(urlsplit(asked.path).query)["scope"][0] for asked in self.service.asked]


@pytest.fixture
def guarded(
    start: Callable[[Options], Registry],
    serve: Callable[..., Faulty],
    authority: Authority,
    bundle: Bundle,
) -> Guarded:
    issuer, service = Issuer(authority), serve()
    for_all: list[str] = []

    def before(handler: Handler, number: int) -> bool:
        is_known = handler.headers["Authorization"] == BASIC
        if handler.headers["Authorization"] and not is_known:
            send(handler, 401, b"{}")
            return True
        body = {"token": issuer.token(["pull", "push"] if is_known else for_all)}
        send(handler, 200, json.dumps(body).encode())
        return True

    service.before = before
    token = {"realm": f"{service.url}token", "service": "test service", "issuer": "test issuer"}
    registry = start(Options(token={**token, "rootcertbundle": str(authority.ca)}))
    creds = "--dest-creds=reader:pssst"
    push(f"oci:{bundle.directory}:v1", f"{registry.host}/{REPO}:v1", "--dest-tls-verify=false", creds)
    service.asked.clear()
    return Guarded(registry, service)


def test_a_token_is_fetched_once_with_the_hosts_password(
    site: Site, bundle: Bundle, guarded: Guarded, secret: str
) -> None:
    site.configure(registries={guarded.host: {"plainHttp": True, "credentials": secret}})
    source = site.open(bundle, f"oci://{guarded.host}/{REPO}:v1")
    assert source.manifest()
    assert source.signatures() == [bundle.listed]
    assert b"".join(source.blob(bundle.frames)) == bundle.content
    assert guarded.scopes() == [f"repository:{REPO}:pull"]
    assert guarded.service.asked[0].authorization == BASIC


def test_without_a_password_a_token_that_opens_nothing_is_a_denial(
    site: Site, bundle: Bundle, guarded: Guarded
) -> None:
    site.configure(registries={guarded.host: {"plainHttp": True}})
    with pytest.raises(HostError) as caught:
        site.open(bundle, f"oci://{guarded.host}/{REPO}:v1").manifest()
    assert caught.value.name == "FetchDenied"
    assert guarded.service.asked[0].authorization is None


def test_a_wrong_password_is_a_denial_of_the_token_service(site: Site, bundle: Bundle, guarded: Guarded) -> None:
    wrong = site.write("/etc/hostplane/wrong.json", '{"username": "reader", "password": "guessed"}')
    site.configure(registries={guarded.host: {"plainHttp": True, "credentials": wrong}})
    with pytest.raises(HostError, match="token service") as caught:
        site.open(bundle, f"oci://{guarded.host}/{REPO}:v1").manifest()
    assert "guessed" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (b'{"access_token": "fresh"}', ""),
        (b'{"token": "br\\noken"}', "FetchDenied"),
        (b'{"token": 7}', "FetchDenied"),
        (b"[]", "FetchDenied"),
        (b"x" * 200_000, "FetchDenied"),
    ],
    ids=["another name", "line break", "number", "list", "endless"],
)
def test_what_a_token_service_may_answer(
    site: Site, bundle: Bundle, serve: Callable[..., Faulty], answer: bytes, name: str
) -> None:
    raw = (bundle.directory / "blobs/sha256" / bundle.digest[7:]).read_bytes()
    registry = serve()

    def before(handler: Handler, number: int) -> bool:
        if handler.path.startswith("/token"):
            send(handler, 200, answer)
        elif handler.headers["Authorization"] != "Bearer fresh":
            send(handler, 401, WWW_Authenticate='Bearer realm="/token",service="s"')
        else:
            send(handler, 200, raw)
        return True

    registry.before = before
    host = f"localhost:{registry.port}"
    site.configure(registries={host: {"plainHttp": True}})
    source = site.open(bundle, f"oci://{host}/{REPO}:v1")
    if name:
        with pytest.raises(HostError) as caught:
            source.manifest()
        assert caught.value.name == name
        return
    assert source.manifest() == raw
    assert registry.asked[1].path == f"/token?service=s&scope=repository%3A{REPO.replace('/', '%2F')}%3Apull"


def test_a_token_that_ends_is_renewed_in_the_middle(site: Site, bundle: Bundle, serve: Callable[..., Faulty]) -> None:
    registry = serve()
    given: list[str] = []

    def before(handler: Handler, number: int) -> bool:
        if handler.path.startswith("/token"):
            given.append(f"t{len(given)}")
            send(handler, 200, json.dumps({"token": given[-1]}).encode())
        elif not given or handler.headers["Authorization"] != f"Bearer {given[-1]}":
            send(handler, 401, WWW_Authenticate='Bearer realm="/token",service="s"')
        else:
            first, _, last = handler.headers["Range"][6:].partition("-")
            piece = bundle.content[int(first) : int(last) + 1]
            place = f"bytes {first}-{last}/{len(bundle.content)}"
            send(handler, 206, piece, Content_Range=place)
            if len(given) == 1:
                given.append("another")  # what was good until now no longer is
        return True

    registry.before = before
    host = f"localhost:{registry.port}"
    site.configure(registries={host: {"plainHttp": True}})
    ranges = [(0, 10), (100_000, 10), (200_000, 10)]
    got = b"".join(site.open(bundle, f"oci://{host}/{REPO}:v1").ranges(bundle.frames, ranges))
    assert got == b"".join(bundle.content[start : start + 10] for start, _ in ranges)
    assert sum(asked.path.startswith("/token") for asked in registry.asked) == 2


def test_an_identity_token_is_exchanged(
    site: Site, bundle: Bundle, serve: Callable[..., Faulty], tmp_path: Path
) -> None:
    raw = (bundle.directory / "blobs/sha256" / bundle.digest[7:]).read_bytes()
    registry = serve()
    bodies: list[bytes] = []

    def before(handler: Handler, number: int) -> bool:
        if handler.command == "POST":
            bodies.append(handler.rfile.read(int(handler.headers["Content-Length"])))
            send(handler, 200, b'{"access_token": "fresh"}')
        elif handler.headers["Authorization"] != "Bearer fresh":
            send(handler, 401, WWW_Authenticate='Bearer realm="/token",service="s",scope="repository:x:pull"')
        else:
            send(handler, 200, raw)
        return True

    registry.before = before
    host = f"localhost:{registry.port}"
    auths: dict[str, Any] = {"auths": {host: {"identitytoken": "long lived"}}}
    path = site.write("/etc/hostplane/config.json", json.dumps(auths))
    site.configure(registries={host: {"plainHttp": True, "credentials": path}})
    assert site.open(bundle, f"oci://{host}/{REPO}:v1").manifest() == raw
    fields = parse_qs(bodies[0].decode())
    assert (fields["refresh_token"], fields["scope"]) == (["long lived"], ["repository:x:pull"])
