"""When work may begin: KubeOS's time windows and NodeGroups' windows, also in nights in which the clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostplane.api.kubeos import TimeWindow
from hostplane.api.nodegroup import Window
from hostplane.errors import ApiError
from hostplane.planning.windows import is_open, kubeos_is_open, window_length

SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo | None = None) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone or UTC)


def kubeos(start: str, end: str) -> TimeWindow:
    return TimeWindow(starttime=start, endtime=end)


# --- KubeOS ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, kubeos("", "")])
def test_no_window_is_always_open(window: TimeWindow | None) -> None:
    assert kubeos_is_open(window, at("2026-03-01 12:00"), UTC)


@pytest.mark.parametrize(
    ("clock", "is_in"),
    [
        ("2026-03-01 09:59:59", False),
        ("2026-03-01 10:00:00", False),  # the ends do not belong to it
        ("2026-03-01 10:00:01", True),
        ("2026-03-01 11:59:59", True),
        ("2026-03-01 12:00:00", False),
        ("2026-03-01 12:00:01", False),
    ],
)
@pytest.mark.parametrize(
    "window", [kubeos("10:00:00", "12:00:00"), kubeos("2026-03-01 10:00:00", "2026-03-01 12:00:00")], ids=str
)
def test_both_forms_leave_their_ends_out(window: TimeWindow, clock: str, is_in: bool) -> None:
    assert kubeos_is_open(window, at(clock), UTC) is is_in


@pytest.mark.parametrize(
    ("clock", "is_in"),
    [
        ("21:59:59", False),
        ("22:00:00", False),
        ("23:00:00", True),
        ("00:00:00", True),
        ("01:00:00", True),
        ("02:00:00", False),
        ("12:00:00", False),
    ],
)
def test_an_end_before_the_start_wraps_midnight(clock: str, is_in: bool) -> None:
    assert kubeos_is_open(kubeos("22:00:00", "02:00:00"), at(f"2026-03-01 {clock}"), UTC) is is_in


def test_a_dated_window_does_not_come_again() -> None:
    window = kubeos("2026-03-01 22:00:00", "2026-03-02 02:00:00")
    assert kubeos_is_open(window, at("2026-03-02 01:00:00"), UTC)
    assert not kubeos_is_open(window, at("2026-03-03 01:00:00"), UTC)


def test_the_clock_is_the_operators_own() -> None:
    window = kubeos("22:00:00", "23:00:00")
    now = at("2026-03-01 14:30:00")
    assert kubeos_is_open(window, now, SHANGHAI)
    assert not kubeos_is_open(window, now, UTC)


@pytest.mark.parametrize(
    ("start", "end", "name"),
    [
        ("", "10:00:00", "TimeWindowForm"),
        ("10:00:00", "", "TimeWindowForm"),
        ("2026-03-01 10:00:00", "12:00:00", "TimeWindowForm"),
        ("10:00", "12:00", "TimeWindowForm"),
        ("9:00:00", "12:00:00", "TimeWindowForm"),
        ("10:00:00", "24:00:00", "TimeWindowForm"),
        ("10:00:00", "12:60:00", "TimeWindowForm"),
        ("2026-02-30 10:00:00", "2026-03-01 10:00:00", "TimeWindowForm"),
        ("2026-03-01T10:00:00", "2026-03-01T12:00:00", "TimeWindowForm"),
        ("2026-03-01 10:00:00Z", "2026-03-01 12:00:00Z", "TimeWindowForm"),
        ("10:00:00\n", "12:00:00\n", "TimeWindowForm"),
        ("１0:00:00", "12:00:00", "TimeWindowForm"),
        ("10:00:00", "10:00:00", "TimeWindowOrder"),
        ("2026-03-01 10:00:00", "2026-03-01 10:00:00", "TimeWindowOrder"),
        ("2026-03-02 10:00:00", "2026-03-01 10:00:00", "TimeWindowOrder"),
    ],
)
def test_what_can_never_act_is_refused(start: str, end: str, name: str) -> None:
    with pytest.raises(ApiError) as refusal:
        kubeos_is_open(kubeos(start, end), at("2026-03-01 11:00:00"), UTC)
    assert refusal.value.name == name


# --- NodeGroup ------------------------------------------------------------------------------------------------------


def test_no_windows_are_always_open() -> None:
    assert is_open([], at("2026-03-01 12:00"))


@pytest.mark.parametrize(
    ("duration", "length"),
    [("1m", timedelta(minutes=1)), ("90m", timedelta(minutes=90)), ("168h", timedelta(days=7))],
)
def test_lengths(duration: str, length: timedelta) -> None:
    assert window_length(Window(start="00:00", duration=duration)) == length


@pytest.mark.parametrize("duration", ["0m", "0h", "169h", "99999h", "10081m", "4", "h", "", "4d", "-4h", "9999999999h"])
def test_a_length_that_makes_no_sense_is_refused(duration: str) -> None:
    """Also one that no CRD let in: it must stop its group, never the pass."""
    with pytest.raises(ApiError) as refusal:
        is_open([Window(start="00:00", duration=duration)], at("2026-03-01 12:00"))
    assert refusal.value.name == "WindowLength"


def test_a_start_that_is_no_time_is_refused() -> None:
    with pytest.raises(ApiError):
        is_open([Window(start="25:00", duration="1h")], at("2026-03-01 12:00"))


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "", "../etc/passwd", "\x00"])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(ApiError) as refusal:
        is_open([Window(start="00:00", duration="1h", time_zone=zone)], at("2026-03-01 12:00"))
    assert refusal.value.name == "UnknownTimeZone"


NIGHT = Window(weekdays=["Fri"], start="22:00", duration="4h", time_zone="Asia/Shanghai")


@pytest.mark.parametrize(
    ("local", "is_in"),
    [
        ("2026-03-06 21:59", False),
        ("2026-03-06 22:00", True),  # a Friday
        ("2026-03-07 01:59", True),  # the weekday is that of the start
        ("2026-03-07 02:00", False),
        ("2026-03-07 22:30", False),
        ("2026-03-06 01:00", False),
    ],
)
def test_a_window_that_crosses_midnight(local: str, is_in: bool) -> None:
    assert is_open([NIGHT], at(local, SHANGHAI)) is is_in


def test_several_windows_add_up() -> None:
    windows = [Window(weekdays=["Mon"], start="01:00", duration="1h"), Window(start="05:00", duration="30m")]
    assert is_open(windows, at("2026-03-02 01:30"))
    assert is_open(windows, at("2026-03-03 05:29"))
    assert not is_open(windows, at("2026-03-03 01:30"))


def test_a_week_long_window_never_closes() -> None:
    window = Window(weekdays=["Wed"], start="12:00", duration="168h", time_zone="Asia/Shanghai")
    assert all(is_open([window], at("2026-03-01 00:00") + timedelta(hours=h)) for h in range(24 * 15))


def test_a_start_in_the_hour_that_spring_leaves_out_keeps_its_length() -> None:
    """On 29 March 2026 Berlin's clocks go from 02:00 to 03:00; 02:30 does not exist and opens at 03:30 summer time."""
    window = Window(weekdays=["Sun"], start="02:30", duration="2h", time_zone="Europe/Berlin")
    opens = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert not is_open([window], opens - timedelta(seconds=1))
    assert is_open([window], opens)
    assert is_open([window], opens + timedelta(hours=2, seconds=-1))
    assert not is_open([window], opens + timedelta(hours=2))


def test_a_start_in_the_hour_that_autumn_doubles_opens_once() -> None:
    """On 25 October 2026 02:30 comes twice in Berlin: it opens at the first, for two hours of real time."""
    window = Window(weekdays=["Sun"], start="02:30", duration="2h", time_zone="Europe/Berlin")
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    open_minutes = [m for m in range(-120, 300) if is_open([window], first + timedelta(minutes=m))]
    assert open_minutes == list(range(120))


def test_a_window_over_the_change_of_clocks_is_neither_cut_nor_doubled() -> None:
    window = Window(weekdays=["Sat"], start="23:00", duration="6h", time_zone="Europe/Berlin")
    for day in (datetime(2026, 3, 28, tzinfo=BERLIN), datetime(2026, 10, 24, tzinfo=BERLIN)):
        start = day.replace(hour=23).astimezone(UTC)
        minutes = [m for m in range(-60, 600) if is_open([window], start + timedelta(minutes=m))]
        assert minutes == list(range(360))


@given(
    start=st.times().map(lambda t: f"{t.hour:02}:{t.minute:02}"),
    minutes=st.integers(1, 10080),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Shanghai", "Pacific/Auckland", "America/Los_Angeles"]),
    day=st.dates(datetime(2020, 1, 1).date(), datetime(2030, 1, 1).date()),
    offset=st.integers(-20000, 20000),
)
def test_it_is_open_exactly_from_a_start_for_its_length(
    start: str, minutes: int, zone: str, day: datetime, offset: int
) -> None:
    """Told the slow way: some day's start lies at most the length before now."""
    window = Window(weekdays=["Tue", "Sat"], start=start, duration=f"{minutes}m", time_zone=zone)
    now = datetime(day.year, day.month, day.day, 12, tzinfo=UTC) + timedelta(minutes=offset)
    hour, minute = map(int, start.split(":"))
    local = now.astimezone(ZoneInfo(zone))
    starts = []
    for back in range(-2, 12):
        that = (local - timedelta(days=back)).date()
        if that.strftime("%a") in ("Tue", "Sat"):
            opened = datetime(that.year, that.month, that.day, hour, minute, tzinfo=ZoneInfo(zone))
            starts.append(opened.astimezone(UTC))
    wanted = any(opened <= now < opened + timedelta(minutes=minutes) for opened in starts)
    assert is_open([window], now) is wanted
