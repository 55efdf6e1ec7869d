"""This host's way to the network, put together: its configuration, the secrets' files and the certificates' places.

The certificates and the password of a host count for that host alone, be it a registry, a mirror or a web server.
"""

import os
from typing import TYPE_CHECKING, Callable, Dict, List, Optional
from urllib.parse import urlsplit

from hostplane.errors import HostError

from .access import Access, Credentials, Proxies, environment_proxies, read_secret
from .endpoint import Endpoint
from .pace import Pace
from .reference import Reference
from .transport import Transport

if TYPE_CHECKING:
    from ..hostroot import HostRoot

__all__ = ["Site", "host_proxies"]


def host_proxies(host: "HostRoot") -> Proxies:
    """The proxies of agent.json, else those of the environment."""
    configured = host.config.proxy
    return environment_proxies(os.environ) if configured is None else configured


class Site(object):
    """Makes the endpoints of one staging."""

    def __init__(self, host: "HostRoot", pace: Pace, registries: Optional[Dict[str, Access]] = None) -> None:
        self._host = host
        self._registries = dict(registries or {}, **host.config.registries)
        self.transport = Transport(pace, host_proxies(host), self._resolved)

    def registry(self, ref: Reference) -> List[Endpoint]:
        """The mirrors of a repository, in their order, then the registry itself."""
        access = self._of(ref.server) or self._of(ref.place) or Access()
        scope = "repository:%s:pull" % ref.repository
        found = []
        for mirror in access.mirrors:
            parts = urlsplit(mirror)
            path = parts.path.rstrip("/")
            base = path if path == "/v2" or path.startswith("/v2/") else "/v2" + path
            base = "%s://%s%s/%s/" % (parts.scheme, parts.netloc, base, ref.repository)
            own = self._secret(parts.netloc.lower(), [parts.netloc.lower()])
            found.append(Endpoint(self.transport, base, parts.scheme == "http", own, scope, "ns=" + ref.place))
        scheme = "http" if access.plain_http else "https"
        base = "%s://%s/v2/%s/" % (scheme, ref.server, ref.repository)
        found.append(Endpoint(self.transport, base, access.plain_http, self._secret(ref.place, ref.names), scope))
        return found

    def web(self, url: str) -> List[Endpoint]:
        """A directory of a web server."""
        place = urlsplit(url).netloc.rpartition("@")[2].lower()
        return [Endpoint(self.transport, url, url.startswith("http:"), self._secret(place, [place]))]

    def _of(self, place: str) -> Optional[Access]:
        """The entry of HOST:PORT, else of HOST."""
        name, colon, port = place.rpartition(":")
        return self._registries.get(place) or (self._registries.get(name) if colon and port.isdigit() else None)

    def _resolved(self, name: str, port: int) -> Optional[Access]:
        name = "[%s]" % name if ":" in name else name
        access = self._of("%s:%d" % (name.lower(), port))
        if access is None:
            return None
        found = []
        for path in (access.ca, access.client_cert, access.client_key):
            try:
                found.append(self._host.inside(path) if path else "")
            except ValueError as fault:
                raise HostError("CertificateRefused", detail="%s: %s" % (path, fault)) from None
        return access._replace(ca=found[0], client_cert=found[1], client_key=found[2])

    def _secret(self, place: str, names: List[str]) -> Callable[[], Credentials]:
        access = self._of(place)

        def read() -> Credentials:
            if access is None or not access.credentials:
                return Credentials()
            return read_secret(access.credentials, self._host.inside, names)

        return read
