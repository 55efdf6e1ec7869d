"""Fixtures of the operator's tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from hostplane.local.controlplane import ControlPlane
from tests.cluster.operator.cleaning import wipe


@pytest.fixture
def empty_cluster(control_plane: ControlPlane) -> Callable[[], None]:
    """Call it to empty the control plane between two runs of one test."""
    return lambda: asyncio.run(wipe(control_plane.kubeconfig))


@pytest.fixture
def swept_cluster(clean_cluster: ControlPlane, empty_cluster: Callable[[], None]) -> Iterator[ControlPlane]:
    """The same, emptied afterwards too: other tests' ways of doing so may not read what was stored here."""
    yield clean_cluster
    empty_cluster()


@pytest.fixture
def clean_cluster(control_plane: ControlPlane, empty_cluster: Callable[[], None]) -> ControlPlane:
    """The session's control plane without any object of ours or KubeOS's, nodes, pods, budgets, leases or events."""
    empty_cluster()
    return control_plane
