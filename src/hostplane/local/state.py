"""What `D/state.json` remembers of a local cluster, so that `local down` ends exactly what `local up` started.

Written whole and atomically before anything depends on it; a file with an unknown major schema version is refused.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from hostplane.errors import LocalError
from hostplane.local.processes import Process

__all__ = ["State", "forget", "load", "prepare_directory", "remember", "save"]

_FILE = "state.json"
_SCHEMA = "1.0"


class State(msgspec.Struct, frozen=True, kw_only=True):
    """One local cluster. `processes` are in the order they were started; `down` ends them in reverse."""

    schema: str = _SCHEMA
    url: str = ""
    controller_manager: bool = False
    hosts: int = 0
    processes: list[Process] = []


def prepare_directory(directory: Path) -> None:
    """Makes `directory` (0700), or accepts one that is empty or a local cluster's; refuses anybody else's."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (directory / _FILE).exists():
        if any(directory.iterdir()):
            raise LocalError("DirectoryNotOurs", directory=directory)
        directory.chmod(0o700)
        save(directory, State())


def load(directory: Path) -> State:
    """The state of the cluster in `directory`.

    Raises:
        LocalError: there is none, or it was written by a newer, incompatible version.
    """
    try:
        raw = (directory / _FILE).read_bytes()
    except FileNotFoundError as error:
        raise LocalError("NoLocalCluster", directory=directory) from error
    try:
        state = msgspec.json.decode(raw, type=State)
    except msgspec.DecodeError as error:
        raise LocalError("LocalStateUnreadable", directory=directory, error=error) from error
    if state.schema.split(".")[0] != _SCHEMA.split(".")[0]:
        raise LocalError("LocalStateUnreadable", directory=directory, error=f"schema {state.schema}")
    return state


def save(directory: Path, state: State) -> None:
    """Replaces the state file, old or new and never neither."""
    temporary = directory / f".{_FILE}.{os.getpid()}"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2))
    os.replace(temporary, directory / _FILE)


def remember(directory: Path, process: Process) -> None:
    """Adds a process, in place of an earlier one of the same name."""
    state = load(directory)
    others = [known for known in state.processes if known.name != process.name]
    save(directory, msgspec.structs.replace(state, processes=[*others, process]))


def forget(directory: Path, names: set[str]) -> None:
    """Removes processes that have been ended."""
    state = load(directory)
    save(directory, msgspec.structs.replace(state, processes=[p for p in state.processes if p.name not in names]))
