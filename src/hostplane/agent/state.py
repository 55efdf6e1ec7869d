"""What the agent remembers, and the file that keeps it.

A crash at any instruction leaves the old state or the new one, never neither. The state is one immutable value;
machine.py makes the next one, `StateFile` writes it. The file says its schema version: an unknown major is refused
with a sentence (it belongs to a newer agent), top-level fields of an unknown minor are kept as they are, because a
return may run an older agent on newer state.
"""

import json
import os
from typing import Any, Dict, NamedTuple, Optional, Tuple, Type

from hostplane.errors import HostError
from hostplane.rpc import messages

__all__ = [
    "Failed",
    "Fault",
    "Image",
    "Operation",
    "Partial",
    "Slot",
    "State",
    "StateFile",
    "Transition",
    "Trial",
    "decode",
    "encode",
]


class Slot(NamedTuple):
    """What a slot holds; `state` is one of messages.SLOT_STATES."""

    state: str = messages.SLOT_EMPTY
    digest: str = ""
    version: str = ""
    size: int = 0


class Image(NamedTuple):
    """The payload asked for last. `size` 0: unknown (KubeOS never says it). The rest is KubeOS's way of fetching."""

    format: str = "rootTar"
    ref: str = ""
    digest: str = ""
    size: int = 0
    version: str = ""
    attempt: int = 0
    plain_http: bool = True
    ca: str = ""
    cert: str = ""
    key: str = ""


class Partial(NamedTuple):
    """Bytes of an unfinished download that are known to be on the medium."""

    slot: str = ""
    digest: str = ""
    offset: int = 0


class Operation(NamedTuple):
    """The last switch: `outcome` is empty while it runs, then Committed, Returned or Interrupted (never rebooted)."""

    seq: int = 0
    operation: str = ""
    digest: str = ""
    target: str = ""
    trial_seconds: int = 7200
    driver: str = "native"
    attempt: int = 0
    outcome: str = ""


class Trial(NamedTuple):
    """The trial of one boot; `deadline` is in seconds of that boot's clock."""

    boot_id: str = ""
    deadline: float = 0.0
    checked: bool = False


class Fault(NamedTuple):
    """Why something did not end well."""

    name: str = ""
    code: str = ""
    message: str = ""
    reason_class: str = ""
    digest: str = ""
    at: str = ""


class Failed(NamedTuple):
    """An image this host went back from, and at which attempt."""

    digest: str = ""
    name: str = ""
    attempt: int = 0


class Transition(NamedTuple):
    """One change of phase."""

    phase: str = ""
    at: str = ""
    reason: str = ""


class State(NamedTuple):
    """Everything that must outlive the process."""

    schema: str = messages.SCHEMA
    phase: str = messages.IDLE
    seq: int = 0  # the highest ever seen
    released: int = 0  # the highest ever released: no switch may use it or a lower one
    host_uid: str = ""
    boot_id: str = ""  # the boot this was last written in
    slots: Dict[str, Slot] = {}
    image: Optional[Image] = None
    partial: Optional[Partial] = None
    operation: Optional[Operation] = None
    trial: Optional[Trial] = None
    returning: Optional[Fault] = None
    last_error: Optional[Fault] = None
    failed: Tuple[Failed, ...] = ()
    transitions: Tuple[Transition, ...] = ()
    settings_version: str = ""
    settings_error: str = ""
    settings_digest: str = ""  # of the request in force: the same one again is not applied again
    applying: Dict[str, str] = {}  # a configure under way: file -> SHA-256 it will have
    before: Dict[str, Any] = {}  # what held before the last switch, for the checks after it (trial/checks.py)
    etc: Dict[str, Any] = {}  # what the next upgrade would do to /etc, as reported
    settings_slot: str = ""  # the slot whose /etc they are in
    settings_reboot: str = ""  # the boot id under which they came, where they need a reboot
    settings_drift: str = ""  # what does not hold any more, a line each
    extra: Dict[str, Any] = {}  # fields of a newer minor version

    def slot(self, name: str) -> Slot:
        """What the slot `name` holds."""
        return self.slots.get(name, Slot())

    def with_slot(self, name: str, slot: Slot) -> "State":
        """The same with `name` holding `slot`."""
        return self._replace(slots=dict(self.slots, **{name: slot}))


_ONE: Dict[str, Type[Any]] = {
    "image": Image,
    "partial": Partial,
    "operation": Operation,
    "trial": Trial,
    "returning": Fault,
    "last_error": Fault,
}
_MANY: Dict[str, Type[Any]] = {"failed": Failed, "transitions": Transition}


def camel(name: str) -> str:
    """The wire name of a field."""
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


def wire(value: Any) -> Dict[str, Any]:
    """A flat NamedTuple as the object it is on the wire."""
    return {camel(name): item for name, item in value._asdict().items()}


def _flat(kind: Type[Any], given: Any) -> Any:
    if not isinstance(given, dict):
        raise ValueError("%s is not an object" % kind.__name__)
    fields = {}
    for name, default in kind()._asdict().items():
        value = given.get(camel(name), default)
        number = isinstance(default, float) and isinstance(value, int)
        if not isinstance(value, type(default)) and not number:
            raise ValueError("%s.%s has the wrong type" % (kind.__name__, camel(name)))
        fields[name] = value
    return kind(**fields)


def encode(state: State) -> bytes:
    """The file's content."""
    document: Dict[str, Any] = dict(state.extra)
    for name, value in state._asdict().items():
        if name in _MANY:
            document[camel(name)] = [wire(item) for item in value]
        elif name in _ONE:
            document[camel(name)] = None if value is None else wire(value)
        elif name == "slots":
            document[name] = {slot: wire(held) for slot, held in value.items()}
        elif name != "extra":
            document[camel(name)] = value
    return json.dumps(document, indent=1, sort_keys=True).encode("ascii") + b"\n"


def decode(raw: bytes) -> State:
    """The state in a file's content.

    Raises:
        HostError: StateTooNew for an unknown major version, StateUnreadable for what no agent wrote.
    """
    try:
        given = json.loads(raw.decode("ascii"))
        if not isinstance(given, dict) or not isinstance(given.get("schema"), str):
            raise ValueError("no schema version")
        if given["schema"].partition(".")[0] != messages.SCHEMA.partition(".")[0]:
            raise HostError("StateTooNew", schema=given["schema"], own=messages.SCHEMA)
        return _document(given)
    except (ValueError, TypeError, RecursionError) as fault:
        raise HostError("StateUnreadable", detail=str(fault)[:200]) from None


def _document(given: Dict[str, Any]) -> State:
    fields: Dict[str, Any] = {}
    plain: Dict[str, Any] = {}
    for name, default in State()._asdict().items():
        value = given.pop(camel(name), default)
        if name in _MANY:
            fields[name] = tuple(_flat(_MANY[name], item) for item in (value or ()))
        elif name in _ONE:
            fields[name] = None if value is None else _flat(_ONE[name], value)
        elif name == "slots":
            fields[name] = {slot: _flat(Slot, held) for slot, held in dict(value).items()}
        elif name != "extra":
            plain[name] = value
            if not isinstance(value, type(default)):
                raise ValueError("%s has the wrong type" % camel(name))
    if plain["phase"] not in messages.PHASES:
        raise ValueError("unknown phase %s" % plain["phase"])
    return State(extra=given, **fields, **plain)


class StateFile(object):
    """`state.json` in its directory."""

    def __init__(self, path: str) -> None:
        self._path = path

    def load(self) -> Optional[State]:
        """The state last written; None on a host that never had one. Raises what `decode` raises."""
        try:
            with open(self._path, "rb") as handle:
                return decode(handle.read())
        except FileNotFoundError:
            return None

    def set_aside(self) -> None:
        """Keep an unreadable file for a person to look at, out of the way."""
        os.replace(self._path, self._path + ".unreadable")

    def save(self, state: State) -> None:
        """Write a new file, flush it, put it in the old one's place, flush the directory.

        Raises:
            HostError: StateWriteFailed; the old state is then still in force.
        """
        fresh = self._path + ".new"
        try:
            with open(fresh, "wb") as handle:
                handle.write(encode(state))
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(fresh, self._path)
            directory = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as fault:
            raise HostError("StateWriteFailed", path=self._path, detail=fault.strerror) from fault
