"""What reading and checking a recipe found: each finding with its place, all of them in one error."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from hostplane.errors import Reason, RecipeError
from hostplane.image.reading.layers import Place

__all__ = ["Finding", "RecipeRefusedError"]


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that is wrong, or (a warning) one that a person should know."""

    place: Place
    key: str
    """The key as it is written in the recipe; empty for the recipe as a whole."""
    reason: Reason
    is_warning: bool = False

    def __str__(self) -> str:
        warning = "warning: " if self.is_warning else ""
        return f"{self.place}: {warning}{self.reason.text} {self.reason.remedy} ({self.reason.code})"


class RecipeRefusedError(RecipeError):
    """A recipe with errors. `findings` holds the warnings too, sorted by file and line; str() lists the errors."""

    def __init__(self, file: object, findings: Iterable[Finding]) -> None:
        self.findings = tuple(sorted(findings, key=lambda finding: (finding.place, finding.key)))
        self.errors = tuple(finding for finding in self.findings if not finding.is_warning)
        super().__init__("RecipeRefused", file=file, count=len(self.errors))

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))
