"""One round of checks: asked until they hold or their time is up, and fair to what was broken before."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostplane.agent.fetch import Cancelled
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.trial import checks
from hostplane.agent.trial.checks import ADVICE, ALWAYS, BUILT_IN, LOST, NEWS, Check, Checks, Scene, note
from hostplane.errors import HostError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_POLL_SECONDS", 0.01)


def run(host: Any, *table: Check, before: dict[str, Any] | None = None) -> list[str]:
    """The warnings of a round."""
    told: list[str] = []
    scene = Scene(HostRoot(str(host.root)), before or {})
    Checks(scene, "B", table, lambda name, words: told.append(f"{name}: {words}")).run(lambda: 100.0)
    return told


def failing(when: str, seconds: float = 0.0) -> Check:
    return Check("it", seconds, lambda scene: "it does not", when)


HELD: dict[str, Any] = {"failing": {}}
BROKEN: dict[str, Any] = {"failing": {"it": "it did not"}}


@pytest.mark.parametrize(
    ("when", "before", "fails"),
    [
        (ALWAYS, {}, True),
        (ALWAYS, HELD, True),
        (NEWS, {}, True),
        (NEWS, HELD, True),
        (NEWS, BROKEN, False),
        (LOST, {}, False),
        (LOST, HELD, True),
        (LOST, BROKEN, False),
        (ADVICE, {}, False),
        (ADVICE, HELD, False),
        (ADVICE, BROKEN, False),
    ],
)
def test_what_was_broken_before_is_not_the_new_images_fault(
    host: Any, when: str, before: dict[str, Any], fails: bool
) -> None:
    if fails:
        with pytest.raises(HostError, match="The check it failed: it does not"):
            run(host, failing(when), before=before)
    else:
        told = run(host, failing(when), before=before)
        assert told == (["it: it does not"] if (when, before) == (ADVICE, HELD) else [])


def test_a_check_is_asked_until_it_holds(host: Any) -> None:
    answers = iter(["not yet", "not yet", ""])
    run(host, Check("slow", 20.0, lambda scene: next(answers)))
    assert next(answers, None) is None


def test_deadlines_come_from_the_hosts_own_file_and_none_means_not_asked(host: Any) -> None:
    host.configure(checks={"units": 0, "boot": 0.05})
    run(host, Check("units", 100.0, lambda scene: "failed"))
    with pytest.raises(HostError, match="boot"):
        run(host, Check("boot", 100.0, lambda scene: "starting"))


@pytest.mark.parametrize("given", [{"unit": 1}, {"units": "1"}, {"units": -1}, ["units"]])
def test_a_deadline_for_nothing_known_is_refused(host: Any, given: Any) -> None:
    host.configure(checks=given)
    with pytest.raises(HostError) as caught:
        HostRoot(str(host.root))
    assert caught.value.name == "AgentConfigInvalid"


def test_the_administrators_checks_come_last(host: Any) -> None:
    host.check("exit 1")
    with pytest.raises(HostError, match="it does not"):
        run(host, failing(ALWAYS))
    with pytest.raises(HostError, match="50-check"):
        run(host)


def test_a_round_that_is_cancelled_ends_soon(host: Any) -> None:
    asked = threading.Event()

    def probe(scene: Scene) -> str:
        asked.set()
        return "not yet"

    round_ = Checks(Scene(HostRoot(str(host.root))), "B", [Check("it", 1000.0, probe)])
    threading.Thread(target=lambda: (asked.wait(20), round_.cancel())).start()
    with pytest.raises(Cancelled):
        round_.run(lambda: 1000.0)


def test_the_note_holds_what_fails_before_the_reboot(host: Any) -> None:
    def boom(scene: Scene) -> str:
        raise AssertionError("it is judged by itself")

    table = [failing(LOST), Check("fine", 1.0, lambda scene: ""), Check("always", 1.0, boom, ALWAYS)]
    noted = note(Scene(HostRoot(str(host.root))), table)
    assert noted["failing"] == {"it": "it does not"}
    assert noted["at"] > checks._NO_EARLIER_SECONDS


# --- the built-in ones


def built_in(name: str) -> Check:
    return next(check for check in BUILT_IN if check.name == name)


@pytest.fixture
def systemctl(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What each verb of systemctl prints."""
    says: dict[str, str] = {}
    monkeypatch.setattr("hostplane.agent.trial.systemd.output", lambda *command: says.get(command[1], ""))
    return iter([says]).__next__()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("running", ""),
        ("degraded", ""),
        ("starting", "the system is starting, waiting for hung.service"),
        ("maintenance", "the system is maintenance"),
        ("", "the system is not answering"),
    ],
)
def test_a_boot_that_does_not_end_names_what_it_waits_for(
    host: Any, systemctl: dict[str, str], state: str, words: str
) -> None:
    systemctl["is-system-running"] = state
    systemctl["list-jobs"] = " 12 hung.service start running\n 13 later.target start waiting\n"
    assert built_in("boot").probe(Scene(HostRoot(str(host.root)))) == words


def test_only_units_that_nobody_expected_to_fail_count(host: Any, systemctl: dict[str, str]) -> None:
    systemctl["list-units"] = "● old.service loaded failed failed\nfwupd-refresh.service loaded\nnew.service loaded\n"
    host.configure(allowedFailedUnits=["fwupd-*"])
    scene = Scene(HostRoot(str(host.root)))
    assert built_in("units").probe(scene) == "old.service, new.service"
    assert built_in("units").probe(scene._replace(before={"failedUnits": ["old.service"]})) == "new.service"
    assert note(scene, [built_in("units")])["failedUnits"] == ["old.service", "fwupd-refresh.service", "new.service"]


def test_a_clock_that_went_back_is_no_clock(host: Any) -> None:
    scene = Scene(HostRoot(str(host.root)))
    assert built_in("time").probe(scene) == ""
    assert "the clock says" in built_in("time").probe(scene._replace(before={"at": 1 << 34}))


def test_a_missing_or_full_persist_fails(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(HostRoot(str(host.root)))
    assert built_in("disk").probe(scene) == "PERSIST: No such file or directory"
    (host.root / "persist").mkdir()
    assert built_in("disk").probe(scene) == ""
    monkeypatch.setattr(checks, "_PERSIST_BYTES", 1 << 62)
    assert "PERSIST has only" in built_in("disk").probe(scene)


def test_the_page_lists_every_check_with_its_seconds() -> None:
    page = (Path(__file__).parents[4] / "docs/reference/trial.md").read_text("utf-8")
    words = {ALWAYS: "always counts", NEWS: "counts if it is new", LOST: "counts if it held before"}
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|.*\| ([^|]+) \|$", page, re.MULTILINE)
    told = "only told, if it held before"
    assert rows == [(row.name, f"{row.seconds:.0f}", words.get(row.when, told)) for row in BUILT_IN]


def test_a_probe_that_fails_itself_does_not_hold(host: Any) -> None:
    def probe(scene: Scene) -> str:
        raise ValueError("no number")

    with pytest.raises(HostError, match="ValueError: no number"):
        run(host, Check("it", 0.0, probe))


def test_nothing_of_a_check_survives_it(host: Any) -> None:
    marker = host.root / "pid"
    host.check(f"sleep 1000 & echo $! > {marker}")
    run(host)
    left = Path("/proc", marker.read_text().strip(), "stat")
    deadline = time.monotonic() + host.DEADLINE
    while left.exists() and left.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "it runs on"
        time.sleep(0.02)
