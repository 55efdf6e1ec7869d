"""Settings of the host: six models, one file of this package per format, and one way of applying a whole request.

A model's file is pure: text and wished settings in, text out. It raises for what must stop the request and warns for
what is left as it is, as KubeOS does. The vendored YAML and TOML libraries are imported only when a setting needs
them.
"""

from .apply import apply, request_digest

__all__ = ["apply", "request_digest"]
