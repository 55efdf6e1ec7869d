"""One place that serves one repository or directory: a base address, the right to read it, and what it is able to do.

A server that asks who we are (401) is told once: with Basic, or with a token that its token service gives for the
credentials configured for this host, if any. Where a request ended up after redirects is remembered, so that a
thousand ranges of one blob cost a thousand requests and not two thousand; the memory is dropped when it is refused.
"""

import json
import re
import time
from email.utils import parsedate_to_datetime
from typing import Callable, Dict, Iterator, Mapping, Tuple
from urllib.parse import quote, urlencode, urljoin

from hostplane.errors import HostError

from .access import Credentials, shown, within
from .pace import DroppedError, MissingError
from .transport import Answer, Transport, origin_of

__all__ = ["Endpoint", "challenges"]

_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_TOKEN_LIMIT = 64 << 10
_PART = re.compile(r'\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))\s*(?:,|$)')


def challenges(header: str) -> Iterator[Tuple[str, Dict[str, str]]]:
    """The (scheme in small letters, parameters) of one WWW-Authenticate header."""
    rest = header.strip()
    while rest:
        scheme, _, rest = rest.partition(" ")
        found: Dict[str, str] = {}
        while True:
            match = _PART.match(rest)
            if match is None:
                break
            found[match.group(1).lower()] = match.group(2) if match.group(2) is not None else match.group(3)
            rest = rest[match.end() :]
        yield scheme.lower().strip(","), found
        rest = rest.strip(" ,")


def retry_after(header: str) -> float:
    """Seconds that a Retry-After header asks for; 0 where it makes no sense."""
    if header.isdecimal():
        return float(header[:9])
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError, IndexError, OverflowError):
        return 0.0


class Endpoint(object):
    """`base` ends with a slash; `query` is added to every address below it; `secret` is asked when it is needed."""

    def __init__(
        self,
        transport: Transport,
        base: str,
        plain_http: bool,
        secret: Callable[[], Credentials],
        scope: str = "",
        query: str = "",
    ) -> None:
        self._transport = transport
        self._base, given = within(base)
        self._given, self._asked = given, secret
        self._plain_http, self._scope, self._query = plain_http, scope, query
        self._authorization = ""
        self._moved: Dict[str, str] = {}
        self.is_ranged, self.is_doubted, self.has_lied = True, False, False
        self.shown = shown(self._base)

    def ask(self, path: str, headers: Mapping[str, str]) -> Answer:
        """An answer of status 200, 206 or 416. `path` is below the base, or the whole of it when empty.

        Raises:
            MissingError. HostError: PayloadRefused, FetchDenied, CredentialsUnusable, and what the transport raises.
            DroppedError, Cancelled.
        """
        url = self._base + path
        if self._query:
            url += ("&" if "?" in url else "?") + self._query
        place = self._moved.pop(url, url)
        answer = self._try(place, headers)
        if place != url and answer.status not in (200, 206):
            answer.drain()
            answer = self._try(url, headers)
        if answer.status == 401 and place == url and origin_of(answer.url) == origin_of(url):
            asked = answer.headers("WWW-Authenticate")
            answer.drain()
            self._authorization = self._authorize(url, asked)
            answer = self._try(url, headers)
        if answer.status in (200, 206, 416):
            if answer.url != url and answer.status != 416:
                self._moved[url] = answer.url
            return answer
        answer.drain()
        raise self._refusal(answer)

    def _try(self, url: str, headers: Mapping[str, str]) -> Answer:
        private = {"Authorization": self._authorization} if self._authorization else {}
        if origin_of(url) != origin_of(self._base):
            private = {}
        answer = self._transport.get(url, headers, private, self._plain_http)
        if answer.status not in _RETRIED:
            return answer
        answer.drain()
        fault = DroppedError("HTTP %d" % answer.status)
        fault.retry_after = retry_after(answer.header("Retry-After"))
        raise fault

    def _refusal(self, answer: Answer) -> HostError:
        if answer.status == 404:
            return MissingError("PayloadRefused", url=shown(answer.url), status=answer.status)
        if answer.status in (401, 403):
            detail = "HTTP %d, %s" % (
                answer.status,
                "with credentials" if self._authorization else "without credentials",
            )
            return HostError("FetchDenied", url=shown(answer.url), detail=detail)
        return HostError("PayloadRefused", url=shown(answer.url), status=answer.status)

    # --- who we are

    def _authorize(self, url: str, asked: Tuple[str, ...]) -> str:
        """The Authorization header that the server wants."""
        wanted = {scheme: words for header in asked for scheme, words in challenges(header)}
        secret = self._given if self._given.username else self._asked()
        if secret.bearer:
            return "Bearer " + secret.bearer
        if "bearer" in wanted and wanted["bearer"].get("realm"):
            return "Bearer " + self._token(url, wanted["bearer"], secret)
        if "basic" in wanted and secret.username:
            return secret.basic
        detail = "it wants a password, and none is configured for it" if "basic" in wanted else "it does not say how"
        raise HostError("FetchDenied", url=shown(url), detail=detail)

    def _token(self, url: str, wanted: Mapping[str, str], secret: Credentials) -> str:
        try:
            realm = urljoin(url, wanted["realm"])
        except ValueError:
            raise HostError("FetchDenied", url=shown(url), detail="its token service has no address") from None
        words = [("service", wanted.get("service", "")), ("scope", wanted.get("scope") or self._scope)]
        words = [(key, value) for key, value in words if value]
        headers = {"Accept": "application/json"}
        if origin_of(realm)[0] == "http" and not self._plain_http:
            raise HostError("FetchDenied", url=shown(realm), detail="its token service is not encrypted")
        if secret.identity:
            grant = [("grant_type", "refresh_token"), ("refresh_token", secret.identity), ("client_id", "hostplane")]
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            answer = self._transport.ask(realm, headers, origin_of(url), urlencode(grant + words).encode("ascii"))
        else:
            realm += ("&" if "?" in realm else "?") + urlencode(words, quote_via=quote)
            private = {"Authorization": secret.basic} if secret.username else {}
            answer = self._transport.get(realm, headers, private, self._plain_http)
        if answer.status in _RETRIED:
            answer.drain()
            raise DroppedError("HTTP %d of the token service" % answer.status)
        if answer.status != 200:
            answer.drain()
            detail = "its token service %s says HTTP %d" % (shown(realm), answer.status)
            raise HostError("FetchDenied", url=shown(url), detail=detail)
        body = b""
        for piece in answer.pieces():
            body += piece
            if len(body) > _TOKEN_LIMIT:
                break
        try:
            given = json.loads(body.decode("utf-8"))
            token = given.get("token") or given["access_token"]
            if not isinstance(token, str) or not re.match(r"[\x21-\x7e]+\Z", token):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise HostError("FetchDenied", url=shown(url), detail="its token service gave no token") from None
        return token
