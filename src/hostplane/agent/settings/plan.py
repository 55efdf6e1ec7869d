"""What a request means on one host: the paths, parameters and services that it changes, as one value."""

from typing import Dict, List, NamedTuple, Optional, Tuple

from .entry import Entry

__all__ = ["Change", "Parameter", "Plan"]


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
