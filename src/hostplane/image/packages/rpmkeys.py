"""The public keys that a repository's packages are signed with, as files of a private directory.

A recipe names a file. A distribution's own data may name an https address: the key is then as trustworthy as that
site's certificate, which is said in the log and in docs/reference/distros.md; a site that wants more names a file.
"""

from __future__ import annotations

import hashlib
import ssl
import urllib.request
from pathlib import Path

from hostplane.distros.profile import Profile
from hostplane.errors import ImageError, RecipeError
from hostplane.image.recipe import Repository

__all__ = ["collect", "identity"]

_LIMIT = 1 << 20
_SECONDS = 60


def collect(each: Repository, profile: Profile, directory: Path) -> list[Path]:
    """Copies of the repository's keys in `directory`; none where signatures are not checked.

    Raises:
        RecipeError: RpmKeyUnset when the check is on and there is no key to check with.
        ImageError: RpmKeyUnreachable.
    """
    if not each.check_signatures:
        return []
    if each.key is None:
        raise RecipeError("RpmKeyUnset", repository=each.name)
    key = each.key.replace("$release", profile.release).replace("$arch", profile.arch)
    try:
        raw = _fetch(key, each) if key.startswith("https://") else Path(key).read_bytes()
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ImageError("RpmKeyUnreachable", repository=each.name, key=key, error=error) from error
    copy = directory / f"{hashlib.sha256(raw).hexdigest()[:16]}.asc"
    copy.write_bytes(raw)
    return [copy]


def identity(each: Repository) -> str:
    """What of the key belongs to a stage's inputs: its digest, or the address that the distribution's data names."""
    if each.key is None or not each.check_signatures:
        return ""
    path = Path(each.key)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else each.key


def _fetch(address: str, each: Repository) -> bytes:
    context = ssl.create_default_context(cafile=each.ca)
    if each.client_certificate:
        context.load_cert_chain(each.client_certificate, each.client_key)
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if each.proxy:
        handlers.append(urllib.request.ProxyHandler({"https": each.proxy}))
    with urllib.request.build_opener(*handlers).open(address, timeout=_SECONDS) as answer:
        raw: bytes = answer.read(_LIMIT)
    return raw
