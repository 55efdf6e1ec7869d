"""One root for every error Hostplane raises, and the catalogue every error and every reason comes from.

    HostplaneError
    ├── ApiError            an object of ours or of KubeOS's says something that can never act
    ├── ClusterError        the API server refused, or could not be reached
    │   ├── NotFoundError       404
    │   ├── ConflictError       409: somebody wrote in between
    │   ├── GoneError           410: the resource version is too old to resume from
    │   ├── ThrottledError      429, 503: try again later
    │   └── UnreachableError    no answer at all
    ├── HostError           the agent could not do, or will not do, what was asked of it
    ├── RecipeError         a recipe, a distribution's data or another input of the image builder is wrong
    ├── ImageError          a step of an image's making failed
    └── LocalError          a tool, a file or a port on this machine stands in the way

Each file in `catalogue/` is one room's share: code -> name, and per language a text and a remedy. A code is never
re-used and never changes its meaning; scripts and runbooks search for it. The catalogue is read on the first use.

This module runs on Python 3.6 because the agent carries it (docs/decisions/002).
"""

import json
import pkgutil

__all__ = [
    "ApiError",
    "ClusterError",
    "ConflictError",
    "GoneError",
    "HostError",
    "HostplaneError",
    "ImageError",
    "LocalError",
    "NotFoundError",
    "Reason",
    "RecipeError",
    "ThrottledError",
    "UnreachableError",
    "catalogue",
    "reason",
    "translate",
]

_ROOMS = ("agent", "api", "cli", "distros", "image", "kube", "local", "operator", "planning", "proxy", "rpc")
_LANGUAGES = ("en", "zh_CN")
_by_name = {}  # type: dict[str, dict[str, object]]


def catalogue():
    # type: () -> dict[str, dict[str, object]]
    """All entries by name: {"code": "HP-1234", "en": {"text", "remedy"}, "zh_CN": {...}, "room": file name}."""
    if not _by_name:
        for room in _ROOMS:
            try:
                raw = pkgutil.get_data("hostplane", "catalogue/%s.json" % room)
            except OSError:  # the agent's zipapp carries only its own rooms
                continue
            if raw is None:
                continue
            for code, entry in json.loads(raw.decode("utf-8")).items():
                _by_name[entry["name"]] = dict(entry, code=code, room=room)
    return _by_name


class _Lenient(dict):  # type: ignore[type-arg]  # a missing parameter must not hide the error itself
    def __missing__(self, key):
        # type: (str) -> str
        return "?"


def translate(name, params, language="en"):
    # type: (str, dict[str, object], str) -> tuple[str, str, str]
    """(code, text, remedy) of the entry `name` in `language`, with its parameters filled in.

    An unknown name gives HP-0000 and the name itself: a message from a newer agent is shown, not lost.
    """
    entry = catalogue().get(name)
    if entry is None:
        return "HP-0000", name, ""
    words = entry.get(language) or entry["en"]
    fill = _Lenient(params)
    return str(entry["code"]), words["text"].format_map(fill), words["remedy"].format_map(fill)  # type: ignore[index]


class Reason(object):
    """Why something is as it is: a name for conditions and scripts, a code, one sentence and what to do about it."""

    __slots__ = ("code", "name", "params", "remedy", "text")

    def __init__(self, name, params):
        # type: (str, dict[str, object]) -> None
        self.name = name
        self.params = params
        self.code, self.text, self.remedy = translate(name, params)

    def __str__(self):
        # type: () -> str
        return "%s: %s" % (self.code, self.text)

    def __repr__(self):
        # type: () -> str
        return "Reason(%r, %r)" % (self.name, self.params)

    def __eq__(self, other):
        # type: (object) -> bool
        return isinstance(other, Reason) and self.name == other.name and self.params == other.params

    def __hash__(self):
        # type: () -> int
        return hash((self.name, self.text))


def reason(name, **params):
    # type: (str, object) -> Reason
    """The catalogue's reason `name`, with its parameters filled in."""
    return Reason(name, params)


class HostplaneError(Exception):
    """The root. `name` is the catalogue entry, `params` fill its text; str() is "HP-1234: one sentence"."""

    def __init__(self, name, **params):
        # type: (str, object) -> None
        self.reason = Reason(name, params)
        super().__init__(str(self.reason))

    @property
    def name(self):
        # type: () -> str
        """The catalogue name, for conditions and for callers that tell failures apart."""
        return self.reason.name

    @property
    def code(self):
        # type: () -> str
        """The stable code, HP-1234."""
        return self.reason.code

    @property
    def remedy(self):
        # type: () -> str
        """What the reader can do about it, one sentence."""
        return self.reason.remedy


class ApiError(HostplaneError):
    """An object says something that can never act."""


class ClusterError(HostplaneError):
    """The API server refused, or could not be reached."""


class NotFoundError(ClusterError):
    """404: the object is not there (any more)."""


class ConflictError(ClusterError):
    """409: the object exists already, or somebody wrote in between."""


class GoneError(ClusterError):
    """410: the resource version is too old to resume a watch or a list from."""


class ThrottledError(ClusterError):
    """429 or 503: the server asks us to come back; `retry_after` is in seconds where it said when."""

    retry_after = None  # type: float | None


class UnreachableError(ClusterError):
    """No answer at all: refused, reset, timed out."""


class HostError(HostplaneError):
    """The agent could not do, or will not do, what was asked of it."""


class LocalError(HostplaneError):
    """A tool, a file or a port on this machine stands in the way."""


class RecipeError(HostplaneError):
    """A recipe, a distribution's data or another input of the image builder is wrong; nothing was written."""


class ImageError(HostplaneError):
    """A step of an image's making failed."""
