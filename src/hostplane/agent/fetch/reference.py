"""What the address of an image means: a repository of a registry, a directory of a web server, or one on this host.

    oci://HOST[:PORT]/REPOSITORY[:TAG][@sha256:...]      also without oci:// where there is no other scheme
    http(s)://HOST[:PORT]/DIRECTORY/                     an OCI image layout, served as files
    file:///DIRECTORY                                    the same on this host

A short name, which container clients complete with a registry of their own choice, is refused: what is fetched must not
depend on who reads it. Nothing is looked up here.
"""

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from hostplane.errors import HostError

from .access import shown

__all__ = ["Reference", "parse_reference"]

_HOST = re.compile(r"\A(localhost|[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?\Z")
_REPOSITORY = re.compile(r"\A[a-z0-9]+((\.|_{1,2}|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_{1,2}|-+)[a-z0-9]+)*)*\Z")
_TAG = re.compile(r"\A[0-9A-Za-z_][0-9A-Za-z._-]{0,127}\Z")
_DIGEST = re.compile(r"\Asha256:[0-9a-f]{64}\Z")


class Reference(NamedTuple):
    """`kind` is registry, web or file. `place` is the registry's host and port, the address, or the path."""

    kind: str
    place: str
    repository: str = ""
    tag: str = ""
    digest: str = ""


def parse_reference(ref: str) -> Reference:
    """What `ref` names.

    Raises:
        HostError: PayloadSourceRefused, saying what is wrong with it.
    """
    if "://" not in ref:
        return _registry(ref, ref)
    scheme, _, rest = ref.partition("://")
    if scheme == "oci":
        return _registry(ref, rest)
    if scheme == "file":
        if not rest.startswith("/"):
            raise _refused(ref, "a file's address is file:///DIRECTORY")
        return Reference("file", rest.rstrip("/") or "/")
    if scheme not in ("http", "https"):
        raise _refused(ref, "only oci, https, http and file are known")
    try:
        parts = urlsplit(ref)
        is_whole = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_whole = False
    if not is_whole or parts.query or parts.fragment or any(letter <= " " for letter in ref):
        raise _refused(ref, "an address of a directory was expected, without ? and #")
    if "@" in parts.netloc:
        raise _refused(ref, "a name and password go into agent.json, not into an address that all may read")
    return Reference("web", ref if ref.endswith("/") else ref + "/")


def _registry(ref: str, rest: str) -> Reference:
    name, at, digest = rest.partition("@")
    host, slash, path = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        raise _refused(ref, "it does not begin with a registry: HOST[:PORT]/REPOSITORY was expected")
    host = host.lower()
    repository, colon, tag = path.partition(":")
    if _HOST.match(host) is None:
        raise _refused(ref, "HOST[:PORT]/REPOSITORY was expected; a name and password go into agent.json")
    if _REPOSITORY.match(repository) is None or len(repository) > 255:
        raise _refused(ref, "its repository has a form that registries do not know")
    if (colon and _TAG.match(tag) is None) or (at and _DIGEST.match(digest) is None):
        raise _refused(ref, "its tag or digest has a form that registries do not know")
    return Reference("registry", host, repository, tag, digest)


def _refused(ref: str, detail: str) -> HostError:
    return HostError("PayloadSourceRefused", url=shown(ref), detail=detail)
