"""For all tests: a machine that is slow at one example is no fault of the example."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("at any speed", deadline=None)
settings.load_profile("at any speed")
