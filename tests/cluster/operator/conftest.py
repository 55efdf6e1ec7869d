"""Fixtures of the operator's tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hostplane.local.controlplane import ControlPlane
from tests.cluster.conftest import empty


@pytest.fixture
def empty_cluster(control_plane: ControlPlane) -> Callable[[], None]:
    """Call it to empty the control plane between two runs of one test."""
    return lambda: empty(control_plane)
