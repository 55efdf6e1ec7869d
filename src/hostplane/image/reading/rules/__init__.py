"""What a type cannot say about a recipe: one function a rule, each named by what it holds to be true.

A rule looks at one question, answers with every fault it finds and stays silent where the answer cannot be known. It
changes nothing; it may look whether a file of the building machine exists, and what the file begins with.
"""

from __future__ import annotations

from hostplane.image.reading.rules import accounts, boot, content, disk, node, outputs, packages
from hostplane.image.reading.rules.case import Case, Fault, Rule

__all__ = ["RULES", "Case", "Fault", "Rule"]

RULES: tuple[Rule, ...] = (
    *packages.RULES,
    *disk.RULES,
    *boot.RULES,
    *accounts.RULES,
    *content.RULES,
    *node.RULES,
    *outputs.RULES,
)
