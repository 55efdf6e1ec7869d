"""`hostplane-agent etc diff|merge|owners`: what a person or a unit asks of /etc; prints, and changes only by `owners`.

A merge for good belongs to the switch alone: it would take the place of the tree that the other slot, the way back,
still needs.
"""

import argparse
import difflib
import json
import sys
from typing import Any, Dict, List, Optional

from hostplane.agent.bootstate import other
from hostplane.agent.hostroot import HostRoot
from hostplane.errors import HostError

__all__ = ["add_parser", "run"]


def add_parser(commands: Any) -> None:
    """Put the subcommand `etc` into argparse's `commands`."""
    etc = commands.add_parser("etc", help="what the host changed below /etc, and what an upgrade would make of it")
    verbs = etc.add_subparsers(dest="verb", metavar="diff|merge")
    diff = verbs.add_parser("diff", help="list what differs from the running image: Added, Deleted, Modified")
    diff.add_argument("path", metavar="PATH", nargs="?", default="", help="what differs in this file, line by line")
    merge = verbs.add_parser("merge", help="show what the switch to the staged image would do")
    merge.add_argument("--dry-run", action="store_true", help="needed: only the switch itself merges")
    owners = verbs.add_parser("owners")  # the unit hostplane-owners.service, at each boot that needs it
    for verb in (diff, merge, owners):
        verb.add_argument("--root", default="/", metavar="DIR", help=argparse.SUPPRESS)
        verb.add_argument("--json", action="store_true", help="as JSON, for programs")
    etc.set_defaults(verb="", run=run)


def run(options: argparse.Namespace) -> int:
    """Do it; gives the exit status. Raises HostError."""
    from hostplane.agent import etc
    from hostplane.agent.etc.owners import settle

    if not options.verb:
        raise HostError("EtcVerbMissing")
    host = HostRoot(options.root)
    active = host.active_slot()
    if options.verb == "diff" and options.path:
        _say(options.json, _lines(options.path, *etc.contents(host, active, options.path)), lambda said: said["lines"])
    elif options.verb == "diff":
        _say(options.json, {"changes": [list(each) for each in etc.differences(host, active)]}, _diff_text)
    elif options.verb == "merge":
        if not options.dry_run:
            raise HostError("EtcVerbMissing")
        _say(options.json, _wire(etc.preview(host, active, other(active))), _merge_text)
    else:
        host.refuse_if_vetoed()
        _say(options.json, {"files": settle(host, active)}, lambda said: ["%d files have new owners" % said["files"]])
    return 0


def _wire(report: Any) -> Dict[str, Any]:
    return {
        "merged": report.merged,
        "kept": report.kept,
        "followed": report.followed,
        "conflicts": [{"path": path, "kind": kind, "action": action} for path, kind, action in report.conflicts],
        "moved": [moved._asdict() for moved in report.moved],
    }


def _lines(path: str, image: Optional[bytes], live: Optional[bytes]) -> Dict[str, Any]:
    texts = [b"" if side is None else side for side in (image, live)]
    both = [text.decode("utf-8", "backslashreplace").split("\n") for text in texts]
    return {"lines": list(difflib.unified_diff(both[0], both[1], "image " + path, "host " + path, lineterm=""))}


def _say(as_json: bool, said: Dict[str, Any], text: Any) -> None:
    words = json.dumps(said, indent=2) if as_json else "\n".join(text(said))
    sys.stdout.buffer.write((words + "\n").encode("utf-8", "backslashreplace"))  # whatever the console's locale is
    sys.stdout.flush()


def _diff_text(said: Dict[str, Any]) -> List[str]:
    return ["%s /etc/%s" % (how, path) for how, path in said["changes"]] or ["/etc is as the image has it"]


def _merge_text(said: Dict[str, Any]) -> List[str]:
    lines = ["%(followed)d follow the image, %(kept)d stay the host's, %(merged)d are merged" % said]
    for each in said["conflicts"]:
        lines.append("/etc/%(path)s (%(kind)s): %(action)s" % each)
    for each in said["moved"]:
        lines.append("%(kind)s of %(name)s: %(old)d becomes %(new)d" % each)
    return lines
