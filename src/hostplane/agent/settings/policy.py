"""What settings may touch without a signature: the running image's word, in its read-only, signed root.

    /usr/lib/hostplane/policy.json   {"schema": "1.0", "settings": {"allowedPaths": [...], "signedModels": [...]}}

A path that ends with a slash allows what is below it, any other one itself. Whoever can write a Host could otherwise
become root of its node; who chooses the registry of its images, too. What is outside needs a signature of the whole
request by the keys that the host trusts. A policy that cannot be read allows nothing; an image without one has the list
below.
"""

import json
from typing import Any, FrozenSet, List, NamedTuple, Sequence, Tuple

from hostplane.agent.bundle.signature import openssl_verify, parse_signatures
from hostplane.agent.bundle.trust import judge
from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

__all__ = ["DEFAULT_PATHS", "FILE", "PURPOSE", "Policy", "is_allowed", "load", "require_signature"]

FILE = "usr/lib/hostplane/policy.json"
PURPOSE = "settings"
DEFAULT_PATHS = (
    "/etc/chrony/sources.d/",
    "/etc/hosts",
    "/etc/issue",
    "/etc/modules-load.d/",
    "/etc/motd",
    "/etc/motd.d/",
    "/etc/systemd/journald.conf.d/",
    "/etc/systemd/resolved.conf.d/",
    "/etc/systemd/timesyncd.conf.d/",
)
_LIMIT = 64 << 10


class Policy(NamedTuple):
    """`paths` as in the file; `signed` are models that always need a signature, `*` all."""

    paths: Tuple[str, ...] = DEFAULT_PATHS
    signed: FrozenSet[str] = frozenset()


def load(host: HostRoot) -> Policy:
    """The running image's policy.

    Raises:
        HostError: SettingsPolicyInvalid; nothing is allowed then.
    """
    try:
        with open(host.path(FILE), "rb") as file:
            raw = file.read(_LIMIT + 1)
    except FileNotFoundError:
        return Policy()
    except OSError as fault:
        raise HostError("SettingsPolicyInvalid", detail=fault.strerror or str(fault)) from fault
    try:
        given = json.loads(raw.decode("utf-8"))
        if len(raw) > _LIMIT or str(given["schema"]).partition(".")[0] != "1":
            raise ValueError("its schema is unknown or it is too long")
        said = given.get("settings", {})
        return Policy(_texts(said.get("allowedPaths", [])), frozenset(_texts(said.get("signedModels", []))))
    except (ValueError, TypeError, KeyError, AttributeError) as fault:
        raise HostError("SettingsPolicyInvalid", detail=str(fault)[:200]) from None


def _texts(given: Any) -> Tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise ValueError("a list of strings is needed")
    return tuple(given)


def is_allowed(path: str, allowed: Sequence[str]) -> bool:
    """Whether `path`, absolute and without `..`, is one of `allowed` or below one that ends with a slash."""
    return any(path == one or (one.endswith("/") and path.startswith(one) and path != one) for one in allowed)


def require_signature(host: HostRoot, what: str, digest: str, signatures: str) -> None:
    """Refuse `what` unless enough keys that this host trusts signed the request `digest` ("sha256:...").

    `signatures` is a list of signatures as a bundle has it (docs/reference/bundle.md), its subject the digest.

    Raises:
        HostError: SettingsUnsigned; what reading the list or the trusted keys raises.
    """
    found: List[str] = []
    if signatures:
        from hostplane.agent.payload import truststore

        given = parse_signatures(signatures.encode("utf-8"))
        now = truststore.time_now(host)
        trust = truststore.trusted(host, now)
        if given.subject != digest:
            found.append("for other settings")
        else:
            verdicts = judge(given, trust, now, openssl_verify, purpose=PURPOSE)
            if len({one.key_id for one in verdicts if one.state == "Good"}) >= trust.threshold:
                return
            found += ["%s: %s" % (one.key_id, one.state) for one in verdicts]
    raise HostError("SettingsUnsigned", what=what[:200], digest=digest, found=", ".join(found)[:500] or "none")
