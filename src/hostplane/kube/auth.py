"""Who we are and where the API server is: kubeconfig files, a pod's service account, exec plugins.

Read like kubectl reads them: several files in KUBECONFIG are merged, relative paths are relative to their file, inline
data wins over files. Bearer tokens from files are read again every minute, because the kubelet rotates them; a plugin
is asked again shortly before its token expires and whenever the server answers 401.

It refuses what would act with other rights or by another road than the file says: auth-provider (kubectl dropped it)
and proxy-url.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import datetime
import os
import ssl
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hostplane.errors import ClusterError, LocalError
from hostplane.kube.transport import Endpoint

__all__ = ["Credentials", "locate"]

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_SECONDS = 60.0
_PLUGIN_SECONDS = 60.0
_FILE_LIMIT = 8 * 1024 * 1024


class _Cluster(msgspec.Struct, frozen=True, rename="kebab"):
    server: str
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""


class _Variable(msgspec.Struct, frozen=True):
    name: str
    value: str


class _Plugin(msgspec.Struct, frozen=True, rename="camel"):
    command: str
    api_version: str
    args: list[str] | None = None
    env: list[_Variable] | None = None
    provide_cluster_info: bool = False


class _User(msgspec.Struct, frozen=True, rename="kebab"):
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    username: str = ""
    password: str = ""
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    impersonate: str = msgspec.field(default="", name="as")
    exec: _Plugin | None = None
    auth_provider: Any = None


class _Context(msgspec.Struct, frozen=True):
    cluster: str
    user: str = ""


class _PluginStatus(msgspec.Struct, frozen=True, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime.datetime | None = None


class _PluginAnswer(msgspec.Struct, frozen=True):
    status: _PluginStatus


class Credentials:
    """What goes into each request to say who sends it."""

    def __init__(
        self, *, token: str = "", token_file: Path | None = None, fixed: str = "", impersonate: str = ""
    ) -> None:
        self._token, self._token_file, self._fixed = token.strip(), token_file, fixed
        self._impersonate = impersonate
        self._read_at = -_TOKEN_SECONDS

    @property
    def renewable(self) -> bool:
        """Whether asking again after a 401 can help."""
        return self._token_file is not None

    async def headers(self, *, renew: bool = False) -> dict[str, str]:
        """The request headers; `renew` after the server answered 401.

        Raises:
            ClusterError: CredentialsUnavailable, a token file cannot be read or a plugin failed.
        """
        if self._token_file is not None and (renew or time.monotonic() - self._read_at >= _TOKEN_SECONDS):
            try:
                self._token = self._token_file.read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                if not self._token:
                    raise ClusterError("CredentialsUnavailable", why=str(error)) from error
            self._read_at = time.monotonic()
        return self._as_headers()

    def _as_headers(self) -> dict[str, str]:
        authorization = f"Bearer {self._token}" if self._token else self._fixed
        if "\n" in authorization or "\r" in authorization:
            raise ClusterError("CredentialsUnavailable", why="the token holds a line break")
        headers = {"authorization": authorization} if authorization else {}
        if self._impersonate:
            headers["impersonate-user"] = self._impersonate
        return headers


class _PluginCredentials(Credentials):
    """A token, or a client certificate, from a program named in the kubeconfig."""

    def __init__(self, plugin: _Plugin, folder: Path, tls: ssl.SSLContext | None, info: dict[str, Any]) -> None:
        super().__init__()
        command = plugin.command  # as kubectl: a path with a slash is relative to the file, a bare name is looked up
        self._command = str(folder / command) if "/" in command else command
        self._arguments = plugin.args or []
        self._env = {variable.name: variable.value for variable in plugin.env or []}
        exec_info = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": {"interactive": False}}
        if plugin.provide_cluster_info:
            exec_info["spec"]["cluster"] = info  # type: ignore[index]  # the dict just built
        self._env["KUBERNETES_EXEC_INFO"] = msgspec.json.encode(exec_info).decode()
        self._tls = tls
        self._expires: float | None = 0.0
        self._asking = asyncio.Lock()

    @property
    def renewable(self) -> bool:
        return True

    async def headers(self, *, renew: bool = False) -> dict[str, str]:
        if renew or (self._expires is not None and time.time() > self._expires - 30):
            known = self._token
            async with self._asking:
                if self._token == known:  # not yet renewed by another request meanwhile
                    await self._ask()
        return self._as_headers()

    async def _ask(self) -> None:
        process = None
        try:
            async with asyncio.timeout(_PLUGIN_SECONDS):
                process = await asyncio.create_subprocess_exec(
                    self._command,
                    *self._arguments,
                    env={**os.environ, **self._env},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                )
                output, _ = await process.communicate()
            if process.returncode:
                raise ClusterError("CredentialsUnavailable", why=f"{self._command} exited with {process.returncode}")
            status = msgspec.json.decode(output, type=_PluginAnswer).status
            if status.client_certificate_data and self._tls is not None:
                _load_pair(self._tls, status.client_certificate_data.encode(), status.client_key_data.encode())
        except (OSError, msgspec.MsgspecError) as error:
            raise ClusterError("CredentialsUnavailable", why=f"{self._command}: {error or 'timed out'}") from error
        finally:
            if process is not None and process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        self._token = status.token.strip()
        expires = status.expiration_timestamp
        self._expires = expires.timestamp() if expires is not None else None


def locate(kubeconfig: str | os.PathLike[str] | None) -> tuple[Endpoint, Credentials]:
    """Find the API server: the file given, else $KUBECONFIG, else the pod's service account, else ~/.kube/config.

    Raises:
        LocalError: KubeconfigInvalid or KubeconfigMissing.
    """
    paths = (
        [os.fspath(kubeconfig)] if kubeconfig else [p for p in os.environ.get("KUBECONFIG", "").split(os.pathsep) if p]
    )
    if not paths:
        if "KUBERNETES_SERVICE_HOST" in os.environ and (_SERVICE_ACCOUNT / "token").exists():
            return _in_cluster(_SERVICE_ACCOUNT)
        paths = ["~/.kube/config"]
    files = [path for path in (Path(p).expanduser() for p in paths) if path.is_file()]
    if not files:
        raise LocalError("KubeconfigMissing", path=os.pathsep.join(paths))
    try:
        return _from_files(files)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, msgspec.MsgspecError) as error:
        raise LocalError("KubeconfigInvalid", path=str(files[0]), why=str(error) or repr(error)) from error


def _in_cluster(account: Path) -> tuple[Endpoint, Credentials]:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        tls = _tls_context(_Cluster(server="", certificate_authority=str(account / "ca.crt")), account)
        return Endpoint(host=host, port=int(port), tls=tls), Credentials(token_file=account / "token")
    except (OSError, ValueError) as error:
        raise LocalError("KubeconfigInvalid", path=str(account), why=str(error)) from error


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        raw = file.read(_FILE_LIMIT)
    try:
        loaded = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        import yaml  # only here: a pod has no kubeconfig, and YAML costs memory

        try:
            loaded = yaml.safe_load(raw)
        except yaml.YAMLError as error:
            raise ValueError(f"not YAML: {str(error)[:200]}") from error
    if not isinstance(loaded, dict):
        raise ValueError("not a mapping")
    return loaded


def _from_files(files: list[Path]) -> tuple[Endpoint, Credentials]:
    named: dict[tuple[str, str], tuple[Any, Path]] = {}  # (section, name) -> entry, its file's folder; first file wins
    current = ""
    for path in files:
        content = _read(path)
        current = current or str(content.get("current-context") or "")
        for section, key in (("clusters", "cluster"), ("users", "user"), ("contexts", "context")):
            for entry in content.get(section) or []:
                named.setdefault((section, entry["name"]), (entry.get(key) or {}, path.absolute().parent))

    def find(section: str, name: str) -> tuple[Any, Path]:
        if (section, name) not in named:
            raise ValueError(f"no {name!r} among its {section}")
        return named[section, name]

    context = msgspec.convert(find("contexts", current)[0], _Context)
    raw_cluster, cluster_folder = find("clusters", context.cluster)
    cluster = msgspec.convert(raw_cluster, _Cluster)
    raw_user, user_folder = find("users", context.user) if context.user else ({}, cluster_folder)
    user = msgspec.convert(raw_user, _User)
    if cluster.proxy_url or user.auth_provider is not None:
        raise ValueError("proxy-url and auth-provider are not supported")
    tls = _tls_context(cluster, cluster_folder)
    certificate = _content(user.client_certificate_data, user.client_certificate, user_folder)
    if tls is not None and certificate:
        _load_pair(tls, certificate, _content(user.client_key_data, user.client_key, user_folder))
    url = urlsplit(cluster.server)
    if not url.hostname:
        raise ValueError(f"server {cluster.server!r} is not a URL")
    endpoint = Endpoint(
        host=url.hostname,
        port=url.port or (443 if tls else 80),
        prefix=url.path.rstrip("/"),
        tls=tls,
        server_name=cluster.tls_server_name or None,
    )
    if user.exec is not None:
        info = {key: value for key, value in raw_cluster.items() if key != "extensions"}
        return endpoint, _PluginCredentials(user.exec, user_folder, tls, info)
    basic = base64.b64encode(f"{user.username}:{user.password}".encode()).decode()
    return endpoint, Credentials(
        token=user.token,
        token_file=user_folder / user.token_file if user.token_file else None,
        fixed=f"Basic {basic}" if user.username else "",
        impersonate=user.impersonate,
    )


def _content(data: str, file: str, folder: Path) -> bytes:
    if data:
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise ValueError(f"inline data is not base64: {error}") from error
    return (folder / file).read_bytes() if file else b""


def _tls_context(cluster: _Cluster, folder: Path) -> ssl.SSLContext | None:
    if cluster.server.startswith("http://"):
        return None
    authority = _content(cluster.certificate_authority_data, cluster.certificate_authority, folder)
    context = ssl.create_default_context(cadata=authority.decode("ascii") if authority else None)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # on since 3.13; clusters made before have CAs without key ids
    if cluster.insecure_skip_tls_verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Give the context a client certificate; OpenSSL only reads files, so they exist for a moment, readable by us."""
    with tempfile.NamedTemporaryFile() as pair:
        pair.write(certificate + b"\n" + key)
        pair.flush()
        context.load_cert_chain(pair.name)
