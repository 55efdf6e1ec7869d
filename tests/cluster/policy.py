"""When what was applied holds: an API server loads roles and policies a moment after it has stored them."""

from __future__ import annotations

import time

import pytest

from hostplane.errors import ClusterError
from hostplane.local.apiserver import ApiServer

_SECONDS = 60.0
_POLICY = "hostplane-proxy-own-host"


def until_in_force(proxy: ApiServer, foreign: str) -> None:
    """Until the policy itself keeps `proxy` from the Host `foreign`, hence its roles are loaded as well."""
    until_refused(proxy, "PATCH", f"/apis/hostplane.dev/v1alpha1/hosts/{foreign}/status?dryRun=All", _POLICY)


def until_refused(way: ApiServer, method: str, path: str, words: str) -> None:
    """Until the server refuses this, with `words`; asked again and again, as nothing tells when it has loaded what."""
    deadline, answer = time.monotonic() + _SECONDS, "it is allowed"
    body = {"status": {"phase": "Idle"}} if method == "PATCH" else None
    while time.monotonic() < deadline:
        try:
            way.request(method, path, body, kind="merge-patch+json")
        except ClusterError as fault:
            answer = str(fault)
            if words in answer:
                return
        time.sleep(0.05)
    pytest.fail(f"after {_SECONDS:g} s {method} {path} is still answered: {answer}")
