"""JSON from a stranger: bounded, without duplicate keys, huge numbers, NaN or surprises of type.

Every check names the part of the bundle and the field, so that the error says where to look.
"""

import json
import re
from calendar import timegm
from time import strptime
from typing import Any, Dict, List, Optional, Tuple

from hostplane.agent.bundle.limits import MAX_JSON
from hostplane.errors import HostError

__all__ = ["Fields", "check_schema", "invalid", "parse_object", "parse_time"]

_DIGEST = re.compile(r"\Asha256:[0-9a-f]{64}\Z")
_SCHEMA = re.compile(r"\A([0-9]{1,4})\.([0-9]{1,4})\Z")
_TIME = re.compile(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")
_DIGITS = 18


def invalid(part: str, detail: str) -> HostError:
    """The error for a part that breaks the format."""
    return HostError("BundleInvalid", part=part, detail=detail)


def parse_object(part: str, raw: bytes, limit: int = MAX_JSON) -> "Fields":
    """The fields of the JSON object in `raw`.

    Raises:
        HostError: BundleTooLarge, BundleInvalid.
    """
    if len(raw) > limit:
        raise HostError("BundleTooLarge", part=part, size=len(raw), limit=limit)

    def number(text: str) -> int:
        if len(text) > _DIGITS:
            raise ValueError("a number is too long")
        return int(text)

    def refused(text: str) -> Any:
        raise ValueError("%s is not a number it may hold" % text)

    def unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key is there twice")
        return found

    try:
        text = raw.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=unique, parse_int=number, parse_float=refused, parse_constant=refused
        )
        if "\\u" in text:  # half a surrogate pair is a string that nothing can print or store
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as fault:
        raise invalid(part, str(fault) or "not JSON") from fault
    if not isinstance(value, dict):
        raise invalid(part, "not an object")
    return Fields(part, value)


def parse_time(part: str, text: str) -> int:
    """Seconds since the epoch of `YYYY-MM-DDTHH:MM:SSZ`, the only form a bundle writes.

    Raises:
        HostError: BundleInvalid.
    """
    try:
        if _TIME.match(text) is None:
            raise ValueError(text)
        return timegm(strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError as fault:
        raise invalid(part, "%r is not a time in UTC" % text[:40]) from fault


def check_schema(part: str, schema: str, major: int = 1) -> None:
    """Refuse another major version; a newer minor one is read as far as it is known.

    Raises:
        HostError: BundleSchemaUnknown, BundleInvalid.
    """
    match = _SCHEMA.match(schema)
    if match is None:
        raise invalid(part, "schema %r is not MAJOR.MINOR" % schema[:20])
    if int(match.group(1)) != major:
        raise HostError("BundleSchemaUnknown", part=part, schema=schema, known="%d.x" % major)


class Fields(object):
    """A JSON object that is asked for what it should hold; unknown fields are left alone (a newer minor's)."""

    def __init__(self, part: str, values: Dict[str, Any]) -> None:
        self.part = part
        self.values = values

    def _get(self, name: str, kind: type, what: str) -> Any:
        value = self.values.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise invalid(self.part, "%s is not %s" % (name, what))
        return value

    def text(self, name: str, pattern: str = r"[^\x00-\x1f\x7f]{1,256}") -> str:
        """The string `name`, wholly matching `pattern`."""
        value = self._get(name, str, "a string")  # type: str
        if re.match(r"(?:%s)\Z" % pattern, value) is None:
            raise invalid(self.part, "%s has a form it may not have" % name)
        return value

    def optional_text(self, name: str, pattern: str = r"[^\x00-\x1f\x7f]{1,256}") -> Optional[str]:
        """The string `name`, or None where it is absent or null."""
        return None if self.values.get(name) is None else self.text(name, pattern)

    def digest(self, name: str) -> str:
        """The sha256 digest `name`, with its algorithm."""
        value = self._get(name, str, "a string")  # type: str
        if _DIGEST.match(value) is None:
            raise invalid(self.part, "%s is not a sha256 digest" % name)
        return value

    def number(self, name: str, least: int, most: int) -> int:
        """The integer `name` between `least` and `most`, both included."""
        value = self._get(name, int, "an integer")  # type: int
        if not least <= value <= most:
            raise invalid(self.part, "%s is not between %d and %d" % (name, least, most))
        return value

    def object(self, name: str) -> "Fields":
        """The object `name`."""
        return Fields("%s: %s" % (self.part, name), self._get(name, dict, "an object"))

    def optional_object(self, name: str) -> "Optional[Fields]":
        """The object `name`, or None where it is absent or null."""
        return None if self.values.get(name) is None else self.object(name)

    def objects(self, name: str, most: int) -> "List[Fields]":
        """The list of at most `most` objects under `name`; absent is none."""
        found = []
        for at, value in enumerate(self._list(name, most)):
            if not isinstance(value, dict):
                raise invalid(self.part, "%s[%d] is not an object" % (name, at))
            found.append(Fields("%s: %s[%d]" % (self.part, name, at), value))
        return found

    def texts(self, name: str, most: int) -> Tuple[str, ...]:
        """The list of at most `most` short strings under `name`; absent is none."""
        values = self._list(name, most)
        if not all(isinstance(value, str) and len(value) <= 256 for value in values):
            raise invalid(self.part, "%s does not hold short strings only" % name)
        return tuple(values)

    def mapping(self, name: str, most: int) -> Dict[str, str]:
        """The object of at most `most` short strings under `name`; absent is empty."""
        values = {} if self.values.get(name) is None else self._get(name, dict, "an object")  # type: Dict[str, str]
        if len(values) > most or not all(isinstance(v, str) and len(v) <= 4096 for v in values.values()):
            raise invalid(self.part, "%s does not hold at most %d strings" % (name, most))
        return values

    def _list(self, name: str, most: int) -> List[Any]:
        value = [] if self.values.get(name) is None else self._get(name, list, "a list")  # type: List[Any]
        if len(value) > most:
            raise HostError("BundleTooLarge", part="%s: %s" % (self.part, name), size=len(value), limit=most)
        return value
