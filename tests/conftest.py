"""For all tests: what the machine or the shell that starts them brings along is no fault of the product."""

from __future__ import annotations

import signal

from hypothesis import settings

settings.register_profile("at any speed", deadline=None)
settings.load_profile("at any speed")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script; programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
