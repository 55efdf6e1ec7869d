"""What a person at the host's console reads: the line above the login prompt, and `hostplane-agent status`.

Only text is made here, of what was found out elsewhere. The line ends in `healthy` when nothing at all is wrong; else
it says everything that is, worst first, in words that name where to look.
"""

from typing import Any, Dict, List, NamedTuple, Optional

from hostplane.rpc import messages

__all__ = ["Facts", "banner_line", "status_text"]

_NAMED_UNITS = 4


class Facts(NamedTuple):
    """What the line is made of."""

    slot: str = ""  # empty: unknown
    image: str = ""  # name and version
    system: str = ""  # systemd's word: starting, running, degraded...
    failed_units: List[str] = []
    report: Optional[Dict[str, Any]] = None  # the agent's Status
    fault: str = ""  # why there is none


def banner_line(facts: Facts) -> str:
    """One line, without its end."""
    words = ["slot %s" % (facts.slot or "unknown"), facts.image or "unknown image"]
    if facts.system in ("initializing", "starting"):
        words.append("starting")
    else:
        words.append("; ".join(_problems(facts)) or "healthy" + _last_failure(facts.report or {}))
    return "Hostplane: " + " · ".join(_plain(" ".join(word.split())) for word in words)


def _plain(text: str) -> str:
    """Without what a terminal obeys: words of a cluster and of images end here, on root's own console."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


def _problems(facts: Facts) -> List[str]:
    found = []
    if not facts.slot:
        found.append("not booted through Hostplane's loader")
    if facts.failed_units:
        named = ", ".join(facts.failed_units[:_NAMED_UNITS])
        more = len(facts.failed_units) - _NAMED_UNITS
        found.append("failed: " + named + (" and %d more" % more if more > 0 else ""))
    elif facts.system in ("maintenance", "stopping", "offline", "unknown"):
        found.append("system is " + facts.system)
    if facts.fault:
        found.append("agent: " + facts.fault)
    return found + (_of_report(facts.report) if facts.report is not None else [])


def _last_failure(report: Dict[str, Any]) -> str:
    """What went wrong last, though nothing is wrong now."""
    fault = report.get("lastError")
    return " (last failure: %s on %s)" % (fault.get("code", ""), fault.get("at", "")[:10]) if fault else ""


def _of_report(report: Dict[str, Any]) -> List[str]:
    phase, fault = report["phase"], report.get("lastError") or {}
    if phase == messages.TRIAL:
        return ["on trial for %d s more" % report.get("trialSecondsLeft", 0)]
    if phase == messages.RETURNED:
        return ["went back: " + fault.get("message", "")]
    if phase == messages.FAILED:
        return ["staging failed: " + fault.get("message", "")]
    if phase == messages.REBOOTING:
        return ["rebooting"]
    if (report.get("settings") or {}).get("error"):
        return ["settings: " + report["settings"]["error"]]
    return []


def status_text(report: Dict[str, Any]) -> str:
    """The agent's Status for a person; several lines, the last one ended."""
    lines = ["phase    %s" % report["phase"]]
    for name in sorted(report["slots"]):
        slot = report["slots"][name]
        mark = "*" if name == report["activeSlot"] else " "
        held = " ".join(part for part in (slot["state"], slot["version"], slot["digest"][:19]) if part)
        lines.append("slot %s%s  %s" % (name, mark, held))
    progress = report.get("progress")
    if progress:
        shown = "%d of %d MiB" % (progress["bytes"] >> 20, progress["total"] >> 20)
        rate, left = progress.get("bytesPerSecond", 0) >> 20, progress.get("etaSeconds", 0)
        lines.append("staging  %s, %d MiB/s%s" % (shown, rate, ", %d s left" % left if left else ""))
    if report.get("plan"):
        lines.append("download %(download)d bytes of %(total)d; %(reused)d are here already" % report["plan"])
    if "trialSecondsLeft" in report:
        lines.append("trial    %d s left" % report["trialSecondsLeft"])
    if report.get("settings"):
        settings = report["settings"]
        later = " (some of it after a reboot)" if settings.get("rebootNeeded") else ""
        lines.append("settings %s" % (settings["error"] or settings["version"] + later))
        lines += ["         not so any more: " + line for line in settings.get("drift", ())]
    if report.get("etc"):
        etc = report["etc"]
        lines.append("etc      %d merged, %d kept, %d conflicts" % (etc["merged"], etc["kept"], len(etc["conflicts"])))
    if report.get("lastError"):
        fault = report["lastError"]
        lines.append(
            "error    %s" % (fault["message"] if fault["code"] in fault["message"] else "%(code)s: %(message)s" % fault)
        )
    if report.get("firmware"):
        lines.append("loader   %s" % ", ".join("%s %s" % one for one in sorted(report["firmware"].items())))
    if report["never"]:
        lines.append("never    /etc/hostplane/never forbids every change")
    for transition in report["transitions"][-3:]:
        lines.append("         %(at)s %(phase)s %(reason)s" % transition)
    return "\n".join(_plain(line.rstrip()) for line in lines) + "\n"
