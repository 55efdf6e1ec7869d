"""The packages, installed by the recipe's backend, with nothing started and no initramfs made.

Maintainer scripts ask `policy-rc.d` before they start a service, so it says no while this stage runs; the hooks that
make an initramfs are told not to by the worker's environment. What belongs to the building machine and is copied by
tools that make roots (its name, its name servers) does not stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hostplane.distros.profile import Profile
from hostplane.image.backends import backend_for, backend_module
from hostplane.image.building.code import code_version
from hostplane.image.recipe import Recipe, StageName
from hostplane.image.root.rootpath import within
from hostplane.image.stage import Inputs, Work

__all__ = ["NAME", "inputs", "run"]

NAME = StageName.PACKAGES
_POLICY = b"#!/bin/sh\n# Nothing is started while an image is made.\nexit 101\n"


def inputs(recipe: Recipe, profile: Profile) -> Inputs:
    """The backend's, and its program."""
    backend = backend_for(recipe, profile)
    return {**backend.inputs_packages(recipe, profile), "program": code_version(backend_module(recipe, profile))}


def run(work: Work) -> None:
    """Install them."""
    with _nothing_starts(work.root):
        backend_for(work.recipe, work.profile).packages(work)
    within(work.root, "/etc/hostname", follow=False).unlink(missing_ok=True)
    resolver = within(work.root, "/etc/resolv.conf", follow=False)
    if resolver.is_file() and not resolver.is_symlink():
        resolver.write_bytes(b"")


@contextmanager
def _nothing_starts(root: Path) -> Iterator[None]:
    directory = within(root, "/usr/sbin")
    if not directory.is_dir():
        yield
        return
    policy = directory / "policy-rc.d"
    before = policy.read_bytes() if policy.is_file() else None
    policy.write_bytes(_POLICY)
    policy.chmod(0o755)
    yield
    if before is None:
        policy.unlink(missing_ok=True)
    else:
        policy.write_bytes(before)
