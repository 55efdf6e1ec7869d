"""One authority and one pushed bundle for the run; registries of each kind, started when a test asks for one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.registry.servers import PASSWORD, USER, Authority, Options, Proxy, Registry, push
from tests.unit.agent.fetch.conftest import no_proxy, serve, site  # noqa: F401
from tests.unit.agent.fetch.layouts import Bundle, make_bundle


@pytest.fixture(scope="session", autouse=True)
def tools() -> None:
    missing = [name for name in ("docker-registry", "skopeo", "openssl") if shutil.which(name) is None]
    if missing:
        pytest.fail(f"{', '.join(missing)} missing: run tools/setup-image")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("pushed") / "bundle", size=3_000_000)


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Options], Registry]]:
    made: list[Registry] = []

    def registry(options: Options) -> Registry:
        made.append(Registry(tmp_path_factory.mktemp("registry") / "r", options))
        return made[-1]

    yield registry
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def plain(start: Callable[[Options], Registry], bundle: Bundle) -> Registry:
    """Open to everybody, without encryption; holds the bundle as hosts/debian:v1."""
    registry = start(Options())
    push(f"oci:{bundle.directory}:v1", f"{registry.host}/hosts/debian:v1", "--dest-tls-verify=false")
    return registry


@pytest.fixture(scope="session")
def closed(start: Callable[[Options], Registry], bundle: Bundle, authority: Authority, tmp_path_factory) -> Registry:  # type: ignore[no-untyped-def]
    """TLS of our own authority, and a password."""
    cert, key = authority.issue("localhost")
    registry = start(Options(cert=cert, key=key, password=True))
    certs = tmp_path_factory.mktemp("certs")
    (certs / "ca.crt").write_bytes(authority.ca.read_bytes())
    creds = f"--dest-creds={USER}:{PASSWORD}"
    push(
        f"oci:{bundle.directory}:v1",
        f"{registry.host}/hosts/debian:v1",
        creds,
        f"--dest-cert-dir={certs}",
    )
    return registry


@pytest.fixture
def proxy() -> Iterator[Callable[[str], Proxy]]:
    made: list[Proxy] = []

    def begin(password: str = "") -> Proxy:
        made.append(Proxy(password))
        return made[-1]

    yield begin
    for one in made:
        one.close()


@pytest.fixture
def ca(site, authority: Authority) -> str:  # type: ignore[no-untyped-def]  # noqa: F811
    """The authority's certificate on the host."""
    return str(site.write("/etc/hostplane/ca.pem", authority.ca.read_text(), 0o644))


@pytest.fixture
def secret(site) -> str:  # type: ignore[no-untyped-def]  # noqa: F811
    return str(site.write("/etc/hostplane/secret.json", f'{{"username": "{USER}", "password": "{PASSWORD}"}}'))
