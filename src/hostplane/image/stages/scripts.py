"""Nothing of its own: the user's scripts of this stage, run around it by the worker, see the root with all files."""

from __future__ import annotations

from hostplane.distros.profile import Profile
from hostplane.image.recipe import Recipe, StageName
from hostplane.image.stage import Inputs, Work

__all__ = ["NAME", "inputs", "run"]

NAME = StageName.SCRIPTS


def inputs(_recipe: Recipe, _profile: Profile) -> Inputs:
    """None besides the scripts, which count around every stage."""
    return {}


def run(_work: Work) -> None:
    """Do nothing."""
