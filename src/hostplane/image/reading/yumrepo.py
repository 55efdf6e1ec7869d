"""Reads a yum .repo file as repositories of a recipe, and says what it could not take along."""

from __future__ import annotations

import configparser
from collections.abc import Callable
from pathlib import Path

from hostplane.errors import RecipeError

__all__ = ["repositories"]

_SAME = {
    "sslcacert": "ca",
    "sslclientcert": "client_certificate",
    "sslclientkey": "client_key",
    "username": "username",
    "proxy": "proxy",
}
_FILES = ("ca", "client_certificate", "client_key")
_QUIET = frozenset({"name", "baseurl", "enabled", "gpgcheck", "gpgkey", "password", "priority", *_SAME})


def repositories(file: Path, placed: Callable[[str], str]) -> tuple[list[dict[str, object]], list[str]]:
    """The repositories of a .repo file in a recipe's words, and notes.

    `placed` turns a path of this machine into the one the recipe shall have.

    Raises:
        RecipeError: the file cannot be read or is not a .repo file.
    """
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    try:
        parser.read_string(file.read_text("utf-8"), str(file))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise RecipeError("RecipeUnreadable", file=file, error=str(error).replace("\n", " ")) from error
    found: list[dict[str, object]] = []
    notes: list[str] = []
    for section in parser.sections():
        values = {key: value.strip() for key, value in parser[section].items()}
        if values.get("enabled", "1").lower() in ("0", "no", "false"):
            notes.append(f"repository {section}: switched off there; left out.")
        elif not values.get("baseurl"):
            notes.append(f"repository {section}: has no baseurl (mirror lists are not read); add its url.")
        else:
            found.append(_repository(section, values, placed, notes))
    return found, notes


def _repository(
    section: str, values: dict[str, str], placed: Callable[[str], str], notes: list[str]
) -> dict[str, object]:
    address, *more = values["baseurl"].split()
    if more:
        notes.append(f"repository {section}: only the first of {len(more) + 1} addresses is used.")
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in section).lstrip("._-") or "repo"
    entry: dict[str, object] = {"name": name, "url": _variables(address)}
    entry.update(_trust(section, values, placed, notes))
    for theirs, ours in _SAME.items():
        if values.get(theirs):
            entry[ours] = placed(values[theirs].removeprefix("file://")) if ours in _FILES else values[theirs]
    if values.get("password"):
        entry["password_env"] = "HOSTPLANE_PASSWORD_" + name.upper().translate(str.maketrans(".-", "__"))
        notes.append(f"repository {section}: its password is not copied; put it into {entry['password_env']}.")
    if values.get("priority", "").isdecimal():
        entry["priority"] = int(values["priority"])
    notes.extend(f"repository {section}: {key} is left out." for key in values if key not in _QUIET)
    return entry


def _trust(section: str, values: dict[str, str], placed: Callable[[str], str], notes: list[str]) -> dict[str, object]:
    """The key; a check that the file switches off stays off, and is said."""
    if values.get("gpgcheck", "1").lower() in ("0", "no", "false"):
        notes.append(
            f"repository {section}: gpgcheck is off there, and so it is here: set key, remove check_signatures."
        )
        return {"check_signatures": False}
    key, *more = values.get("gpgkey", "").split() or [""]
    if more:
        notes.append(
            f"repository {section}: only the first of {len(more) + 1} keys is named; one file may hold several."
        )
    if key.startswith(("/", "file://")):
        return {"key": placed(key.removeprefix("file://"))}
    if key.startswith(("http://", "https://")):
        if key.startswith("http://"):
            notes.append(f"repository {section}: its key is fetched by https; what came by http proves nothing.")
        return {"key": _variables(key.replace("http://", "https://", 1))}
    notes.append(f"repository {section}: names no key; kbimg did not check signatures, here key is needed.")
    return {}


def _variables(address: str) -> str:
    for theirs, ours in (("$releasever", "$release"), ("$basearch", "$arch")):
        address = address.replace(theirs, ours).replace("${" + theirs[1:] + "}", ours)
    return address
