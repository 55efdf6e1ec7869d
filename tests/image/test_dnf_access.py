"""How a repository is reached: a private authority, a client certificate, a password, a proxy; no secret stays.

A real TLS server on the loop-back interface serves the small stand-in's repository to real dnf.
"""

from __future__ import annotations

import base64
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hostplane.distros import load
from hostplane.errors import HostplaneError
from hostplane.image.building import engine
from hostplane.image.packages import rpmdb, rpmkeys
from hostplane.image.packages.dnf import Dnf
from hostplane.image.recipe import Packages, Recipe, Repository, StageName
from tests.image.rpm_distro import EPOCH, RELEASE, RpmDistro, small_repository, write_distro_file

PASSWORD = "correct-horse-battery"
Build = Callable[..., Path]


class _Handler(SimpleHTTPRequestHandler):
    """Serves a directory, to whoever shows the password where one is asked for; also as a proxy for any host."""

    asked: list[str]
    password: str | None = None

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("http://"):
            self.path = "/" + self.path.partition("://")[2].partition("/")[2]
        if self.password is not None:
            want = "Basic " + base64.b64encode(f"user:{self.password}".encode()).decode()
            if self.headers.get("Authorization") != want:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="mirror"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        return


@contextmanager
def _served(directory: Path, *, tls: ssl.SSLContext | None = None, password: str | None = None) -> Iterator[Any]:
    """(address, paths asked for)."""
    handler = type("Handler", (_Handler,), {"asked": [], "password": password})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(directory)))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        scheme = "https" if tls else "http"
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}", handler.asked  # type: ignore[attr-defined]  # made above
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def distro() -> RpmDistro:
    return small_repository()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, server.pem, client.pem and client.key of one throw-away authority."""
    place = tmp_path_factory.mktemp("pki")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=place, check=True, capture_output=True, timeout=60)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new, "-subj", "/CN=Site", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2")
    (place / "names").write_text("subjectAltName=IP:127.0.0.1\n", encoding="utf-8")
    for name in ("server", "client"):
        openssl("req", *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2"]
        openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.pem")
    return place


@pytest.fixture
def tls(pki: Path) -> ssl.SSLContext:
    """A server that wants a client's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    context.load_verify_locations(pki / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def build(tmp_path: Path) -> Build:
    profile = load("openEuler", RELEASE, "x86_64", extra=[write_distro_file(tmp_path / "distros")])

    def run(repository: Repository, force: frozenset[StageName] = frozenset()) -> Path:
        recipe = Recipe(
            name="access",
            version="1",
            distro="openEuler",
            release=RELEASE,
            source_date_epoch=EPOCH,
            packages=Packages(repositories=(repository,), kernel=False, defaults=False, include=("hello",)),
        )
        store = engine.open_store(tmp_path / "store")
        wish = engine.Wish(until=StageName.PACKAGES, force=force)
        built = engine.build(recipe, profile, store=store, out=tmp_path / "out", wish=wish, show=lambda event: None)
        return Path(built.stages[-1].layer) / "tree"

    return run


def test_a_manager_that_stays_knows_its_repositories_and_no_secret(
    distro: RpmDistro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRROR_PASSWORD", PASSWORD)
    profile = load("openEuler", RELEASE, "x86_64", extra=[write_distro_file(tmp_path / "distros")])
    url = "https://mirror.invalid/$release/$arch"
    mirror = Repository(name="mirror", url=url, key=str(distro.key), username="user", password_env="MIRROR_PASSWORD")
    recipe = Recipe(name="access", version="1", distro="openEuler", release=RELEASE)
    local = Repository(name="dvd", url=str(distro.repository), check_signatures=False)

    def run(*_: Any, **__: Any) -> bytes:
        raise AssertionError("nothing is called")

    dnf = Dnf(recipe, profile, [mirror, local], cache=tmp_path / "cache", scratch=tmp_path / "scratch", run=run)
    dnf.leave_repositories(tmp_path / "root")
    said = (tmp_path / "root/etc/yum.repos.d/image.repo").read_text(encoding="utf-8")
    assert "baseurl=https://mirror.invalid/22.03-LTS-SP3/x86_64\ngpgcheck=1" in said
    assert "gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-mirror-0" in said
    assert (tmp_path / "root/etc/pki/rpm-gpg/RPM-GPG-KEY-mirror-0").read_bytes() == distro.key.read_bytes()
    assert not any(secret in said for secret in (PASSWORD, "user", str(tmp_path), "dvd"))
    config = tmp_path / "scratch/dnf/etc/dnf.conf"
    assert PASSWORD in config.read_text(encoding="utf-8")
    assert config.stat().st_mode & 0o777 == 0o600


def _repository(distro: RpmDistro, pki: Path, url: str, **more: Any) -> Repository:
    facts: dict[str, Any] = {
        "name": "mirror",
        "url": url,
        "key": str(distro.key),
        "ca": str(pki / "ca.pem"),
        "client_certificate": str(pki / "client.pem"),
        "client_key": str(pki / "client.key"),
        "username": "user",
        "password_env": "MIRROR_PASSWORD",
    }
    return Repository(**(facts | more))


def test_a_mirror_with_its_own_authority_certificates_and_password_is_used_and_keeps_its_secret(
    distro: RpmDistro, pki: Path, tls: ssl.SSLContext, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRROR_PASSWORD", PASSWORD)
    with _served(distro.repository, tls=tls, password=PASSWORD) as (url, asked):
        tree = build(_repository(distro, pki, url))
    assert "hello" in {package.name for package in rpmdb.installed(tree)}
    assert any(path.endswith("repomd.xml") for path in asked)
    secrets = [PASSWORD.encode(), base64.b64encode(f"user:{PASSWORD}".encode())]
    told = [
        path
        for path in (tmp_path / "store").rglob("*")
        if path.is_file() and not path.is_symlink() and any(secret in path.read_bytes() for secret in secrets)
    ]
    assert told == []


@pytest.mark.parametrize(
    "wrong", [{"password_env": "OTHER_PASSWORD"}, {"ca": None}, {"client_certificate": None, "client_key": None}]
)
def test_a_mirror_that_refuses_is_one_sentence(
    distro: RpmDistro, pki: Path, tls: ssl.SSLContext, build: Build, monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    monkeypatch.setenv("MIRROR_PASSWORD", PASSWORD)
    monkeypatch.setenv("OTHER_PASSWORD", "another")
    with _served(distro.repository, tls=tls, password=PASSWORD) as (url, _), pytest.raises(HostplaneError) as caught:
        build(_repository(distro, pki, url, **wrong))
    assert caught.value.name == "RepositoryUnreachable"
    assert "mirror" in str(caught.value)


def test_a_proxy_is_used(distro: RpmDistro, build: Build, tmp_path: Path) -> None:
    with _served(distro.repository) as (url, asked):
        build(Repository(name="mirror", url="http://mirror.invalid", key=str(distro.key), proxy=url))
    assert any(path.startswith("http://mirror.invalid/repodata/") for path in asked)


def test_what_was_downloaded_is_not_downloaded_again(distro: RpmDistro, build: Build) -> None:
    with _served(distro.repository) as (url, asked):
        mirror = Repository(name="mirror", url=url, key=str(distro.key))
        build(mirror)
        assert [path for path in asked if path.endswith(".rpm")]
        asked.clear()
        build(mirror, frozenset([StageName.BOOTSTRAP]))
    assert not [path for path in asked if path.endswith(".rpm")]


def test_a_distributions_key_is_fetched_over_tls_only(
    distro: RpmDistro, pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = load("openEuler", RELEASE, "x86_64")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    with _served(distro.key.parent, tls=context) as (url, _):
        one = Repository(name="mirror", url=url, key=f"{url}/key.asc", ca=str(pki / "ca.pem"))
        (path,) = rpmkeys.collect(one, profile, tmp_path)
        assert path.read_bytes() == distro.key.read_bytes()
        with pytest.raises(HostplaneError) as caught:
            rpmkeys.collect(Repository(name="mirror", url=url, key=f"{url}/key.asc"), profile, tmp_path)
    assert caught.value.name == "RpmKeyUnreachable"


def test_two_builds_at_once_share_what_they_download(distro: RpmDistro, tmp_path: Path) -> None:
    """Each of the two workers is process 1 of its own namespace, with the same cache."""
    profile = load("openEuler", RELEASE, "x86_64", extra=[write_distro_file(tmp_path / "distros")])
    failed: list[Exception] = []

    def run(number: int, url: str) -> None:
        recipe = Recipe(
            name=f"access-{number}",
            version="1",
            distro="openEuler",
            release=RELEASE,
            source_date_epoch=EPOCH + number,
            packages=Packages(
                repositories=(Repository(name="mirror", url=url, key=str(distro.key)),),
                kernel=False,
                defaults=False,
                include=("hello",),
            ),
        )
        store = engine.open_store(tmp_path / "store")
        wish = engine.Wish(until=StageName.PACKAGES)
        try:
            engine.build(recipe, profile, store=store, out=tmp_path / "out", wish=wish, show=lambda event: None)
        except Exception as error:  # shown by the assertion below: a thread's own goes unseen
            failed.append(error)

    with _served(distro.repository) as (url, _):
        threads = [threading.Thread(target=run, args=(number, url)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
    left = [path.name for path in (tmp_path / "store/cache/rpm").iterdir()]
    assert len(left) == 1, left
