"""`hostplane-agent settings`: what settings would change here, whether they still hold, and taking them back.

`diff` and `drift` read only. What is to be written is asked of the agent over its socket, so that there is one writer.
`drift` is what hostplane-drift.service runs: it looks by itself and wakes the agent only where there is news.
"""

import argparse
import difflib
import json
import sys
from typing import Any, Dict, List, Optional

from hostplane.agent.hostroot import HostRoot
from hostplane.agent.settings import carry
from hostplane.agent.settings.document import read_request
from hostplane.agent.settings.entry import Entry
from hostplane.agent.settings.journal import Journal
from hostplane.agent.settings.plan import Plan
from hostplane.errors import HostError

__all__ = ["add_parser", "show"]

_SECONDS = 360.0  # taking settings back may restart and check services
_LIMIT = 256 << 10


def add_parser(verbs: Any) -> None:
    """Add the verb to the command line."""
    words = "show what settings would change, whether they hold, or take them back"
    made = verbs.add_parser("settings", help=words, description=words)
    actions = made.add_subparsers(dest="action", metavar="ACTION")
    made.set_defaults(run=lambda options: _usage(made))
    diff = actions.add_parser("diff", help="show what a settings document would change here; changes nothing")
    diff.add_argument(
        "file", metavar="FILE", help="a NodeGroup, Rollout, Host or bare settings; YAML or JSON; -: stdin"
    )
    diff.add_argument("--json", action="store_true", help="as JSON, for programs")
    drift = actions.add_parser("drift", help="look whether the settings in force still hold, and report it")
    undo = actions.add_parser("undo", help="take back everything that settings changed")
    for parser, run in ((diff, _diff), (drift, _drift), (undo, _undo)):
        parser.add_argument("--root", default="/", metavar="DIR", help="the host's file-system root (default /)")
        parser.set_defaults(run=run)
        if parser is not diff:
            parser.add_argument("--socket", metavar="PATH", help="default DIR/run/hostplane/agent.sock")


def _usage(parser: argparse.ArgumentParser) -> int:
    parser.print_usage(sys.stderr)
    return 2


def _ask(options: argparse.Namespace, action: str) -> Dict[str, Any]:
    from hostplane.rpc.client import AgentClient

    path = options.socket or HostRoot(options.root).path("run/hostplane/agent.sock")
    with AgentClient(path, timeout=_SECONDS, name="hostplane-agent") as agent:
        return agent.call("settings", action=action)


# --- diff


def _diff(options: argparse.Namespace) -> int:
    if options.file == "-":
        raw = sys.stdin.buffer.read(_LIMIT)
    else:
        try:
            with open(options.file, "rb") as file:
                raw = file.read(_LIMIT)
        except OSError as fault:
            raise HostError("SettingsDocumentInvalid", detail=fault.strerror or str(fault)) from None
    host = HostRoot(options.root)
    plan = carry.make_plan(host, host.active_slot(), read_request(raw), Journal(host).record())
    said = json.dumps(_as_json(plan), indent=2) + "\n" if options.json else show(plan)
    sys.stdout.buffer.write(said.encode("utf-8", "replace"))
    return 0


def _lines(entry: Optional[Entry]) -> List[str]:
    if entry is None:
        return []
    if entry.is_link:
        return ["-> %s\n" % entry.data.decode("utf-8", "replace")]
    lines = entry.data.decode("utf-8", "replace").splitlines(True)
    return [line if line.endswith("\n") else line + "\n" for line in lines]


def show(plan: Plan) -> str:
    """The plan for a person: a unified difference of each file, then what follows."""
    out = []
    for change in plan.changes:
        names = (change.path if change.was else "/dev/null", change.path if change.after else "/dev/null")
        lines = list(difflib.unified_diff(_lines(change.was), _lines(change.after), *names))
        out += lines or ["%s: mode or owner\n" % change.path]
    for one in plan.parameters:
        out.append("/proc/sys/%s: %s -> %s\n" % (one.path, one.was or "?", one.after))
    out += ["warning: %s\n" % words for words in plan.warnings]
    if plan.is_empty:
        return "".join(out) + "Nothing would change.\n"
    out.append("Services: %s\n" % (", ".join(plan.tells) or "none"))
    checked = plan.units + plan.programs
    out.append("Checked afterwards, within %g s: %s\n" % (plan.check_seconds, ", ".join(checked) or "nothing"))
    out.append("A reboot is needed: %s\n" % ("yes" if plan.needs_reboot else "no"))
    return "".join(out)


def _as_json(plan: Plan) -> Dict[str, Any]:
    return {
        "files": [
            {"path": one.path, "before": "".join(_lines(one.was)), "after": "".join(_lines(one.after))}
            for one in plan.changes
        ],
        "parameters": [{"path": one.path, "before": one.was, "after": one.after} for one in plan.parameters],
        "services": plan.tells,
        "checks": plan.units + plan.programs,
        "rebootNeeded": plan.needs_reboot,
        "warnings": plan.warnings,
    }


# --- drift, undo


def _drift(options: argparse.Namespace) -> int:
    host = HostRoot(options.root)
    journal = Journal(host)
    record = journal.record()
    found = carry.drift(host, host.active_slot(), record)
    reported, must_act = _reported(host), record is not None and record.enforce and bool(found)
    if journal.pending() is not None or must_act or found[: carry.REPORTED] != reported:
        settings = _ask(options, "look").get("settings", {})
        found = settings.get("drift", [])
    sys.stdout.write("".join(line + "\n" for line in found) or "All settings hold.\n")
    return 0


def _reported(host: HostRoot) -> List[str]:
    """What the agent has on record, without waking it."""
    try:
        with open(host.path("var/lib/hostplane/state.json"), encoding="ascii") as file:
            return [line for line in str(json.load(file).get("settingsDrift") or "").split("\n") if line]
    except (OSError, ValueError, AttributeError):
        return []


def _undo(options: argparse.Namespace) -> int:
    _ask(options, "undo")
    sys.stdout.write("Everything is as it was before any settings.\n")
    return 0
