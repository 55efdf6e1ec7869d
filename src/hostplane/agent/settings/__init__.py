"""Settings of the host: six models, each a file format and its rules, and one way of applying them all or none."""

from .apply import apply, request_digest

__all__ = ["apply", "request_digest"]
