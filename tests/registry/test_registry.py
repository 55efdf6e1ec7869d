"""A bundle out of Debian's own registry, pushed by skopeo: passwords, certificates, mirrors and proxies are real."""

from __future__ import annotations

import logging
import ssl
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from hostplane.errors import HostError
from tests.registry.servers import PASSWORD, Authority, Options, Proxy, Registry, digest_by_tag, push
from tests.unit.agent.fetch.faulty import Faulty, Handler, send
from tests.unit.agent.fetch.layouts import Bundle, Site

RANGES = [(0, 4096), (1_000_000, 300_000), (2_999_000, 1000)]
REPO = "hosts/debian"


def whole(site: Site, bundle: Bundle, ref: str) -> None:
    """Everything a host fetches, twice the same."""
    source = site.open(bundle, ref)
    assert source.manifest()
    assert source.signatures() == [bundle.listed]
    assert b"".join(source.blob(bundle.frames)) == bundle.content
    wanted = b"".join(bundle.content[start : start + length] for start, length in RANGES)
    assert b"".join(source.ranges(bundle.frames, RANGES)) == wanted


def failure(act: Callable[[], Any]) -> HostError:
    with pytest.raises(HostError) as caught:
        act()
    assert PASSWORD not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("scheme", ["oci://", ""])
def test_a_bundle_comes_whole_by_its_tag(site: Site, bundle: Bundle, plain: Registry, scheme: str) -> None:
    site.configure(registries={plain.host: {"plainHttp": True}})
    whole(site, bundle, f"{scheme}{plain.host}/{REPO}:v1")


def test_signatures_are_found_by_the_digest_of_the_index(site: Site, bundle: Bundle, plain: Registry) -> None:
    site.configure(registries={"localhost": {"plainHttp": True}})
    whole(site, bundle, f"oci://{plain.host}/{REPO}@{digest_by_tag(plain, REPO, 'v1')}")


def test_signatures_are_found_by_the_tag_that_stands_in_for_referrers(
    site: Site, bundle: Bundle, plain: Registry
) -> None:
    site.configure(registries={plain.host: {"plainHttp": True}})
    ref = f"oci://{plain.host}/{REPO}@{bundle.digest}"
    assert site.open(bundle, ref).signatures() == []
    stand_in = bundle.digest.replace(":", "-")
    push(f"oci:{bundle.directory}:v1", f"{plain.host}/hosts/other:{stand_in}", "--dest-tls-verify=false")
    whole(site, bundle, f"oci://{plain.host}/hosts/other")


def test_without_plain_http_a_plain_registry_is_not_spoken_to(site: Site, bundle: Bundle, plain: Registry) -> None:
    site.configure(fetchAttempts=1)
    assert failure(site.open(bundle, f"oci://{plain.host}/{REPO}:v1").manifest).name == "PayloadUnreachable"


def test_what_is_not_there_is_said_at_once(site: Site, bundle: Bundle, plain: Registry) -> None:
    site.configure(registries={plain.host: {"plainHttp": True}})
    assert "404" in str(failure(site.open(bundle, f"oci://{plain.host}/hosts/none:v1").manifest))


def test_a_private_authority_and_a_password(site: Site, bundle: Bundle, closed: Registry, ca: str, secret: str) -> None:
    site.configure(registries={closed.host: {"ca": ca, "credentials": secret}})
    whole(site, bundle, f"oci://{closed.host}/{REPO}:v1")


def test_a_container_clients_configuration_serves_as_credentials(
    site: Site, bundle: Bundle, closed: Registry, ca: str
) -> None:
    auths = f'{{"auths": {{"other.example": {{}}, "https://{closed.host}/v2/": {{"auth": "cmVhZGVyOnBzc3N0"}}}}}}'
    path = site.write("/root/config.json", auths)
    site.configure(registries={closed.host: {"ca": ca, "credentials": path}})
    whole(site, bundle, f"oci://{closed.host}/{REPO}:v1")


def test_no_password_or_a_wrong_one_is_denied(site: Site, bundle: Bundle, closed: Registry, ca: str) -> None:
    site.configure(registries={closed.host: {"ca": ca}})
    assert failure(site.open(bundle, f"oci://{closed.host}/{REPO}:v1").manifest).name == "FetchDenied"
    wrong = site.write("/etc/hostplane/wrong.json", '{"username": "reader", "password": "guessed"}')
    site.configure(registries={closed.host: {"ca": ca, "credentials": wrong}})
    assert failure(site.open(bundle, f"oci://{closed.host}/{REPO}:v1").manifest).name == "FetchDenied"


def test_an_unknown_authority_is_refused_at_once(site: Site, bundle: Bundle, closed: Registry) -> None:
    site.configure(fetchAttempts=50)
    fault = failure(site.open(bundle, f"oci://{closed.host}/{REPO}:v1").manifest)
    assert fault.name == "PayloadUnreachable"
    assert "certificate does not hold" in str(fault)


def test_an_expired_certificate_is_refused_at_once(
    site: Site, bundle: Bundle, start: Callable[[Options], Registry], authority: Authority, ca: str
) -> None:
    cert, key = authority.issue("expired", expired=True)
    registry = start(Options(cert=cert, key=key))
    site.configure(registries={registry.host: {"ca": ca}}, fetchAttempts=50)
    assert "expired" in str(failure(site.open(bundle, f"oci://{registry.host}/{REPO}:v1").manifest))


def test_a_client_certificate_is_shown_where_it_is_wanted(
    site: Site, bundle: Bundle, start: Callable[[Options], Registry], authority: Authority, ca: str, tmp_path: Any
) -> None:
    cert, key = authority.issue("localhost")
    registry = start(Options(cert=cert, key=key, client_ca=authority.ca))
    own_cert, own_key = authority.issue("host-7")
    for end, content in (("ca.crt", authority.ca), ("client.cert", own_cert), ("client.key", own_key)):
        (tmp_path / end).write_bytes(content.read_bytes())
    push(f"oci:{bundle.directory}:v1", f"{registry.host}/{REPO}:v1", f"--dest-cert-dir={tmp_path}")
    access = {
        "ca": ca,
        "clientCert": site.write("/etc/hostplane/host.pem", own_cert.read_text()),
        "clientKey": site.write("/etc/hostplane/host.key", own_key.read_text()),
    }
    site.configure(registries={registry.host: access})
    whole(site, bundle, f"oci://{registry.host}/{REPO}:v1")
    site.configure(registries={registry.host: {"ca": ca}}, fetchAttempts=1)
    assert failure(site.open(bundle, f"oci://{registry.host}/{REPO}:v1").manifest).name == "PayloadUnreachable"


# --- mirrors


def test_mirrors_are_asked_in_order_and_a_broken_one_is_gone_on_from(
    site: Site, bundle: Bundle, plain: Registry, serve: Callable[..., Faulty]
) -> None:
    """The first mirror is dead, the second breaks off inside of the blob, the registry itself gives the rest."""
    flapping = serve()

    def before(handler: Handler, number: int) -> bool:
        if bundle.frames.digest not in handler.path:
            send(handler, 404)
            return True
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(bundle.content)))
        handler.end_headers()
        handler.wfile.write(bundle.content[:1_000_000])
        handler.close_connection = True
        return True

    flapping.before = before
    mirrors = ["http://localhost:9", f"http://localhost:{flapping.port}/cache"]
    site.configure(registries={plain.host: {"plainHttp": True, "mirrors": mirrors}})
    whole(site, bundle, f"oci://{plain.host}/{REPO}:v1")
    assert {asked.path.partition("/blobs")[0] for asked in flapping.asked if "/blobs" in asked.path} == {
        f"/v2/cache/{REPO}"
    }
    assert all(asked.path.endswith(f"ns={plain.host}") for asked in flapping.asked)


def test_a_mirror_that_lies_is_found_out_and_left(
    site: Site, bundle: Bundle, plain: Registry, serve: Callable[..., Faulty]
) -> None:
    liar = serve()

    def before(handler: Handler, number: int) -> bool:
        send(handler, 200, b"{}" if "/manifests/" in handler.path else bytes(len(bundle.content)))
        return True

    liar.before = before
    site.configure(registries={plain.host: {"plainHttp": True, "mirrors": [liar.url]}})
    source = site.open(bundle, f"oci://{plain.host}/{REPO}:v1")
    assert failure(source.manifest).name == "BundleDigestMismatch"
    assert source.manifest()
    assert b"".join(source.blob(bundle.frames)) == bundle.content


def test_a_mirror_that_gives_wrong_bytes_is_left_in_the_middle_of_a_blob(
    site: Site, bundle: Bundle, plain: Registry, serve: Callable[..., Faulty]
) -> None:
    liar = serve()

    def before(handler: Handler, number: int) -> bool:
        send(handler, 200, bytes(len(bundle.content)))
        return True

    liar.before = before
    site.configure(registries={plain.host: {"plainHttp": True, "mirrors": [liar.url]}})
    source = site.open(bundle, f"oci://{plain.host}/{REPO}:v1")
    pieces = source.ranges(bundle.frames, [(0, len(bundle.content))])
    wrong = next(pieces)
    assert wrong == bytes(len(wrong))
    source.distrust()
    assert b"".join(pieces) == bundle.content[len(wrong) :]
    assert b"".join(source.ranges(bundle.frames, [(0, len(wrong))])) == bundle.content[: len(wrong)]
    assert len(liar.asked) == 1


def test_a_registrys_password_is_not_for_its_mirror(
    site: Site, bundle: Bundle, closed: Registry, ca: str, secret: str, serve: Callable[..., Faulty]
) -> None:
    nosy = serve()

    def before(handler: Handler, number: int) -> bool:
        send(handler, 401, WWW_Authenticate='Basic realm="tell me"')
        return True

    nosy.before = before
    site.configure(registries={closed.host: {"ca": ca, "credentials": secret, "mirrors": [nosy.url]}})
    whole(site, bundle, f"oci://{closed.host}/{REPO}:v1")
    assert nosy.asked
    assert all(asked.authorization is None for asked in nosy.asked)


# --- proxies


def unlooped(host: str) -> str:
    """A name of this machine that is not taken for this machine, which no proxy is asked for."""
    return host.replace("localhost", "registry.test")


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """registry.test is this machine for whoever resolves it here: the proxy, which runs in this process."""
    import socket

    really = socket.getaddrinfo

    def lookup(host: Any, *words: Any, **more: Any) -> Any:
        return really("localhost" if host == "registry.test" else host, *words, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


@pytest.mark.usefixtures("resolved")
@pytest.mark.parametrize("password", ["", "me:pr0xy"])
def test_a_registry_behind_a_proxy(
    site: Site, bundle: Bundle, plain: Registry, proxy: Callable[[str], Proxy], password: str
) -> None:
    through = proxy(password)
    host = unlooped(plain.host)
    site.configure(registries={host: {"plainHttp": True}}, proxy={"http": through.url})
    whole(site, bundle, f"oci://{host}/{REPO}:v1")
    assert through.asked[0].startswith(f"GET http://{host}/v2/")


@pytest.mark.usefixtures("resolved")
def test_an_encrypted_registry_behind_a_proxy_is_reached_by_a_tunnel(
    site: Site,
    bundle: Bundle,
    start: Callable[[Options], Registry],
    authority: Authority,
    ca: str,
    proxy: Callable[[str], Proxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cert, key = authority.issue("registry.test")
    registry = start(Options(cert=cert, key=key))
    (site.root / "certs").mkdir()
    (site.root / "certs/ca.crt").write_bytes(authority.ca.read_bytes())
    push(f"oci:{bundle.directory}:v1", f"{registry.host}/{REPO}:v1", f"--dest-cert-dir={site.root}/certs")
    host, through = unlooped(registry.host), proxy("me:pr0xy")
    monkeypatch.setenv("https_proxy", through.url)
    site.configure(registries={host: {"ca": ca}})
    whole(site, bundle, f"oci://{host}/{REPO}:v1")
    assert set(through.asked) == {f"CONNECT {host} HTTP/1.1"} or set(through.asked) == {f"CONNECT {host} HTTP/1.0"}
    monkeypatch.setenv("https_proxy", through.url.replace("pr0xy", "guess"))
    fault = failure(site.open(bundle, f"oci://{host}/{REPO}:v1").manifest)
    assert fault.name == "ProxyRefused"
    assert "guess" not in str(fault)
    count = len(through.asked)
    monkeypatch.setenv("NO_PROXY", "example.com,.test")
    whole(site, bundle, f"oci://{host}/{REPO}:v1")
    assert len(through.asked) == count


def test_nothing_of_a_secret_is_in_the_log(
    site: Site, bundle: Bundle, closed: Registry, ca: str, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    mirrors = ["https://localhost:9/cache"]
    site.configure(registries={closed.host: {"ca": ca, "credentials": secret, "mirrors": mirrors}})
    whole(site, bundle, f"oci://{closed.host}/{REPO}:v1")
    assert "broke off" in caplog.text
    assert PASSWORD not in caplog.text
    assert "cmVhZGVyOnBzc3N0" not in caplog.text


def test_the_tls_of_old_is_refused(
    site: Site, bundle: Bundle, authority: Authority, ca: str, serve: Callable[..., Faulty]
) -> None:
    cert, key = authority.issue("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.maximum_version = context.minimum_version = ssl.TLSVersion.TLSv1_1
    old = serve(None, context)
    site.configure(registries={"localhost": {"ca": ca}}, fetchAttempts=1)
    assert failure(site.open(bundle, old.url).manifest).name == "PayloadUnreachable"
