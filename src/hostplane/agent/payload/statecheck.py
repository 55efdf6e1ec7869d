"""State in /var outlives a slot: may what ran before still read what a newer container runtime or kubelet has written?

/var is shared by both slots. Whoever is in charge stamps it with its state versions before the runtime starts; the slot
that comes after compares. An upgrade is refused while it is still a plan, when the running image could not live with
what the new one leaves behind: then the way back would be a lie. State that an image declares resettable (images and
containers can be fetched and started again; the node was drained) is reset instead.

The rules are data of the image (/usr/lib/hostplane/state.json), since it is the image that reads what it finds.
"""

import logging
import re
from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple

from hostplane.agent.bundle.strict import Fields, parse_object
from hostplane.agent.hostroot import HostRoot
from hostplane.agent.payload import kept
from hostplane.errors import HostError

__all__ = ["RULES_FILE", "STAMP", "Clash", "Rule", "clashes", "read_rules", "read_stamp", "write_stamp"]

RULES_FILE = "usr/lib/hostplane/state.json"
STAMP = "state-versions.json"
_log = logging.getLogger("hostplane.agent")
_NUMBERS = re.compile(r"[0-9]+")


class Rule(NamedTuple):
    """What a program's version can read. `minors`: how many minor versions newer a state's writer may be within the
    same major; None: any. `reset`: absolute paths (globs) whose removal makes any state readable; empty: none does."""

    minors: Optional[int] = None
    reset: Tuple[str, ...] = ()


class Clash(NamedTuple):
    """State of `component` that `writer` wrote and `reader` cannot read; removing `reset` helps, unless it is empty."""

    component: str
    writer: str
    reader: str
    reset: Tuple[str, ...]


def read_rules(host: HostRoot) -> Dict[str, Rule]:
    """The running image's rules, by component.

    Raises:
        HostError: BundleInvalid... naming the file, KeptUnreadable.
    """
    raw = kept.read_file(host.path(RULES_FILE))
    return {} if raw is None else _rules(parse_object("/" + RULES_FILE, raw).object("rules"))


def _rules(fields: Fields) -> Dict[str, Rule]:
    found = {}
    for name in fields.values:
        one = fields.object(name)
        minors = None if one.values.get("minors") is None else one.number("minors", 0, 1000)
        found[name] = Rule(minors, one.texts("reset", 32))
    return found


def clashes(written: Mapping[str, str], readers: Mapping[str, str], rules: Mapping[str, Rule]) -> List[Clash]:
    """What `readers` (component -> version) cannot read of the state that was `written` (component -> version).

    A component that only one of the two has is no clash: nobody reads what it left. Without a rule, state may cross
    minor versions and no major one.
    """
    found = []
    for component in sorted(readers):
        writer, reader = written.get(component), readers[component]
        rule = rules.get(component, Rule())
        if writer is not None and not _is_readable(writer, reader, rule):
            found.append(Clash(component, writer, reader, rule.reset))
    return found


def _is_readable(writer: str, reader: str, rule: Rule) -> bool:
    wrote, reads = _head(writer), _head(reader)
    if wrote <= reads:
        return True  # older state: what every upgrade meets, and the program's own business
    return wrote[0] == reads[0] and (rule.minors is None or wrote[1] - reads[1] <= rule.minors)


def _head(version: str) -> Tuple[int, int]:
    """(major, minor) of a version as a distribution writes it, without its epoch."""
    numbers = [int(number) for number in _NUMBERS.findall(version.split(":")[-1])[:2]] + [0, 0]
    return numbers[0], numbers[1]


def read_stamp(host: HostRoot) -> Dict[str, str]:
    """Who wrote /var last (component -> version); empty where nobody said, or where it cannot be read.

    A damaged note is no reason to keep a node from starting.
    """
    try:
        fields = kept.read(host, STAMP)
        return {} if fields is None else dict(fields.mapping("versions", 64))
    except HostError as fault:
        _log.warning("nothing is known of who wrote /var last: %s", fault)
        return {}


def write_stamp(host: HostRoot, versions: Mapping[str, str]) -> None:
    """Say that a slot with these state versions is in charge; what others wrote and it has not stays on record.

    Raises:
        HostError: KeptWriteFailed, VetoedByHost.
    """
    before = read_stamp(host)
    after = dict(before, **versions)
    if after != before:
        kept.write(host, STAMP, {"versions": after})
