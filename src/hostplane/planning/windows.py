"""When work may begin: NodeGroup's windows (weekdays, start, length, IANA zone) and KubeOS's time window.

A window is measured in elapsed time from its local start, so a night in which the clock changes is neither cut nor
doubled. A closed window stops new work only; who decides that is `plan.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from hostplane.api.kubeos import TimeWindow
from hostplane.api.nodegroup import WEEKDAYS, Window
from hostplane.errors import ApiError

__all__ = ["is_open", "kubeos_is_open", "window_length"]

_LONGEST = timedelta(days=7)
_DATED = re.compile(r"(\d{4})-(\d{2})-(\d{2}) (\d{2}):(\d{2}):(\d{2})", re.ASCII)
_TIMED = re.compile(r"(\d{2}):(\d{2}):(\d{2})", re.ASCII)
_LENGTH = re.compile(r"(\d{1,5})([hm])", re.ASCII)


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ApiError("UnknownTimeZone", zone=name) from error


def window_length(window: Window) -> timedelta:
    """The length of one opening.

    Raises:
        ApiError: it is zero, longer than a week or no length at all.
    """
    found = _LENGTH.fullmatch(window.duration)
    amount, unit = found.groups() if found else ("0", "m")
    length = timedelta(hours=int(amount)) if unit == "h" else timedelta(minutes=int(amount))
    if not timedelta() < length <= _LONGEST:
        raise ApiError("WindowLength", duration=window.duration)
    return length


def is_open(windows: Sequence[Window], now: datetime) -> bool:
    """True inside any of the windows, or where there is none. `now` is aware.

    Raises:
        ApiError: a zone is unknown, a length is impossible or a start is no time of day.
    """
    return not windows or any(_one_is_open(window, now) for window in windows)


def _one_is_open(window: Window, now: datetime) -> bool:
    zone, length = _zone(window.time_zone), window_length(window)
    try:
        start = time.fromisoformat(window.start)
    except ValueError as error:
        raise ApiError("WindowStart", start=window.start) from error
    today = now.astimezone(zone).date()
    for back in range(-1, length.days + 2):
        day = today - timedelta(days=back)
        if window.weekdays and WEEKDAYS[day.weekday()] not in window.weekdays:
            continue
        opened = datetime.combine(day, start, tzinfo=zone).astimezone(UTC)
        if opened <= now < opened + length:
            return True
    return False


def kubeos_is_open(window: TimeWindow | None, now: datetime, zone: tzinfo) -> bool:
    """KubeOS's rule: both ends dated, or both times of day (an end before the start wraps midnight); ends excluded.

    `zone` is the operator's own. Both ends empty: always open.

    Raises:
        ApiError: one end is empty, the forms differ or a time is impossible.
    """
    if window is None or not (window.starttime or window.endtime):
        return True
    local = now.astimezone(zone).replace(tzinfo=None)
    try:
        dated = _DATED.fullmatch(window.starttime), _DATED.fullmatch(window.endtime)
        if dated[0] and dated[1]:
            start, end = (datetime(*map(int, m.groups())) for m in dated if m)  # type: ignore[arg-type]  # six numbers
            if not start < end:
                raise ApiError("TimeWindowOrder", start=window.starttime, end=window.endtime)
            return start < local < end
        timed = _TIMED.fullmatch(window.starttime), _TIMED.fullmatch(window.endtime)
        if timed[0] and timed[1]:
            opens, closes = (time(*map(int, m.groups())) for m in timed if m)  # type: ignore[arg-type]  # three numbers
            clock = local.time()
            if opens == closes:
                raise ApiError("TimeWindowOrder", start=window.starttime, end=window.endtime)
            return opens < clock < closes if opens < closes else clock > opens or clock < closes
    except ValueError as error:
        raise ApiError("TimeWindowForm", start=window.starttime, end=window.endtime) from error
    raise ApiError("TimeWindowForm", start=window.starttime, end=window.endtime)
