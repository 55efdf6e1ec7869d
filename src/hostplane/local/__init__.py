"""A Kubernetes control plane and simulated hosts on this one machine, for the demo, the tests and first steps.

Everything here runs as the invoking user, listens on loopback or in a directory only that user can enter, and is
ended by `hostplane local down`. Nothing here is for production clusters; nothing in production imports it.
"""
