"""files and units: whole files the administrator wishes on a host, and systemd units with the links that enable them.

Pure but for one question (which unit of a name is there already), which the caller answers.
Links are made like files, so that a cut leaves a unit enabled or not, and undo knows what was there.
"""

import re
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from .entry import Entry
from .wish import Wish, refuse, single_line

__all__ = ["FILES", "UNITS", "UNIT_DIRECTORY", "Known", "Wanted", "file_wanted", "unit_wanted"]

FILES, UNITS = "files", "units"
UNIT_DIRECTORY = "/etc/systemd/system/"
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,200}\.(service|socket|mount|timer|path|target|slice|automount)\Z")
_VERBS = ("restart", "reload")
_STATES = ("enabled", "disabled", "masked", "present")
_INSTALL = {"WantedBy": ".wants/", "RequiredBy": ".requires/"}


class Wanted(NamedTuple):
    """One path, what shall be there (None: nothing), and whom to tell."""

    path: str
    entry: Optional[Entry]
    tells: Tuple[str, ...] = ()


def _fields(model: str, wish: Wish, known: Tuple[str, ...]) -> Dict[str, Any]:
    if wish.operation not in ("", "delete"):
        raise refuse(model, wish, "the operation %s is unknown; leave it out, or use delete" % wish.operation[:32])
    if wish.is_delete:
        return {}
    given = {"content": wish.value} if isinstance(wish.value, str) else wish.value
    if not isinstance(given, dict) or not given:
        raise refuse(model, wish, "the value is a text, or an object with %s" % ", ".join(known))
    for name in given:
        if name not in known:
            raise refuse(model, wish, "%s is unknown; known are %s" % (str(name)[:32], ", ".join(known)))
    return given


def _text(model: str, wish: Wish, given: Dict[str, Any], name: str) -> Optional[bytes]:
    value = given.get(name)
    if value is None:
        return None
    try:
        if not isinstance(value, str):
            raise ValueError("it is no text")
        return value.encode("utf-8")
    except ValueError:
        raise refuse(model, wish, "%s must be a text in Unicode" % name) from None


def _number(wish: Wish, given: Dict[str, Any], name: str, most: int) -> int:
    value = given.get(name, -1)
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value <= most:
        raise refuse(FILES, wish, "%s must be a number from 0 to %d" % (name, most))
    return value


def _mode(wish: Wish, given: Dict[str, Any]) -> int:
    mode = given.get("mode")
    if mode is None:
        return -1
    if not isinstance(mode, str) or not re.match(r"0?[0-7]{3}\Z", mode):
        raise refuse(FILES, wish, 'mode is three octal digits in quotes, like "0644"; no set-uid or set-gid')
    return int(mode, 8)


def file_wanted(wish: Wish) -> Wanted:
    """files: the key is the path. Raises HostError SettingRefused."""
    path = single_line(FILES, wish, wish.key)
    if not path.startswith("/") or path.endswith("/") or any(part in ("", ".", "..") for part in path[1:].split("/")):
        raise refuse(FILES, wish, "the key is the absolute path of a file, without . and ..")
    given = _fields(FILES, wish, ("content", "mode", "uid", "gid", "restart", "reload"))
    if wish.is_delete:
        return Wanted(path, None)
    content = _text(FILES, wish, given, "content")
    if content is None:
        raise refuse(FILES, wish, "it needs its content")
    tells = []
    for verb in _VERBS:
        for unit in _units(wish, given.get(verb, [])):
            tells.append("%s %s" % (verb, unit))
    numbers = (_number(wish, given, "uid", 65535), _number(wish, given, "gid", 65535))
    return Wanted(path, Entry(content, False, _mode(wish, given), *numbers), tuple(tells))


def _units(wish: Wish, given: Any) -> List[str]:
    found = given if isinstance(given, list) else [given]
    for unit in found:
        if not isinstance(unit, str) or not _UNIT.match(unit):
            raise refuse(FILES, wish, "%s is no unit to restart or reload" % str(unit)[:80])
    return list(found)


class Known(NamedTuple):
    """The unit of a name that is on the host: its path (empty: none), its text, whether it is masked, and whether the
    image itself wants it, which no link in /etc takes back."""

    path: str = ""
    text: str = ""
    is_masked: bool = False
    is_wanted: bool = False


def unit_wanted(wish: Wish, known: Callable[[str], Known]) -> List[Wanted]:
    """units: the key is the unit's name, or UNIT.d/NAME.conf for a drop-in; `known(name)` is what is there.

    `state` is enabled (and started), disabled (and stopped), masked, or present (neither link nor start). Deleting a
    unit takes its file and links away; where the image has it too, the image's counts again.

    Raises:
        HostError: SettingRefused.
    """
    name, slash, drop_in = single_line(UNITS, wish, wish.key).partition("/")
    given = _fields(UNITS, wish, ("content", "state"))
    content = _text(UNITS, wish, given, "content")
    if slash:
        unit = name[:-2] if name.endswith(".d") else ""
        if not _UNIT.match(unit) or not re.match(r"[A-Za-z0-9_.-]{1,100}\.conf\Z", drop_in) or "state" in given:
            raise refuse(UNITS, wish, "a drop-in is UNIT.d/NAME.conf and has only content")
        if content is None and not wish.is_delete:
            raise refuse(UNITS, wish, "it needs its content")
        entry = None if content is None else Entry(content)
        return [Wanted(UNIT_DIRECTORY + wish.key, entry, ("refresh " + unit,))]
    if not _UNIT.match(name):
        raise refuse(UNITS, wish, "the key is a unit's name with its kind: my.service")
    state = given.get("state", "enabled" if not wish.is_delete else "present")
    if state not in _STATES:
        raise refuse(UNITS, wish, "state is one of %s" % ", ".join(_STATES))
    tells = (("refresh " if state == "present" and not wish.is_delete else "settle ") + name,)
    path = UNIT_DIRECTORY + name
    if state == "masked":
        if content is not None:
            raise refuse(UNITS, wish, "a masked unit has no content")
        return [Wanted(path, Entry(b"/dev/null", True), tells)]
    found = known(name)
    if content is None and not found.path and not wish.is_delete:
        raise refuse(UNITS, wish, "the image has no such unit, so it needs its content")
    if state == "disabled" and found.is_wanted:
        raise refuse(UNITS, wish, "the image itself enables it, so only state masked keeps it from starting")
    wanted = []
    if content is not None:
        wanted.append(Wanted(path, Entry(content), tells))
        found = Known(path, content.decode("utf-8"))
    elif wish.is_delete or found.is_masked:
        wanted.append(Wanted(path, None, tells))
    links = _links(name, found.text)
    if state == "enabled" and not links:
        raise refuse(UNITS, wish, "it has no [Install] section that says what wants it; use state present")
    for link in links if state != "present" or wish.is_delete else ():
        entry = Entry(found.path.encode("utf-8"), True) if state == "enabled" else None
        wanted.append(Wanted(UNIT_DIRECTORY + link, entry, tells))
    return wanted


def _links(name: str, text: str) -> List[str]:
    """Paths below the unit directory of the links that its [Install] section asks for."""
    found, section = [], ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        key, equals, value = line.partition("=")
        key = key.strip()
        if section != "[Install]" or not equals:
            continue
        for word in value.split():
            if key in _INSTALL and _UNIT.match(word):
                found.append(word + _INSTALL[key] + name)
            elif key == "Alias" and _UNIT.match(word) and word != name:
                found.append(word)
    return found
