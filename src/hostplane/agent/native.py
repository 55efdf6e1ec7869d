"""The native methods: parameters checked one by one, then handed to the host.

A parameter that is missing, of another type or out of bounds is refused by name before anything is asked of the host;
an unknown one is ignored, because a newer proxy may send it.
"""

import os
import re
from typing import Any, Callable, Dict, List, Optional, Tuple, Type, Union

from hostplane import __version__
from hostplane.errors import HostError
from hostplane.rpc import messages

from .host import Host
from .settings.request import Request
from .state import Image

__all__ = ["Session"]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_MAX_SEQ = 1 << 53
_MAX_WAIT_SECONDS = 60
_MAX_TRIAL_SECONDS = 7 * 86400
_MISSING = object()


class _Params(object):
    """Named parameters of one call."""

    def __init__(self, params: Any, prefix: str = "") -> None:
        if not isinstance(params, dict):
            raise HostError("ParameterInvalid", parameter=prefix or "params", detail="it must be an object")
        self._params, self._prefix = params, prefix

    def _take(self, name: str, kind: Union[Type[Any], Tuple[Type[Any], ...]], words: str, default: Any) -> Any:
        value = self._params.get(name, default)
        if value is _MISSING:
            self.refuse(name, "it is missing")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.refuse(name, "it must be %s" % words)
        return value

    def refuse(self, name: str, detail: str) -> None:
        """Raise what is wrong with `name`."""
        raise HostError("ParameterInvalid", parameter=self._prefix + name, detail=detail)

    def number(self, name: str, low: float, high: float, default: Any = _MISSING) -> float:
        """A number from `low` to `high`."""
        value = self._take(name, (int, float), "a number", default)
        if not low <= value <= high:
            self.refuse(name, "it must be from %d to %d" % (low, high))
        return value  # type: ignore[no-any-return]

    def integer(self, name: str, low: int, high: int, default: Any = _MISSING) -> int:
        """An integer from `low` to `high`."""
        self._take(name, int, "an integer", default)
        return int(self.number(name, low, high, default))

    def text(self, name: str, limit: int, default: Any = _MISSING) -> str:
        """A string of at most `limit` characters."""
        value: str = self._take(name, str, "a string", default)
        if len(value) > limit:
            self.refuse(name, "it has more than %d characters" % limit)
        return value

    def flag(self, name: str) -> bool:
        """True or false; false when it is not there."""
        return bool(self._take(name, bool, "true or false", False))

    def digest(self, name: str, default: Any = _MISSING) -> str:
        """sha256: and 64 lower-case hexadecimal digits; or the default."""
        value = self.text(name, 71, default)
        if not _DIGEST.match(value) and value != default:
            self.refuse(name, "it must be sha256: and 64 hexadecimal digits in lower case")
        return value

    def child(self, name: str) -> "_Params":
        """A nested object."""
        return _Params(self._take(name, dict, "an object", _MISSING), self._prefix + name + ".")

    def items(self, name: str) -> List["_Params"]:
        """A list of objects."""
        found = self._take(name, list, "a list", [])
        return [_Params(item, "%s%s[%d]." % (self._prefix, name, index)) for index, item in enumerate(found)]

    def any(self, name: str) -> Any:
        """Any JSON value; null when it is not there."""
        return self._params.get(name)


class Session(object):
    """One connection: hello first, then any method; it speaks for the Host that hello named, as the user `uid`."""

    def __init__(self, host: Host, uid: int) -> None:
        self._host, self._uid = host, uid
        self._host_uid: Optional[str] = None
        self._methods: Dict[str, Callable[[_Params], Dict[str, Any]]] = {
            messages.HELLO: self._hello,
            messages.STATUS: lambda params: host.status(),
            messages.WAIT: self._wait,
            messages.STAGE: self._stage,
            messages.SWITCH: self._switch,
            messages.CONFIRM: lambda params: host.confirm(self._seq(params)),
            messages.RETURN: lambda params: host.go_back(self._seq(params), params.text("reason", 4096, "")),
            messages.RELEASE: lambda params: host.release(self._seq(params)),
            messages.CONFIGURE: self._configure,
            messages.SETTINGS: self._settings,
            messages.PREVIEW: lambda params: host.preview(_request(params.child("settings"))),
            messages.ROLL_BACK: self._roll_back,
        }

    def call(self, method: str, params: Any) -> Dict[str, Any]:
        """The result of one call. Raises HostError with the refusal."""
        act = self._methods.get(method)
        if act is None:
            raise HostError("MethodUnknown", method=method[:64])
        if self._host_uid is None and method != messages.HELLO:
            raise HostError("HelloMissing")
        if method in messages.MUTATING_METHODS:
            self._host.authorize(self._host_uid or "")
        return act(_Params({} if params is None else params))

    def _seq(self, params: _Params) -> int:
        return params.integer("seq", 1, _MAX_SEQ)

    def _hello(self, params: _Params) -> Dict[str, Any]:
        offered = params.any("protocols")
        if not isinstance(offered, list) or messages.PROTOCOL not in offered:
            raise HostError("ProtocolUnsupported", own=messages.PROTOCOL, offered=str(offered)[:64])
        host_uid = params.text("hostUid", 128, "")
        fixed = self._host.config.host_uid
        if fixed and host_uid and host_uid != fixed:
            raise HostError("WrongHost", uid=host_uid)
        self._host_uid = host_uid
        return {"protocol": messages.PROTOCOL, "agent": __version__, "schema": messages.SCHEMA}

    def _wait(self, params: _Params) -> Dict[str, Any]:
        revision = params.integer("revision", 0, _MAX_SEQ)
        return self._host.wait(revision, params.number("timeoutSeconds", 0, _MAX_WAIT_SECONDS, 30))

    def _stage(self, params: _Params) -> Dict[str, Any]:
        given = params.child("image")
        image = Image(
            format=given.text("format", 32),
            ref=given.text("ref", 2048),
            digest=given.digest("digest"),
            size=given.integer("size", 1, 1 << 50),
            version=given.text("version", 256),
            attempt=given.integer("attempt", 0, _MAX_SEQ, 0),
        )
        return self._host.stage(image, params.flag("held"), params.flag("retry"))

    def _switch(self, params: _Params) -> Dict[str, Any]:
        operation = params.text("operation", 32)
        if operation not in (messages.UPGRADE, messages.ROLLBACK):
            params.refuse("operation", "it must be upgrade or rollback")
        seconds = params.integer("trialSeconds", 1, _MAX_TRIAL_SECONDS, 7200)
        digest = params.digest("digest", "") if operation == messages.ROLLBACK else params.digest("digest")
        return self._host.switch(self._seq(params), operation, digest, seconds)

    def _roll_back(self, params: _Params) -> Dict[str, Any]:
        if self._uid not in (0, os.geteuid()):
            raise HostError("RollbackNotAtConsole", uid=self._uid)
        return self._host.roll_back()

    def _configure(self, params: _Params) -> Dict[str, Any]:
        return self._host.configure(self._seq(params), _request(params.child("settings")))

    def _settings(self, params: _Params) -> Dict[str, Any]:
        action = params.text("action", 16)
        if action not in ("look", "undo"):
            params.refuse("action", "it must be look or undo")
        if action == "undo" and self._uid not in (0, os.geteuid()):
            raise HostError("UndoNotAtConsole", uid=self._uid)
        return self._host.settings(action)


def _request(given: _Params) -> Request:
    configs = []
    for config in given.items("configs"):
        contents = [
            (item.text("key", 1024, ""), item.any("value"), item.text("operation", 64, ""))
            for item in config.items("contents")
        ]
        configs.append((config.text("model", 64, ""), config.text("configpath", 1024, ""), contents))
    return Request(
        version=given.text("version", 256, ""),
        configs=configs,
        undo=given.flag("undo"),
        enforce=given.flag("enforce"),
        signatures=given.text("signatures", 4096, ""),
    )
