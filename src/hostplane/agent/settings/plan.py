"""What a request means on one host: the paths, parameters and services that it changes, as one value."""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .entry import Entry

__all__ = ["Change", "Parameter", "Plan"]

_LINE, _LINES = 300, 50  # letters, lines


class Change(NamedTuple):
    """One path: what is there and what will be. `keys` are the settings it is for."""

    path: str
    was: Optional[Entry]
    after: Optional[Entry]
    tells: Tuple[str, ...] = ()
    models: Tuple[str, ...] = ()
    keys: Tuple[str, ...] = ()


class Parameter(NamedTuple):
    """One kernel parameter, a path below /proc/sys."""

    path: str
    was: str
    after: str
    keys: Tuple[str, ...] = ()


class Plan(NamedTuple):
    """All that a request means on this host now; empty lists where it holds already."""

    changes: List[Change]
    parameters: List[Parameter]
    tells: List[str]
    units: List[str]  # whose health is asked afterwards
    programs: List[str]  # that must end well afterwards
    check_seconds: float
    needs_reboot: bool
    warnings: List[str]
    held: Dict[str, Optional[Entry]]  # what was looked at and stays as it is
    held_values: Dict[str, str]

    @property
    def is_empty(self) -> bool:
        """Whether everything holds already."""
        return not self.changes and not self.parameters

    def lines(self, with_parameters: bool = True) -> List[str]:
        """What would change, a line for each file and parameter: its path and the keys, never a value."""
        found = ["%s: %s" % (change.path, ", ".join(change.keys) or "changed") for change in self.changes]
        if with_parameters:
            found += ["/proc/sys/%s: %s" % (one.path, ", ".join(one.keys)) for one in self.parameters]
        return [line[:_LINE] for line in found]

    def outline(self) -> Dict[str, Any]:
        """The plan for somebody far away: names only, as docs/reference/agent-rpc.md has it."""
        lines = self.lines()
        return {
            "changes": lines[:_LINES],
            "more": max(0, len(lines) - _LINES),
            "services": [word[:_LINE] for word in self.tells[:_LINES]],
            "rebootNeeded": self.needs_reboot,
        }
