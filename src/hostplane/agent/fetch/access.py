"""How this host reaches a server: its certificates, its password, its mirrors, and the proxy between.

All of it is the host's own configuration (`registries` and `proxy` of /etc/hostplane/agent.json); nothing of it comes
from the cluster. A secret is read from its file when it is needed, goes to the one host it is configured for, and is in
no log, no error and no report: `shown` is the only form in which an address leaves this room.
"""

import base64
import ipaddress
import json
import os
import re
import stat
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple
from urllib.parse import unquote, urlsplit

from hostplane.errors import HostError

__all__ = [
    "Access",
    "Credentials",
    "Proxies",
    "environment_proxies",
    "parse_proxy",
    "parse_registries",
    "read_secret",
    "shown",
    "within",
]

_SECRET_LIMIT = 64 << 10
_HOST = re.compile(r"\A(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(:[0-9]{1,5})?\Z")
_WITH_PORT = re.compile(r"\A(\[[^]]*\]|[^:]*):([0-9]{1,5})\Z")


class Access(NamedTuple):
    """How one host is reached. Paths are paths on this host. `mirrors` and `server` are addresses before a repository's
    name, the API's own part (/v2) included; no `server`: the host itself."""

    mirrors: Tuple[str, ...] = ()
    server: str = ""
    ca: str = ""
    client_cert: str = ""
    client_key: str = ""
    credentials: str = ""
    plain_http: bool = False


class Credentials(NamedTuple):
    """A name and a password, or a token that is sent as it is, or one that is exchanged for another."""

    username: str = ""
    password: str = ""
    bearer: str = ""
    identity: str = ""

    @property
    def basic(self) -> str:
        """The value of an Authorization header, empty without a name."""
        if not self.username:
            return ""
        pair = "%s:%s" % (self.username, self.password)
        return "Basic " + base64.b64encode(pair.encode("utf-8")).decode("ascii")


class Proxies(NamedTuple):
    """Proxy addresses, and the hosts that are reached without."""

    http: str = ""
    https: str = ""
    no: Tuple[str, ...] = ()

    def choose(self, scheme: str, host: str, port: int) -> str:
        """The proxy's address for a server, empty for none. This machine itself is never reached by a proxy."""
        proxy = self.https if scheme == "https" else self.http
        if not proxy or host.lower() == "localhost" or any(_is_meant(rule, host.lower(), port) for rule in self.no):
            return ""
        address = _address(host)
        return "" if address is not None and address.is_loopback else proxy


def _address(host: str) -> Any:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_meant(rule: str, host: str, port: int) -> bool:
    rule = rule.strip().lower()
    if not rule:
        return False
    if rule == "*":
        return True
    if "/" in rule:
        try:
            address = _address(host)
            return address is not None and address in ipaddress.ip_network(rule, strict=False)
        except (ValueError, TypeError):
            return False
    match = _WITH_PORT.match(rule)
    if match is not None:
        if int(match.group(2)) != port:
            return False
        rule = match.group(1)
    rule = rule[1:] if rule.startswith("*.") else rule
    if rule.startswith("."):
        return host.endswith(rule)
    return host == rule.strip("[]") or host.endswith("." + rule)


def environment_proxies(environment: Mapping[str, str]) -> Proxies:
    """What the usual variables say, in small letters or capitals."""

    def value(name: str) -> str:
        return environment.get(name) or environment.get(name.upper()) or ""

    return Proxies(value("http_proxy"), value("https_proxy"), tuple(value("no_proxy").split(",")))


def parse_proxy(given: Any) -> Optional[Proxies]:
    """The `proxy` key; None when it is empty and the environment counts.

    Raises:
        ValueError: naming what is wrong, without the address, which may hold a password.
    """
    if not isinstance(given, dict) or set(given) - {"http", "https", "no"}:
        raise ValueError("proxy must be an object with http, https and no")
    if not given:
        return None
    no = given.get("no", [])
    words = no.split(",") if isinstance(no, str) else no
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError("proxy.no must be a list of names")
    for key in ("http", "https"):
        address = given.get(key, "")
        if not isinstance(address, str) or (address and not _is_web(address, ("http",))):
            raise ValueError("proxy.%s must be an address that begins with http://" % key)
    return Proxies(given.get("http", ""), given.get("https", ""), tuple(words))


def _is_web(address: str, schemes: Tuple[str, ...] = ("http", "https")) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in schemes and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


_WORDS = {"ca": "ca", "clientCert": "client_cert", "clientKey": "client_key", "credentials": "credentials"}


def parse_registries(given: Any) -> Dict[str, Access]:
    """The `registries` key: access by HOST or HOST:PORT.

    Raises:
        ValueError: naming what is wrong.
    """
    if not isinstance(given, dict):
        raise ValueError("registries must be an object")
    return {host.lower(): _access("registries." + host, host, one) for host, one in given.items()}


def _access(where: str, host: str, given: Any) -> Access:
    if _HOST.match(host) is None:
        raise ValueError("%s is not a host, or a host and a port" % where)
    known = set(_WORDS) | {"mirrors", "plainHttp"}
    if not isinstance(given, dict) or set(given) - known:
        raise ValueError("%s may hold %s" % (where, ", ".join(sorted(known))))
    fields: Dict[str, Any] = {}
    for key, name in _WORDS.items():
        value = given.get(key, "")
        if not isinstance(value, str) or (value and not value.startswith("/")):
            raise ValueError("%s.%s must be an absolute path" % (where, key))
        fields[name] = value
    mirrors, plain = given.get("mirrors", []), given.get("plainHttp", False)
    if not isinstance(mirrors, list) or not all(isinstance(one, str) and _is_web(one) for one in mirrors):
        raise ValueError("%s.mirrors must be a list of http or https addresses" % where)
    if any("@" in urlsplit(one).netloc for one in mirrors):
        raise ValueError("%s.mirrors may hold no password; give the mirror's host an entry with credentials" % where)
    if not isinstance(plain, bool):
        raise ValueError("%s.plainHttp must be true or false" % where)
    if bool(fields["client_cert"]) != bool(fields["client_key"]):
        raise ValueError("%s needs both clientCert and clientKey" % where)
    return Access(mirrors=tuple(_with_api(one) for one in mirrors), plain_http=plain, **fields)


def _with_api(mirror: str) -> str:
    """What stands before a repository's name: a path of the mirror's is a prefix of the repositories' names there."""
    parts = urlsplit(mirror)
    path = parts.path.rstrip("/")
    is_api = path == "/v2" or path.startswith("/v2/")
    return "%s://%s%s" % (parts.scheme, parts.netloc, path if is_api else "/v2" + path)


def read_secret(path: str, inside: Callable[[str], str], names: List[str], is_needed: bool = True) -> Credentials:
    """The credentials in the file `path` for the first of `names` that it knows.

    A file that is not `is_needed` is somebody else's: it may have any mode, and know none of them.

    The file holds {"username", "password"} or {"token"}, or is a container client's configuration ("auths").

    Raises:
        HostError: CredentialsUnusable; never with what the file holds.
    """
    try:
        descriptor = os.open(inside(path), os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as handle:
            mode = os.fstat(descriptor)
            if not stat.S_ISREG(mode.st_mode) or (is_needed and mode.st_mode & 0o077):
                raise ValueError("it must be a regular file that only its owner may read (chmod 0600)")
            raw = handle.read(_SECRET_LIMIT)
    except OSError as fault:
        raise HostError("CredentialsUnusable", path=path, detail=fault.strerror) from None
    except ValueError as fault:
        raise HostError("CredentialsUnusable", path=path, detail=str(fault)) from None
    try:
        return _secret(json.loads(raw.decode("utf-8")), names)
    except (ValueError, TypeError, AttributeError, RecursionError):
        if not is_needed:
            return Credentials()
        detail = "it holds neither username and password, nor a token, nor auths for %s" % names[0]
        raise HostError("CredentialsUnusable", path=path, detail=detail) from None


def _secret(given: Any, names: List[str]) -> Credentials:
    if "auths" in given:
        by_host = {_bare(key): value for key, value in given["auths"].items()}
        known = [by_host[name] for name in names if name in by_host]
        given = known[0] if known else {}
    if given.get("auth"):
        name, colon, password = base64.b64decode(given["auth"]).decode("utf-8").partition(":")
        if not colon:
            raise ValueError
        given = dict(given, username=name, password=password)
    words = [given.get(key) or "" for key in ("username", "password", "token", "identitytoken")]
    words[2] = words[2] or given.get("registrytoken") or ""
    if not all(isinstance(word, str) for word in words) or not any((words[0], words[2], words[3])):
        raise ValueError
    return Credentials(*words)


def _bare(key: str) -> str:
    return key.partition("://")[2].partition("/")[0].lower() if "://" in key else key.partition("/")[0].lower()


def within(url: str) -> Tuple[str, Credentials]:
    """(the address without a name and password, they)."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, Credentials()
    word, _, place = parts.netloc.rpartition("@")
    name, _, password = word.partition(":")
    return parts._replace(netloc=place).geturl(), Credentials(unquote(name), unquote(password))


def shown(url: str) -> str:
    """The address on one line, without password, query and fragment: a signed address is a secret too."""
    scheme, mark, rest = url.partition("://") if "://" in url else ("", "", url)
    place, slash, path = rest.partition("/")
    path = path.partition("?")[0].partition("#")[0]
    whole = scheme + mark + place.rpartition("@")[2] + slash + path
    return "".join(letter if letter.isprintable() else "?" for letter in whole[:300])
