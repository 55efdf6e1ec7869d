"""What a stage is: a name, the inputs its key is made of, and a step over a tree.

A stage sees one `Work`: the root it changes, a directory for results that are not part of the root, and what earlier
stages left. It runs as root of a mount namespace of its own (and of a user namespace, for an ordinary user), so that
nothing it mounts or starts can outlive it. It never asks what the cache holds and never writes outside its Work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from hostplane.distros.profile import Profile
from hostplane.image.recipe import Recipe, StageName

__all__ = ["Inputs", "Run", "Stage", "Work"]

Inputs = Mapping[str, object]
"""JSON values (and only them) that decide the stage's outcome, besides what the stages before it made. For files:
their digest, mode and owner, never their path on the building machine."""


class Run(Protocol):
    """The one way to call a program."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        chroot: bool = False,
        network: bool = False,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout: float = 1800.0,
        cwd: Path | None = None,
    ) -> bytes:
        """Run `argv` (in the root when `chroot`), log it and its output, and give its standard output.

        Raises:
            ImageError: ToolMissing with the line that installs it; ToolFailed with its last lines and the log's path.
        """


class Work(Struct, frozen=True, kw_only=True):
    """What a running stage is handed."""

    recipe: Recipe
    profile: Profile
    root: Path
    """The image's root, writable, as it shall be when the stage ends."""
    out: Path
    """The stage's own results; kept with its layer, not part of the root."""
    scratch: Path
    """Emptied when the stage ends."""
    cache: Path
    """Shared by all builds: downloaded packages. Whoever writes there does so by rename."""
    epoch: int
    """SOURCE_DATE_EPOCH in seconds."""
    rootless: bool
    """Whether this is a user namespace: no device nodes, no loop devices."""
    earlier: Mapping[StageName, Path]
    """`out` of each stage that ran before."""
    run: Run
    log: Callable[[str], None]
    progress: Callable[[float, str], None]
    """(0.0 to 1.0, what is being done); as often as you like."""


class Stage(Protocol):
    """A module of `stages/` is one: these names at its top level."""

    NAME: StageName

    def inputs(self, recipe: Recipe, profile: Profile) -> Inputs:
        """What this stage alone depends on."""

    def run(self, work: Work) -> None:
        """Do it. Safe to kill at any moment: whatever it left half done is thrown away."""
