"""Hostplane: the operating system of every Kubernetes node as a versioned, declarative part of the cluster."""

__version__ = "0.1.0.dev0"
