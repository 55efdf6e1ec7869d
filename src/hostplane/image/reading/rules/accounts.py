"""Accounts: no plain password, keys that are keys, and that somebody can log in at all."""

from __future__ import annotations

import base64
import binascii
import itertools
import re
from collections.abc import Iterator

from hostplane.errors import reason
from hostplane.image.reading.positions import written
from hostplane.image.reading.rules.case import Case, Fault, Rule, error, in_image, unique, warning

__all__ = ["OWNER", "RULES", "is_password_hash"]

OWNER = re.compile(r"[a-z_][a-z0-9_-]{0,31}\$?|[0-9]{1,5}")

_HASH = re.compile(r"\$(?P<scheme>1|5|6|2[abxy]|y|gy|7|sm3)\$[./A-Za-z0-9$,=]{16,}|[!*]{1,2}")
_KEY_TYPES = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)


def is_password_hash(text: str) -> bool:
    """Whether this is what crypt(3) makes, or the mark of a locked account."""
    return _HASH.fullmatch(text) is not None


def passwords_are_hashed(case: Case) -> Iterator[Fault]:
    for index, user in enumerate(case.recipe.user):
        if user.password_hash is not None and not is_password_hash(user.password_hash):
            path = ("user", index, "password_hash")
            yield error(path, reason("PasswordPlain", key=written(path), user=user.name))


def password_hashes_are_strong(case: Case) -> Iterator[Fault]:
    for index, user in enumerate(case.recipe.user):
        if user.password_hash is not None and user.password_hash.startswith("$1$"):
            path = ("user", index, "password_hash")
            yield warning(path, reason("PasswordWeak", key=written(path), user=user.name))


def ssh_keys_are_public_keys(case: Case) -> Iterator[Fault]:
    for index, user in enumerate(case.recipe.user):
        for number, key in enumerate(user.ssh_keys):
            path = ("user", index, "ssh_keys", number)
            if "PRIVATE KEY" in key:
                yield error(path, reason("SshKeyPrivate", key=written(path), user=user.name))
            elif not _is_public_key(key):
                shown = key if len(key) <= 40 else f"{key[:37]}…"
                yield error(path, reason("SshKeyInvalid", key=written(path), value=shown))


def _is_public_key(line: str) -> bool:
    """Whether a line of authorized_keys has a type and a blob that begins with the same type."""
    if not line.isprintable():
        return False
    words = line.split()
    for kind, blob in itertools.pairwise(words):  # options may stand before
        if kind in _KEY_TYPES:
            try:
                raw = base64.b64decode(blob, validate=True)
            except (binascii.Error, ValueError):
                return False
            length = int.from_bytes(raw[:4], "big")
            return len(raw) > 4 + length and raw[4 : 4 + length] == kind.encode()
    return False


def user_names_are_unique(case: Case) -> Iterator[Fault]:
    yield from unique((("user", index, "name"), user.name) for index, user in enumerate(case.recipe.user))


def user_numbers_are_unique(case: Case) -> Iterator[Fault]:
    yield from unique((("user", index, "uid"), user.uid) for index, user in enumerate(case.recipe.user))


def number_zero_is_roots(case: Case) -> Iterator[Fault]:
    for index, user in enumerate(case.recipe.user):
        if user.uid is not None and (user.uid == 0) != (user.name == "root"):
            path = ("user", index, "uid")
            yield error(path, reason("RootNumber", key=written(path), value=user.uid, user=user.name))


def homes_and_shells_are_paths(case: Case) -> Iterator[Fault]:
    for index, user in enumerate(case.recipe.user):
        yield from in_image(("user", index, "shell"), user.shell)
        yield from in_image(("user", index, "home"), user.home)


def groups_are_names(case: Case) -> Iterator[Fault]:
    for index, user in enumerate(case.recipe.user):
        named = [(("user", index, "groups", number), group) for number, group in enumerate(user.groups)]
        primary = [] if user.primary_group is None else [(("user", index, "primary_group"), user.primary_group)]
        for path, group in (*named, *primary):
            if not OWNER.fullmatch(group):
                yield error(path, reason("OwnerInvalid", key=written(path), value=group))


def somebody_can_log_in(case: Case) -> Iterator[Fault]:
    for user in case.recipe.user:
        if user.ssh_keys or (user.password_hash or "!")[0] not in "!*":
            return
    if not any(file.path.endswith("/authorized_keys") for file in case.recipe.file):
        yield warning(("user",), reason("NobodyCanLogIn"))


RULES: tuple[Rule, ...] = (
    passwords_are_hashed,
    password_hashes_are_strong,
    ssh_keys_are_public_keys,
    user_names_are_unique,
    user_numbers_are_unique,
    number_zero_is_roots,
    homes_and_shells_are_paths,
    groups_are_names,
    somebody_can_log_in,
)
