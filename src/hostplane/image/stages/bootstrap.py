"""The smallest root that can install packages, made by the recipe's backend."""

from __future__ import annotations

from hostplane.distros.profile import Profile
from hostplane.image.backends import backend_for, backend_module
from hostplane.image.building.code import code_version
from hostplane.image.recipe import Recipe, StageName
from hostplane.image.stage import Inputs, Work

__all__ = ["NAME", "inputs", "run"]

NAME = StageName.BOOTSTRAP


def inputs(recipe: Recipe, profile: Profile) -> Inputs:
    """The backend's, and its program."""
    backend = backend_for(recipe, profile)
    return {**backend.inputs_bootstrap(recipe, profile), "program": code_version(backend_module(recipe, profile))}


def run(work: Work) -> None:
    """Fill the root."""
    backend_for(work.recipe, work.profile).bootstrap(work)
