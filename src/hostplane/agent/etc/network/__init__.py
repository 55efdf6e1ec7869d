"""Network settings from one distribution's tools to another's, so that an upgrade across distributions can be reached.

    read what the host changed -> one small model -> write what the new image has a program for

Nothing here runs within one distribution, nor where the new image reads the old form itself. Refused: to guess. What
is not understood stops the upgrade before anything is switched, unless the host's administrator says otherwise.
Programs, files and forms are data (tools.py).
"""

from .carry import Carried, carry, hardware

__all__ = ["Carried", "carry", "hardware"]
