"""How the host's container engine is told to reach a registry: certs.d, for images that it used to pull.

Read are mirrors, the server, authorities and client certificates of hosts.toml, and certificates that lie beside it.
`skip_verify` and extra headers are not followed: what cannot be verified is asked of the next place in the list.
"""

import logging
import os
from typing import TYPE_CHECKING, Any, Dict, List, Tuple
from urllib.parse import urlsplit

from hostplane.errors import HostError

from .access import Access

if TYPE_CHECKING:
    from ..hostroot import HostRoot

__all__ = ["CLIENT_CONFIG", "engine_access", "parse_hosts"]

CLIENT_CONFIG = "var/lib/kubelet/config.json"
"""Where a node keeps passwords for whatever it pulls; the agent reads no homes."""
_DIRECTORIES = ("etc/containerd/certs.d", "etc/docker/certs.d")
_LIMIT = 256 << 10
_log = logging.getLogger("hostplane.agent")


def engine_access(host: "HostRoot", place: str) -> Dict[str, Access]:
    """Access by host, as the engine's files say for the registry `place`; empty where they say nothing.

    Raises:
        HostError: CertificateRefused for a hosts.toml that makes no sense.
    """
    for base in _DIRECTORIES:
        for name in (place, place.replace(":", "_") + "_" if ":" in place else place, "_default"):
            directory = "/%s/%s" % (base, name)
            try:
                real = host.inside(directory)
                if os.path.isdir(real):
                    return _directory(directory, real, place)
            except (OSError, ValueError) as fault:
                raise HostError("CertificateRefused", detail="%s: %s" % (directory, fault)) from None
    return {}


def _directory(directory: str, real: str, place: str) -> Dict[str, Access]:
    path = os.path.join(real, "hosts.toml")
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as handle:
            return parse_hosts(handle.read(_LIMIT), place, directory)
    names = sorted(os.listdir(real))
    authorities = [name for name in names if name.endswith(".crt")]
    pairs = [name for name in names if name.endswith(".cert") and name[:-5] + ".key" in names]
    access = Access()
    if authorities:
        access = access._replace(ca="%s/%s" % (directory, authorities[0]))
    if pairs:
        cert = "%s/%s" % (directory, pairs[0])
        access = access._replace(client_cert=cert, client_key=cert[:-5] + ".key")
    return {place: access}


def parse_hosts(text: str, place: str, directory: str) -> Dict[str, Access]:
    """What a hosts.toml says for `place`; relative paths are below `directory`.

    Raises:
        ValueError: it makes no sense.
    """
    import tomlkit

    try:
        given = tomlkit.parse(text).unwrap()
        server = _address(given.get("server", ""), given)
        found = {place: _access(given, directory)._replace(server=server)}
        mirrors: List[str] = []
        for address, one in dict(given.get("host", {})).items():
            base = _address(address, one)
            if base == (server or _address("https://" + place, {})):
                found[place] = _access(one, directory)._replace(server=base)
            elif "pull" in one.get("capabilities", ["pull"]):
                if one.get("skip_verify"):
                    _log.warning("skip_verify of %s is not followed: its certificate is verified", base)
                mirrors.append(base)
                found[urlsplit(base).netloc.lower()] = _access(one, directory)
    except (tomlkit.exceptions.TOMLKitError, AttributeError, TypeError, KeyError, RecursionError) as fault:
        raise ValueError("hosts.toml: %s" % (str(fault) or type(fault).__name__)) from None
    if server:
        found.setdefault(urlsplit(server).netloc.lower(), found[place]._replace(server=""))
    found[place] = found[place]._replace(mirrors=tuple(mirrors))
    return found


def _address(address: Any, given: Any) -> str:
    """What stands before a repository's name."""
    if not address:
        return ""
    whole = address if "://" in address else "https://" + address
    parts = urlsplit(whole)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("%s is no address of a registry" % parts.netloc.rpartition("@")[2])
    base = "%s://%s%s" % (parts.scheme, parts.netloc, parts.path.rstrip("/"))
    return base if given.get("override_path") or base.endswith("/v2") else base + "/v2"


def _access(given: Any, directory: str) -> Access:
    def path(name: Any) -> str:
        return str(name) if not name or str(name).startswith("/") else "%s/%s" % (directory, name)

    ca, client = given.get("ca", ""), given.get("client", "")
    ca = ca[0] if isinstance(ca, list) and ca else ca
    client = client[0] if isinstance(client, list) and client else client
    pair: Tuple[Any, Any] = (client[0], client[1]) if isinstance(client, list) and len(client) > 1 else (client, client)
    return Access(ca=path(ca or ""), client_cert=path(pair[0] or ""), client_key=path(pair[1] or ""))
