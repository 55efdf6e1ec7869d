"""Kubeconfigs are read as kubectl reads them; what cannot be followed is refused with a sentence."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import ssl
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hostplane.errors import ClusterError, LocalError
from hostplane.kube import auth

SERVER = "https://127.0.0.1:6443"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    folder = tmp_path_factory.mktemp("pair")
    cert, key = folder / "c.pem", folder / "k.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=test", "-days", "2", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return cert, key


def config(
    folder: Path, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None, name: str = "c"
) -> Path:
    path = folder / f"{name}.json"
    content = {
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": SERVER, **(cluster or {})}}],
        "users": [{"name": name, "user": user or {}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
    path.write_text(json.dumps(content))
    return path


def headers(who: auth.Credentials, *, renew: bool = False) -> dict[str, str]:
    return asyncio.run(who.headers(renew=renew))


def test_yaml_with_files_relative_to_it(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    (tmp_path / "ca.pem").write_bytes(pair[0].read_bytes())
    (tmp_path / "config").write_text(
        "current-context: x\n"
        "clusters: [{name: c, cluster: {server: 'https://api.example.com/k8s/', certificate-authority: ca.pem}}]\n"
        "users: [{name: u, user: {token: t0p}}]\n"
        "contexts: [{name: x, context: {cluster: c, user: u, namespace: n}}]\n"
    )
    endpoint, who = auth.locate(str(tmp_path / "config"))
    assert (endpoint.host, endpoint.port, endpoint.prefix) == ("api.example.com", 443, "/k8s")
    assert endpoint.url == "https://api.example.com:443/k8s"
    assert endpoint.tls is not None
    assert endpoint.tls.verify_mode is ssl.CERT_REQUIRED
    assert len(endpoint.tls.get_ca_certs()) == 1
    assert headers(who) == {"authorization": "Bearer t0p"}


def test_plain_http_has_no_tls(tmp_path: Path) -> None:
    endpoint, who = auth.locate(str(config(tmp_path, {"server": "http://[::1]:8001"})))
    assert (endpoint.tls, endpoint.url) == (None, "http://[::1]:8001")
    assert headers(who) == {}


def test_skipping_verification_must_be_asked_for(tmp_path: Path) -> None:
    endpoint, _ = auth.locate(str(config(tmp_path, {"insecure-skip-tls-verify": True, "tls-server-name": "other"})))
    assert endpoint.tls is not None
    assert endpoint.tls.verify_mode is ssl.CERT_NONE
    assert endpoint.server_name == "other"


def test_inline_client_certificates_leave_no_file(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    cert, key = (base64.b64encode(path.read_bytes()).decode() for path in pair)
    user = {"client-certificate-data": cert, "client-key-data": key}
    endpoint, _ = auth.locate(str(config(tmp_path, {"certificate-authority-data": cert}, user)))
    assert endpoint.tls is not None
    assert list((tmp_path / "tmp").iterdir()) == []
    with pytest.raises(LocalError):  # a key is needed with it
        auth.locate(str(config(tmp_path, {}, {"client-certificate-data": cert})))


def test_basic_and_impersonation(tmp_path: Path) -> None:
    _, who = auth.locate(str(config(tmp_path, {}, {"username": "u", "password": "p", "as": "other"})))
    assert headers(who) == {"authorization": "Basic dTpw", "impersonate-user": "other"}


def test_several_files_are_merged_and_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [config(tmp_path, {}, {"token": "one"}, name="a"), config(tmp_path, {}, {"token": "two"}, name="b")]
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'missing'}:{paths[1]}:{paths[0]}")
    assert headers(auth.locate(None)[1]) == {"authorization": "Bearer two"}


def test_a_pod_uses_its_service_account_and_reads_its_token_again(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.crt").write_bytes(pair[0].read_bytes())
    (tmp_path / "token").write_text("one\n")
    monkeypatch.setattr(auth, "_SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "444")
    endpoint, who = auth.locate(None)
    assert (endpoint.host, endpoint.port) == ("10.0.0.1", 444)
    assert headers(who) == {"authorization": "Bearer one"}
    (tmp_path / "token").write_text("two")
    assert headers(who) == {"authorization": "Bearer one"}  # for a minute
    assert headers(who, renew=True) == {"authorization": "Bearer two"}
    monkeypatch.setattr(auth, "_TOKEN_SECONDS", 0.0)
    (tmp_path / "token").write_text("three")
    assert headers(who) == {"authorization": "Bearer three"}
    (tmp_path / "token").unlink()
    assert headers(who) == {"authorization": "Bearer three"}  # the last one may still do


def plugin(folder: Path, answer: str) -> dict[str, Any]:
    program = folder / "plugin"
    program.write_text(f"#!/bin/sh\necho \"$KUBERNETES_EXEC_INFO $X $1\" >> {folder}/calls\ncat <<'E'\n{answer}\nE\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    api = "client.authentication.k8s.io/v1"
    return {"exec": {"command": "./plugin", "apiVersion": api, "args": ["y"], "env": [{"name": "X", "value": "x"}]}}


def test_a_plugin_is_asked_once_until_its_token_expires(tmp_path: Path) -> None:
    def credential(expires: datetime.datetime) -> str:
        return json.dumps({"status": {"token": "t", "expirationTimestamp": expires.isoformat()}})

    now = datetime.datetime.now(datetime.UTC)
    _, who = auth.locate(str(config(tmp_path, {}, plugin(tmp_path, credential(now + datetime.timedelta(hours=1))))))
    for _ in range(3):
        assert headers(who) == {"authorization": "Bearer t"}
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 1
    assert calls[0].endswith(" x y")
    assert json.loads(calls[0][:-4])["apiVersion"] == "client.authentication.k8s.io/v1"
    plugin(tmp_path, credential(now))
    headers(who, renew=True)
    headers(who)
    assert len((tmp_path / "calls").read_text().splitlines()) == 3


@pytest.mark.parametrize("answer", ["no json", "{}", '{"status":{"token":"a\\nb"}}'])
def test_a_plugin_that_talks_nonsense_is_an_error(tmp_path: Path, answer: str) -> None:
    _, who = auth.locate(str(config(tmp_path, {}, plugin(tmp_path, answer))))
    with pytest.raises(ClusterError) as caught:
        headers(who)
    assert caught.value.name == "CredentialsUnavailable"


def test_a_plugin_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    user = {"exec": {"command": "./nothing", "apiVersion": "client.authentication.k8s.io/v1"}}
    with pytest.raises(ClusterError, match="nothing"):
        headers(auth.locate(str(config(tmp_path, {}, user)))[1])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[]", "not a mapping"),
        ("{", "not YAML"),
        ("{}", "contexts"),
        ('{"contexts":[{"name":"","context":{"cluster":"gone"}}]}', "gone"),
        ('{"contexts":[{}]}', "name"),
        ('{"contexts": 7}', "int"),
    ],
)
def test_a_bad_file_is_refused_with_a_sentence(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(LocalError, match=why) as caught:
        auth.locate(str(path))
    assert caught.value.name == "KubeconfigInvalid"


@pytest.mark.parametrize(
    ("cluster", "user"),
    [
        ({"proxy-url": "http://p"}, {}),
        ({}, {"auth-provider": {"name": "gcp"}}),
        ({"certificate-authority": "missing.pem"}, {}),
        ({"certificate-authority-data": "!"}, {}),
        ({"server": "nonsense"}, {}),
        ({"server": 7}, {}),
    ],
)
def test_what_cannot_be_followed_is_refused(tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any]) -> None:
    with pytest.raises(LocalError) as caught:
        auth.locate(str(config(tmp_path, cluster, user)))
    assert caught.value.name == "KubeconfigInvalid"


def test_no_file_at_all_is_named() -> None:
    with pytest.raises(LocalError, match=r"\.kube/config") as caught:
        auth.locate(None)
    assert caught.value.name == "KubeconfigMissing"
