"""/etc over an upgrade: what the image changed and what the host changed, brought together for the new slot.

Each slot has a whole tree of its own on PERSIST, and the image's own /etc below it is what the tree once was. So three
trees are there to compare: the running image's, the live one and the new image's. `prepare` merges them into the new
slot's tree right before the reboot; nothing else is written, so going back restores the old slot's /etc exactly.
Identity (keys, machine-id, credentials) belongs to the host and is never merged: the initramfs hands it to whichever
slot starts. Refused: to guess. What cannot be merged by its kind stays the host's, or stops the switch, as the policy
says. docs/reference/etc.md has every outcome.
"""

from .driver import KEEP, STOP, EtcReport, contents, differences, prepare, preview

__all__ = ["KEEP", "STOP", "EtcReport", "contents", "differences", "prepare", "preview"]
