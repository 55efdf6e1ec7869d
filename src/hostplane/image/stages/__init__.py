"""The stages of a build, one module each, and their order.

Adding a stage is a module here and a word in `recipe.StageName`; the order of that enum is the order they run in.
"""

from __future__ import annotations

import importlib
from typing import cast

from hostplane.image.recipe import StageName
from hostplane.image.stage import Stage

__all__ = ["STAGES", "stage_for"]

STAGES = tuple(StageName)
"""In the order they run."""


def stage_for(name: StageName) -> Stage:
    """The stage of that name, imported when it is asked for."""
    return cast(Stage, importlib.import_module(f"hostplane.image.stages.{name.value}"))
