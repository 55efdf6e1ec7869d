"""The words of the protocol: methods, phases, slot states, error numbers, and how a request or an answer is built.

Pure: bytes in, dicts out. It refuses what no honest peer sends (numbers of thousands of digits, NaN, nesting beyond
what the interpreter can hold), so that whoever calls it deals with one error type and never with the parser's own.
"""

import json
from typing import Any, Dict, NamedTuple, Union

from hostplane.errors import HostError, HostplaneError

__all__ = [
    "CLASS_HOST_FAULT",
    "CLASS_NO_VERDICT",
    "METHODS",
    "MUTATING_METHODS",
    "PHASES",
    "PROTOCOL",
    "PROTOCOLS",
    "REQUEST_LIMIT",
    "SCHEMA",
    "SLOT_STATES",
    "AgentError",
    "Request",
    "dump",
    "error_answer",
    "load",
    "load_answer",
    "parse_request",
    "request",
    "result_answer",
    "result_of",
]

PROTOCOL = 1
PROTOCOLS = (1,)
SCHEMA = "1.0"
REQUEST_LIMIT = 1 << 20  # bytes of one request, its line end included
ANSWER_LIMIT = 4 << 20  # bytes of one answer; a Status is a few KiB

HELLO, STATUS, WAIT, STAGE, SWITCH = "hello", "status", "wait", "stage", "switch"
CONFIRM, RETURN, RELEASE, CONFIGURE = "confirm", "return", "release", "configure"
ROLL_BACK = "rollback"  # at the console, without a grant
SETTINGS = "settings"  # on the host itself: look for drift, or take settings back
PREVIEW = "preview"  # what settings would change; reads only
METHODS = (HELLO, STATUS, WAIT, STAGE, SWITCH, CONFIRM, RETURN, RELEASE, CONFIGURE, ROLL_BACK, SETTINGS, PREVIEW)
MUTATING_METHODS = (STAGE, SWITCH, CONFIRM, RETURN, RELEASE, CONFIGURE)

IDLE, STAGING, STAGED, REBOOTING = "Idle", "Staging", "Staged", "Rebooting"
TRIAL, FAILED, RETURNED = "Trial", "Failed", "Returned"
PHASES = (IDLE, STAGING, STAGED, REBOOTING, TRIAL, FAILED, RETURNED)
RESTING_PHASES = (IDLE, STAGED, FAILED, RETURNED)

SLOT_EMPTY, SLOT_WRITING, SLOT_STAGED, SLOT_TRIAL = "Empty", "Writing", "Staged", "Trial"
SLOT_CONFIRMED, SLOT_BAD = "Confirmed", "Bad"
SLOT_STATES = (SLOT_EMPTY, SLOT_WRITING, SLOT_STAGED, SLOT_TRIAL, SLOT_CONFIRMED, SLOT_BAD)

UPGRADE, ROLLBACK = "upgrade", "rollback"
CLASS_HOST_FAULT, CLASS_NO_VERDICT = "HostFault", "NoVerdict"

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND = -32700, -32600, -32601
INVALID_PARAMS, REFUSED = -32602, -32000
_NUMBERS = {
    "RequestMalformed": PARSE_ERROR,
    "RequestTooLarge": INVALID_REQUEST,
    "RequestSlow": INVALID_REQUEST,
    "MethodUnknown": METHOD_NOT_FOUND,
    "ParameterInvalid": INVALID_PARAMS,
}

Id = Union[str, int, float, None]


class Request(NamedTuple):
    """One call: `id` is echoed, `params` is an object (native) or an array (KubeOS)."""

    id: Id
    method: str
    params: Any


class AgentError(HostError):
    """The agent's refusal, in the agent's own words: a newer agent may know reasons this program does not."""

    def __init__(self, name: str, code: str, text: str, remedy: str) -> None:
        super().__init__(name)
        self.reason.code, self.reason.text, self.reason.remedy = code, text, remedy
        self.args = (str(self.reason),)


def _bounded_int(digits: str) -> int:
    if len(digits) > 40:
        raise ValueError("number too long")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError("number too large")
    return value


def _refused_constant(word: str) -> float:
    raise ValueError("%s is not JSON" % word)


def load(raw: bytes) -> Any:
    """Any JSON value from UTF-8 bytes.

    Raises:
        HostError: RequestMalformed, whatever is wrong with it.
    """
    try:
        return json.loads(
            raw.decode("utf-8"), parse_int=_bounded_int, parse_float=_finite, parse_constant=_refused_constant
        )
    except (ValueError, RecursionError) as fault:
        raise HostError("RequestMalformed", detail=str(fault)[:200]) from None


def dump(value: Any) -> bytes:
    """Compact ASCII JSON, so that no string can break a line or an encoder."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_request(raw: bytes) -> Request:
    """The call in one line or object.

    Raises:
        HostError: RequestMalformed for what is not a JSON-RPC 2.0 call.
    """
    value = load(raw)
    if not isinstance(value, dict) or not isinstance(value.get("method"), str):
        raise HostError("RequestMalformed", detail="a JSON object with a method was expected")
    ident = value.get("id")
    if isinstance(ident, bool) or not isinstance(ident, (str, int, float, type(None))):
        raise HostError("RequestMalformed", detail="id must be a string or a number")
    return Request(ident, value["method"], value.get("params", {}))


def request(ident: Id, method: str, params: Any) -> bytes:
    """One call as a line."""
    return dump({"jsonrpc": "2.0", "id": ident, "method": method, "params": params}) + b"\n"


def result_answer(ident: Id, result: Any) -> bytes:
    """A successful answer as a line."""
    return dump({"jsonrpc": "2.0", "result": result, "id": ident}) + b"\n"


def error_answer(ident: Id, fault: HostplaneError) -> bytes:
    """A refusal as a line; `data` carries the catalogue name so that callers never match on words."""
    data = {"name": fault.name, "code": fault.code, "text": fault.reason.text, "remedy": fault.remedy}
    error = {"code": _NUMBERS.get(fault.name, REFUSED), "message": str(fault), "data": data}
    return dump({"jsonrpc": "2.0", "error": error, "id": ident}) + b"\n"


def _agent_error(error: Dict[str, Any]) -> AgentError:
    data = error.get("data")
    known = data if isinstance(data, dict) else {}
    message = str(error.get("message", ""))
    return AgentError(
        str(known.get("name", "AgentAnswerInvalid")),
        str(known.get("code", "HP-0000")),
        str(known.get("text", message)),
        str(known.get("remedy", "")),
    )


def load_answer(raw: bytes) -> Any:
    """Any JSON value an agent sent; HostError AgentAnswerInvalid when it is none."""
    try:
        return load(raw)
    except HostError as fault:
        raise HostError("AgentAnswerInvalid", detail=fault.reason.text) from None


def result_of(value: Any, ident: Id) -> Any:
    """The result in the decoded answer to the call `ident`.

    Raises:
        AgentError: the agent refused, with its own words.
        HostError: AgentAnswerInvalid, when it is no answer to that call.
    """
    if not isinstance(value, dict):
        raise HostError("AgentAnswerInvalid", detail="not an object")
    if isinstance(value.get("error"), dict):
        raise _agent_error(value["error"])
    if "result" not in value or value.get("id") != ident:
        raise HostError("AgentAnswerInvalid", detail="no result for call %s" % ident)
    return value["result"]
