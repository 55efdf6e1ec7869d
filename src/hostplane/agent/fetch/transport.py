"""HTTP requests, one at a time: connections are kept, redirects followed with care, proxies and certificates used.

Answers are streams; nothing is read ahead but the headers. An Authorization header goes to the server it was made for
and to no other that a redirect names; a redirect never gives up encryption. What may pass by itself (a dropped
connection, a time-out) is a DroppedError; what will not (a certificate that does not hold) is a HostError.
"""

import http.client
import socket
import ssl
import sys
from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple
from urllib.parse import unquote, urljoin, urlsplit

from hostplane.errors import HostError

from .access import Access, Credentials, Proxies, shown, within
from .pace import DroppedError, Pace
from .wire import Wire

__all__ = ["Answer", "Transport", "origin_of"]

_PIECE = 128 << 10
_REDIRECTS = 5
_KEPT = 8  # connections
_LENGTH_DIGITS = 18
_SMALL = 16 << 10  # of an unwanted body is read so that the connection can be kept
_MOVED = (301, 302, 303, 307, 308)

Origin = Tuple[str, str, int]


def origin_of(url: str) -> Origin:
    """(scheme, host, port) of an address.

    Raises:
        HostError: PayloadSourceRefused for what is no http or https address.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    if parts.scheme not in ("http", "https") or not host or any(letter <= " " for letter in url):
        raise HostError("PayloadSourceRefused", url=shown(url), detail="only http and https addresses can be followed")
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80)


class _Link(NamedTuple):
    connection: Any
    wire: Wire
    via: str  # the proxy to which whole addresses are sent


class Answer(object):
    """One answer. Read `pieces` once, or `close` it."""

    def __init__(self, transport: "Transport", origin: Origin, link: _Link, response: Any, url: str) -> None:
        self._transport, self._origin, self._link, self._response = transport, origin, link, response
        self.url = url
        self.status = int(response.status)
        length = response.getheader("Content-Length")
        self.length: Optional[int] = None
        if length is not None and not response.chunked:
            if not length.isdecimal() or len(length) > _LENGTH_DIGITS:
                raise DroppedError("a Content-Length that is no number")
            self.length = int(length)
        self._is_open = True

    def header(self, name: str) -> str:
        """A header, empty where there is none."""
        return str(self._response.getheader(name) or "")

    def headers(self, name: str) -> Tuple[str, ...]:
        """Every header of that name."""
        return tuple(self._response.headers.get_all(name) or ())

    def pieces(self) -> Iterator[bytes]:
        """The body, whole when this ends by itself. Raises DroppedError, Cancelled."""
        left = self.length
        try:
            while left is None or left > 0:
                try:
                    piece = self._response.read1(_PIECE if left is None else min(_PIECE, left))
                except (OSError, http.client.HTTPException, ValueError) as fault:
                    raise DroppedError(_words(fault)) from None
                if not piece:
                    if left:
                        raise DroppedError("the connection was closed early")
                    break
                if left is not None:
                    left -= len(piece)
                yield piece
            self._release()
        finally:
            self.close()

    def drain(self) -> None:
        """Have done with a body that nobody wants, keeping the connection where that costs little."""
        try:
            if self.length is not None and self.length <= _SMALL:
                for _ in self.pieces():
                    pass
        except DroppedError:
            pass
        self.close()

    def close(self) -> None:
        """Give up the rest. Safe to repeat."""
        if self._is_open:
            self._is_open = False
            self._response.close()
            self._link.wire.shut()

    def _release(self) -> None:
        if self._is_open and not self._response.will_close:
            self._is_open = False
            self._response.close()
            self._transport.keep(self._origin, self._link)


class Transport(object):
    """The connections of one staging. `access_of` knows a server's certificates by (host, port)."""

    def __init__(self, pace: Pace, proxies: Proxies, access_of: Callable[[str, int], Optional[Access]]) -> None:
        self.pace = pace
        self._proxies, self._access_of = proxies, access_of
        self._links: Dict[Origin, _Link] = {}
        self._contexts: Dict[Tuple[str, str, str, str], ssl.SSLContext] = {}

    def close(self) -> None:
        """End every connection. Safe to repeat."""
        while self._links:
            self._links.popitem()[1].wire.shut()

    def keep(self, origin: Origin, link: _Link) -> None:
        """Keep a connection on which the next request may be sent."""
        while len(self._links) >= _KEPT:
            self._links.popitem()[1].wire.shut()
        self._links[origin] = link

    def get(self, url: str, headers: Mapping[str, str], private: Mapping[str, str], plain_http: bool) -> Answer:
        """The answer at the end of all redirects; `private` headers go to the server of `url` only.

        Raises:
            HostError: PayloadSourceRefused, PayloadUnreachable, CertificateRefused, ProxyRefused.
            DroppedError, Cancelled.
        """
        first = origin_of(url)
        if first[0] == "http" and not plain_http:
            detail = "plain http was not allowed (plainHttp, or KubeOS's flagSafe)"
            raise HostError("PayloadSourceRefused", url=shown(url), detail=detail)
        for _ in range(_REDIRECTS + 1):
            origin = origin_of(url)
            answer = self.ask(url, dict(headers, **private) if origin == first else headers, first)
            location = answer.header("Location")
            if answer.status not in _MOVED or not location:
                return answer
            answer.drain()
            try:
                url = within(urljoin(url, location).partition("#")[0])[0]
            except ValueError:
                detail = "a redirect leads to what is no address"
                raise HostError("PayloadSourceRefused", url=shown(url), detail=detail) from None
            if origin_of(url)[0] != "https" and (origin[0] == "https" or not plain_http):
                raise HostError("PayloadSourceRefused", url=shown(url), detail="a redirect gives up encryption")
        raise HostError("PayloadSourceRefused", url=shown(url), detail="too many redirects")

    def ask(
        self, url: str, headers: Mapping[str, str], borrowed: Optional[Origin] = None, body: Optional[bytes] = None
    ) -> Answer:
        """The answer of one server, redirect or not; with a `body` the request is a POST. Raises as `get`.

        A kept connection may have ended meanwhile: then the request is sent once more on a new one.
        """
        origin = origin_of(url)
        self.pace.check()
        kept = self._links.pop(origin, None)
        if kept is not None:
            try:
                return self._send(kept, origin, url, headers, body)
            except DroppedError:
                pass
        return self._send(self._connect(origin, borrowed or origin), origin, url, headers, body)

    def _send(self, link: _Link, origin: Origin, url: str, headers: Mapping[str, str], body: Optional[bytes]) -> Answer:
        parts = urlsplit(url)
        target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        sent = {"Accept-Encoding": "identity", "User-Agent": "hostplane-agent"}
        if link.via:
            target = "http://%s%s" % (parts.netloc, target)
            sent.update(_proxy_headers(link.via))
        sent.update(headers)
        is_done = False
        try:
            link.connection.request("POST" if body is not None else "GET", target, body, sent)
            answer = Answer(self, origin, link, link.connection.getresponse(), url)
            if answer.header("Content-Encoding") not in ("", "identity"):
                raise HostError("PayloadRefused", url=shown(url), status="a Content-Encoding nobody asked for")
            is_done = True
            return answer
        except (OSError, http.client.HTTPException, ValueError) as fault:
            raise DroppedError(_words(fault)) from None
        finally:
            if not is_done:
                link.wire.shut()

    def _connect(self, origin: Origin, first: Origin) -> _Link:
        scheme, host, port = origin
        seconds = self.pace.limits.stall_seconds
        proxy = self._proxies.choose(scheme, host, port)
        connection: Any = None
        try:
            if not proxy:
                sock: Any = socket.create_connection((host, port), seconds)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            else:
                _, proxy_host, proxy_port = origin_of(proxy)
                connection = http.client.HTTPConnection(proxy_host, proxy_port, timeout=seconds)
                if scheme == "https":
                    connection.set_tunnel(host, port, _proxy_headers(proxy))
                connection.connect()
                sock = connection.sock
        except (OSError, http.client.HTTPException, ValueError) as fault:
            if connection is not None:
                connection.close()
            if str(fault).startswith("Tunnel connection failed: 4"):
                raise HostError("ProxyRefused", proxy=shown(proxy), url=_place(origin), detail=_words(fault)) from None
            raise DroppedError(_words(fault)) from None
        if scheme == "https":
            sock = self._encrypted(sock, origin, first)
        wire = Wire(sock, self.pace, _place(origin))
        fresh = http.client.HTTPConnection(host, port)
        fresh.auto_open = 0
        fresh.default_port = (
            443 if scheme == "https" else 80
        )  # or the Host header would name 443, which breaks signed addresses
        fresh.sock = wire  # it has what http.client asks of a socket
        return _Link(fresh, wire, proxy if scheme == "http" else "")

    def _encrypted(self, sock: Any, origin: Origin, first: Origin) -> Any:
        try:
            return self._context(origin, first).wrap_socket(sock, server_hostname=origin[1])
        except (OSError, ValueError) as fault:
            sock.close()
            words = _words(fault)
            if isinstance(fault, ssl.CertificateError) or "CERTIFICATE_VERIFY_FAILED" in words:
                detail = "its certificate does not hold: %s" % (getattr(fault, "verify_message", "") or words)
                raise HostError("PayloadUnreachable", url=_place(origin), detail=detail) from None
            raise DroppedError(words) from None
        except BaseException:
            sock.close()
            raise

    def _context(self, origin: Origin, first: Origin) -> ssl.SSLContext:
        """A host's own authority and nothing else where one is configured for it; a server that was reached by a
        redirect only may also have a certificate of the first one's authority."""
        access = self._access_of(*origin[1:])
        borrowed = ""
        if access is None:
            access = Access()
            borrowed = (self._access_of(*first[1:]) or access).ca
        key = (access.ca, access.client_cert, access.client_key, borrowed)
        if key not in self._contexts:
            try:
                context = ssl.create_default_context(cafile=access.ca or None)
                # An old authority must not end with the image that brings Python 3.13, which is strict by itself.
                context.verify_flags &= ~ssl.VERIFY_X509_STRICT
                if sys.version_info < (3, 10):  # later ones begin with TLS 1.2 by themselves
                    context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
                if borrowed:
                    context.load_verify_locations(borrowed)
                if access.client_cert:
                    context.load_cert_chain(access.client_cert, access.client_key)
            except (OSError, ValueError) as fault:
                raise HostError("CertificateRefused", detail="for %s: %s" % (_place(origin), _words(fault))) from None
            self._contexts[key] = context
        return self._contexts[key]


def _proxy_headers(proxy: str) -> Dict[str, str]:
    parts = urlsplit(proxy)
    if not parts.username:
        return {}
    name, password = unquote(parts.username), unquote(parts.password or "")
    return {"Proxy-Authorization": Credentials(name, password).basic}


def _place(origin: Origin) -> str:
    return "%s://%s:%d" % origin


def _words(fault: BaseException) -> str:
    return (getattr(fault, "strerror", None) or str(fault) or type(fault).__name__)[:200]
