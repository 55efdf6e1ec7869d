"""A blocking request to the local API server, for start-up, status and clean-up, before any event loop exists.

Everything that works on a cluster goes through `hostplane.kube`; this only asks whether the server is ready and
clears it between tests. It needs nothing but the standard library.
"""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hostplane.errors import ClusterError, NotFoundError, ThrottledError, UnreachableError

__all__ = ["ApiServer"]


class ApiServer(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server is and how to be let in; `ca` is the path of its certificate."""

    url: str
    token: str
    ca: str

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float = 10.0, kind: str = "json"
    ) -> Any:
        """The decoded JSON answer (or text, where it is not JSON); `timeout` in seconds, `kind` as in PATCH types.

        Raises:
            NotFoundError: 404.
            ThrottledError: 429, 503.
            ClusterError: any other answer of 400 and above.
            UnreachableError: no answer.
        """
        split = urlsplit(self.url)
        try:
            context = ssl.create_default_context(cafile=self.ca)
            connection = http.client.HTTPSConnection(split.netloc, timeout=timeout, context=context)
            try:
                headers = {"Authorization": f"Bearer {self.token}", "Content-Type": f"application/{kind}"}
                connection.request(method, path, msgspec.json.encode(body) if body is not None else None, headers)
                answer = connection.getresponse()
                raw = answer.read()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError("ControlPlaneUnreachable", url=self.url, error=str(error)) from error
        if answer.status >= 400:
            text = raw.decode("utf-8", "replace")[:400]
            kinds: dict[int, type[ClusterError]] = {404: NotFoundError, 429: ThrottledError, 503: ThrottledError}
            raise kinds.get(answer.status, ClusterError)(
                "ControlPlaneRefused", method=method, path=path, status=answer.status, answer=text
            )
        if "json" in answer.headers.get("Content-Type", ""):
            return msgspec.json.decode(raw)
        return raw.decode("utf-8", "replace")

    def is_ready(self) -> bool:
        """Whether /readyz says so."""
        if not Path(self.ca).is_file():
            return False
        try:
            return bool(self.request("GET", "/readyz", timeout=2.0) == "ok")
        except (ClusterError, UnreachableError):
            return False
