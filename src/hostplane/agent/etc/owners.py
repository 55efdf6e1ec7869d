"""Files on PERSIST keep their owners when a user has another number in another image.

Both slots share /var, /home and the rest, and their images may number a user differently. So the numbers are brought
to those of the slot that starts, early in its boot, before any service runs; going back brings them back the same way.
PERSIST/owners.json says which slot's numbers the files carry; it exists from the first difference on, and a host that
never has one pays nothing. Only places where users of the host keep things are looked through (`rules.PLACES`, homes,
what the images' own /var says), never where containers keep theirs: a number there means somebody else.

Numbers may be exchanged (105 becomes 106 and 106 becomes 105), and power may fail in the middle. So every change goes
by way of numbers that nobody has: first old to spare everywhere, then spare to new; each half can be repeated.
"""

import json
import os
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

from .node import shown
from .renumber import Map, renumber
from .rules import CONTAINERS, PLACES, Paths
from .users import Moved, numbers_of
from .views import Images

__all__ = ["Numbering", "next_step", "note", "places_of", "refuse_unsettled", "settle"]

_FILE = "persist/owners.json"
_SPARE = 0x70000000
_TREES = {"var": "var", "home": "home", "root": "root", "opt": "opt", "srv": "srv", "usr/local": "usr-local"}
_LOCAL_TREES = ("home", "opt", "srv", "usr-local")
_TOO_WIDE = ("var", "var/lib", "var/run", "home", "root", "opt", "srv", "usr-local", "var/empty")
_CONTAINERS = Paths(CONTAINERS)


class Numbering(NamedTuple):
    """Number by name: of users and of groups."""

    uids: Dict[str, int] = {}
    gids: Dict[str, int] = {}


def next_step(have: Dict[str, int], want: Dict[str, int]) -> Tuple[Dict[int, int], Dict[str, int]]:
    """(old number -> new one, the numbering afterwards), from what the files carry to what a slot says. Pure.

    A name the slot does not know keeps its number, unless the slot gives that to somebody else: then a spare one.
    """
    taken = set(want.values())
    after = dict(want)
    moves: Dict[int, int] = {}
    spare = _SPARE + (1 << 20)
    held = set(have.values())
    for name, number in sorted(have.items()):
        goal = want.get(name)
        if goal is None and number in taken and number != 0:
            while spare in held:
                spare += 1
            goal = spare
            held.add(spare)
        elif goal is None:
            goal = number
        after[name] = goal
        if goal != number and number != 0:
            moves.setdefault(number, goal)
    return moves, after


# --- the record


class _Record(NamedTuple):
    slot: str
    numbers: Numbering
    places: Tuple[str, ...]
    step: Optional[Dict[str, Any]] = None


def _load(host: HostRoot) -> Optional[_Record]:
    path = host.path(_FILE)
    try:
        with open(path, encoding="ascii") as handle:
            said = json.load(handle)
        slot, places, step = said["slot"], said["places"], said.get("step")
        if slot not in ("A", "B") or not all(isinstance(each, str) for each in places):
            raise ValueError("slot or places are none")
        return _Record(slot, Numbering(_ints(said["uids"]), _ints(said["gids"])), tuple(places), step)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise HostError("OwnersFailed", path=path, detail=str(fault)[:200]) from fault


def _ints(table: Dict[str, Any]) -> Dict[str, int]:
    return {str(name): int(number) for name, number in table.items()}


def _save(host: HostRoot, record: _Record) -> None:
    said: Dict[str, Any] = {"schema": "1.0", "slot": record.slot, "places": list(record.places)}
    said.update(record.numbers._asdict())
    if record.step is not None:
        said["step"] = record.step
    path = host.path(_FILE)
    try:
        with open(path + ".new", "w", encoding="ascii") as handle:
            json.dump(said, handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(path + ".new", path)
        _sync_directory(os.path.dirname(path))
    except OSError as fault:
        raise HostError("OwnersFailed", path=path, detail=fault.strerror or str(fault)) from fault


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _numbering(host: HostRoot, slot: str) -> Numbering:
    contents = []
    for name in ("passwd", "group"):
        try:
            with open(host.path("persist/etc/%s/%s" % (slot, name)), "rb") as handle:
                contents.append(handle.read())
        except OSError:
            contents.append(b"")
    return Numbering(*numbers_of(contents[0], contents[1]))


# --- before a switch


def refuse_unsettled(host: HostRoot, active: str) -> None:
    """Nothing may be merged while the files carry the numbers of another slot. Raises HostError OwnersUnsettled."""
    record = _load(host)
    if record is not None and (record.slot != active or record.step is not None):
        raise HostError("OwnersUnsettled", slot=active)


def note(host: HostRoot, active: str, moved: Iterable[Moved], images: Images) -> None:
    """Put on record whose numbers the files carry, before a slot with others may start. Raises OwnersFailed."""
    record = _load(host) or _Record(active, Numbering(), PLACES)
    now = _numbering(host, active)
    numbers = Numbering(dict(record.numbers.uids, **now.uids), dict(record.numbers.gids, **now.gids))
    places = places_of(moved, _homes(host, active), images)
    _save(host, _Record(active, numbers, tuple(sorted(set(record.places) | places))))


def _homes(host: HostRoot, slot: str) -> Dict[str, str]:
    try:
        with open(host.path("persist/etc/%s/passwd" % slot), encoding="utf-8", errors="surrogateescape") as handle:
            rows = [line.split(":") for line in handle.read().split("\n")]
    except OSError:
        return {}
    return {row[0]: row[5] for row in rows if len(row) == 7}


def places_of(moved: Iterable[Moved], homes: Dict[str, str], images: Images) -> Set[str]:
    """Where to look for files of the users in `moved`, as paths below PERSIST."""
    moves = list(moved)
    places = set(PLACES)
    of_image = [_numbers_in(root) for root in images]
    for move in moves:
        place = _on_persist(homes.get(move.name, ""))
        if move.kind == "uid" and place is not None and place not in _TOO_WIDE:
            places.add(place)
        if not any(move.name in (table.uids if move.kind == "uid" else table.gids) for table in of_image):
            places.update(_LOCAL_TREES)
    for root, table in zip(images, of_image):
        uids = {table.uids[move.name] for move in moves if move.kind == "uid" and move.name in table.uids}
        gids = {table.gids[move.name] for move in moves if move.kind == "gid" and move.name in table.gids}
        places.update(_owned(os.path.join(root, "var"), uids, gids))
    return {place for place in places if not _CONTAINERS.covers(place)}


def _numbers_in(root: str) -> Numbering:
    contents = []
    for name in ("passwd", "group"):
        try:
            with open(os.path.join(root, "etc", name), "rb") as handle:
                contents.append(handle.read())
        except OSError:
            contents.append(b"")
    return Numbering(*numbers_of(contents[0], contents[1]))


def _on_persist(path: str) -> Optional[str]:
    relative = os.path.normpath(path).lstrip("/") if path.startswith("/") else ""
    for target, source in _TREES.items():
        if relative == target or relative.startswith(target + "/"):
            return source + relative[len(target) :]
    return None


def _owned(var: str, uids: Set[int], gids: Set[int]) -> Set[str]:
    """Directories of an image's /var that belong to one of the numbers; what is below them is not looked at."""
    found: Set[str] = set()
    for directory, names, _ in os.walk(var):
        for name in list(names):
            path = os.path.join(directory, name)
            place = "var" + path[len(var) :]
            state = os.lstat(path)
            if place in ("var/lib/dpkg", "var/lib/rpm") or _CONTAINERS.covers(place):
                names.remove(name)
            elif (state.st_uid in uids or state.st_gid in gids) and place not in _TOO_WIDE:
                found.add(place)
                names.remove(name)
    return found


# --- early in a boot


def settle(host: HostRoot, slot: str) -> int:
    """Give the files the numbers of `slot`, which has just started; the number of files changed. Safe to cut anywhere.

    Raises:
        HostError: OwnersFailed naming the file; the next call goes on from there.
    """
    record = _load(host)
    changed = 0
    while record is not None and (record.step is not None or record.slot != slot):
        if record.step is None:
            record = _begin(host, record, slot)
        changed += _finish(host, record)
        record = _load(host)
    return changed


def _begin(host: HostRoot, record: _Record, slot: str) -> _Record:
    now, want = _numbering(host, record.slot), _numbering(host, slot)
    uids, after_uids = next_step(dict(record.numbers.uids, **now.uids), want.uids)
    gids, after_gids = next_step(dict(record.numbers.gids, **now.gids), want.gids)
    step = {
        "to": slot,
        "half": 1,
        "uids": sorted(uids.items()),
        "gids": sorted(gids.items()),
        "after": [after_uids, after_gids],
    }
    begun = record._replace(step=step)
    _save(host, begun)
    return begun


def _finish(host: HostRoot, record: _Record) -> int:
    step = record.step
    assert step is not None  # who calls has seen one
    changed = 0
    try:
        moves: List[Tuple[Map, Map]] = [_halves(step["uids"]), _halves(step["gids"])]
        halves = (1, 2) if step["half"] == 1 else (2,)
        for half in halves:
            if half == 2 and step["half"] == 1:
                step = dict(step, half=2)
                _save(host, record._replace(step=step))
            changed = renumber(host.path("persist"), record.places, moves[0][half - 1], moves[1][half - 1], _CONTAINERS)
        after = Numbering(_ints(step["after"][0]), _ints(step["after"][1]))
        _save(host, _Record(step["to"], after, record.places))
    except OSError as fault:
        path = shown(str(fault.filename or host.path("persist")))
        raise HostError("OwnersFailed", path=path, detail=fault.strerror or str(fault)) from fault
    except (ValueError, KeyError, TypeError, IndexError) as fault:
        raise HostError("OwnersFailed", path=host.path(_FILE), detail=str(fault)[:200]) from fault
    return changed


def _halves(pairs: List[List[int]]) -> Tuple[Map, Map]:
    to_spare = {int(old): _SPARE + index for index, (old, _) in enumerate(pairs)}
    from_spare = {_SPARE + index: int(new) for index, (_, new) in enumerate(pairs)}
    return to_spare, from_spare
