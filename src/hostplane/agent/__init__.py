"""The agent: the one part of Hostplane that touches a host's disk.

It stages an image into the passive slot, switches, watches over the trial boot and commits or goes back; it applies
settings; it answers on a unix socket and keeps nothing in memory that it could not read again after being killed.
It runs on Python 3.6 to 3.14 with the standard library, and vendored pure-Python libraries for the settings files that
need them. It never asks the network for anything but the payload it was told to fetch.
"""
