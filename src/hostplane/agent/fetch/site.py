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

    def __init__(
        self, host: "HostRoot", pace: Pace, registries: Optional[Dict[str, Access]] = None, client_config: str = ""
    ) -> None:
        """`registries` and the container client's own configuration file count where agent.json says nothing."""
        self._host, self._client_config = host, client_config
        self._registries = dict(registries or {}, **host.config.registries)
        self.transport = Transport(pace, host_proxies(host), self._resolved)

    def registry(self, ref: Reference) -> List[Endpoint]:
        """The mirrors of a repository, in their order, then the registry itself."""
        access = self._of(ref.place) or Access()
        self._registries.setdefault(ref.place, access)
        scope = "repository:%s:pull" % ref.repository
        found = []
        for mirror in access.mirrors:
            parts = urlsplit(mirror)
            own = self._secret(parts.netloc.lower())
            base, is_plain = "%s/%s/" % (mirror, ref.repository), parts.scheme == "http"
            found.append(Endpoint(self.transport, base, is_plain, own, scope, "ns=" + ref.place))
        server = access.server or "%s://%s/v2" % ("http" if access.plain_http else "https", ref.place)
        base, is_plain = "%s/%s/" % (server, ref.repository), server.startswith("http:")
        found.append(Endpoint(self.transport, base, is_plain, self._secret(ref.place), scope))
        return found

    def web(self, url: str) -> List[Endpoint]:
        """A directory of a web server."""
        place = urlsplit(url).netloc.rpartition("@")[2].lower()
        return [Endpoint(self.transport, url, url.startswith("http:"), self._secret(place))]

    def _of(self, place: str) -> Optional[Access]:
        """The entry of HOST:PORT, else of HOST."""
        name, colon, port = place.rpartition(":")
        return self._registries.get(place) or (self._registries.get(name) if colon and port.isdecimal() else None)

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

    def _secret(self, place: str) -> Callable[[], Credentials]:
        access = self._of(place)

        def read() -> Credentials:
            path = access.credentials if access is not None else ""
            if not path and self._client_config:
                if os.path.exists(self._host.path(self._client_config)):
                    return read_secret("/" + self._client_config, self._host.inside, [place], is_needed=False)
            return read_secret(path, self._host.inside, [place]) if path else Credentials()

        return read
