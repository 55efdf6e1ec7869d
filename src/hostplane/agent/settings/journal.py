"""What is being applied, and what is in force, as two files: a crash leaves the old settings or completes the new ones.

`pending.json` is written, whole and flushed, before the first change; from then on the request is carried to its end,
by whoever starts next, unless it says `undoing`. At the end it is renamed to `record.json`: what the settings in force
wish, what each path was before the first of them, and what they made of it. Both are readable by root alone.
"""

import json
import os
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

from . import entry
from .entry import Entry
from .patch import take_back
from .plan import Plan
from .planner import Planner
from .request import Config, Request, request_digest

__all__ = ["Journal", "Piece", "Record", "Value"]

_SCHEMA = "1.0"


class Piece(NamedTuple):
    """One path: before any settings, before this request, and after it."""

    path: str
    original: Optional[Entry]
    was: Optional[Entry]
    after: Optional[Entry]
    tells: Tuple[str, ...] = ()
    models: Tuple[str, ...] = ()
    is_fresh: bool = True  # of this request, not of one before it


class Value(NamedTuple):
    """One kernel parameter, likewise."""

    path: str
    original: str
    was: str
    after: str
    is_fresh: bool = True


class Record(NamedTuple):
    """A request on its way, or in force."""

    version: str = ""
    configs: Tuple[Config, ...] = ()
    enforce: bool = False
    boot_id: str = ""
    is_undoing: bool = False
    needs_reboot: bool = False
    pieces: Tuple[Piece, ...] = ()
    values: Tuple[Value, ...] = ()
    units: Tuple[str, ...] = ()
    running: Tuple[str, ...] = ()
    programs: Tuple[str, ...] = ()
    check_seconds: float = 45.0

    @property
    def digest(self) -> str:
        """The request's digest."""
        return request_digest(self.version, self.configs)

    @property
    def request(self) -> Request:
        """The request again, to be asked whether it holds."""
        return Request(self.version, self.configs, False, self.enforce)

    def take_back(self, host: HostRoot, planner: Planner) -> None:
        """Let `planner` start from what was there before any settings.

        Raises:
            HostError: SettingsChangedSince, where somebody changed the same lines since.
        """
        for piece in self.pieces:
            if not entry.holds(piece.original, piece.after):
                wanted = _without(piece, entry.read(host, piece.path))
                planner.start_from(piece.path, wanted, piece.tells, piece.models)
        for value in self.values:
            if value.original != value.after:
                planner.start_parameter(value.path, value.original)

    def followed_by(self, plan: Plan, request: Request, boot_id: str, running: Sequence[str]) -> "Record":
        """The record of `request`, planned as `plan` on top of this one."""
        pieces, values = {}, {}
        for piece in self.pieces:
            if not request.undo or not entry.holds(plan.held.get(piece.path, piece.original), piece.original):
                pieces[piece.path] = piece._replace(is_fresh=False)
        for change in plan.changes:
            found = [piece.original for piece in self.pieces if piece.path == change.path]
            original = found[0] if found else change.was
            pieces[change.path] = Piece(change.path, original, change.was, change.after, change.tells, change.models)
        for value in self.values:
            if not request.undo or plan.held_values.get(value.path, value.original) != value.original:
                values[value.path] = value._replace(is_fresh=False)
        for parameter in plan.parameters:
            first = [value.original for value in self.values if value.path == parameter.path]
            was = parameter.was
            values[parameter.path] = Value(parameter.path, first[0] if first else was, was, parameter.after)
        return Record(
            version=request.version,
            configs=tuple(request.configs),
            enforce=request.enforce,
            boot_id=boot_id,
            needs_reboot=plan.needs_reboot,
            pieces=tuple(pieces.values()),
            values=tuple(values.values()),
            units=tuple(plan.units),
            running=tuple(running),
            programs=tuple(plan.programs),
            check_seconds=plan.check_seconds,
        )


def _without(piece: Piece, now: Optional[Entry]) -> Optional[Entry]:
    """What the path is without our change."""
    original, after = piece.original, piece.after
    if entry.holds(now, after) or original is None or entry.holds(now, original):
        return original
    if now is None or now.is_link or after is None or after.is_link or original.is_link:
        raise HostError("SettingsChangedSince", path=piece.path)
    try:
        text = take_back(now.data.decode("utf-8"), after.data.decode("utf-8"), original.data.decode("utf-8"))
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise HostError("SettingsChangedSince", path=piece.path)
    return now._replace(data=text.encode("utf-8"))


def _encoded(record: Record) -> bytes:
    document: Dict[str, Any] = dict(record._asdict(), schema=_SCHEMA)
    document["pieces"] = [
        dict(
            piece._asdict(),
            original=entry.encode(piece.original),
            was=entry.encode(piece.was),
            after=entry.encode(piece.after),
        )
        for piece in record.pieces
    ]
    document["values"] = [value._asdict() for value in record.values]
    return json.dumps(document, indent=1, sort_keys=True).encode("ascii") + b"\n"


def _decoded(raw: bytes) -> Record:
    given = json.loads(raw.decode("ascii"))
    if str(given["schema"]).partition(".")[0] != _SCHEMA.partition(".")[0]:
        raise ValueError("schema %s is unknown" % given["schema"])
    fields = {name: type(default)(given.get(name, default)) for name, default in Record()._asdict().items()}
    fields["pieces"] = tuple(
        Piece(
            piece["path"],
            entry.decode(piece["original"]),
            entry.decode(piece["was"]),
            entry.decode(piece["after"]),
            tuple(piece["tells"]),
            tuple(piece["models"]),
            bool(piece["is_fresh"]),
        )
        for piece in given["pieces"]
    )
    fields["values"] = tuple(Value(**value) for value in given["values"])
    fields["configs"] = tuple((model, path, [tuple(item) for item in items]) for model, path, items in given["configs"])
    return Record(**fields)


class Journal(object):
    """The two files of one host."""

    def __init__(self, host: HostRoot) -> None:
        self._host = host
        self._directory = host.path("var/lib/hostplane/settings")

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name + ".json")

    def _load(self, name: str) -> Optional[Record]:
        try:
            with open(self._path(name), "rb") as file:
                return _decoded(file.read())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as fault:
            raise HostError("SettingsRecordUnreadable", path=self._path(name), detail=str(fault)[:200]) from None

    def record(self) -> Optional[Record]:
        """The settings in force; None on a host that has none. Raises HostError SettingsRecordUnreadable."""
        return self._load("record")

    def pending(self) -> Optional[Record]:
        """The request on its way; None where nothing is. Raises HostError SettingsRecordUnreadable."""
        return self._load("pending")

    def begin(self, record: Record) -> None:
        """From here on `record` is carried to its end. Raises HostError SettingWriteFailed, VetoedByHost."""
        self._host.refuse_if_vetoed()
        path = self._path("pending")
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            descriptor = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(_encoded(record))
                file.flush()
                os.fsync(file.fileno())
            os.replace(path + ".new", path)
            self._sync()
        except OSError as fault:
            raise HostError("SettingWriteFailed", path=path, detail=fault.strerror or str(fault)) from fault

    def end(self) -> None:
        """The request on its way is in force now. Raises HostError SettingWriteFailed."""
        self._move(lambda: os.replace(self._path("pending"), self._path("record")))

    def drop(self) -> None:
        """The request on its way was taken back. Raises HostError SettingWriteFailed."""
        self._move(lambda: os.unlink(self._path("pending")))

    def _move(self, act: Any) -> None:
        try:
            act()
            self._sync()
        except OSError as fault:
            raise HostError("SettingWriteFailed", path=self._path("pending"), detail=fault.strerror) from fault

    def _sync(self) -> None:
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
