"""Settings of the host: KubeOS's seven models and typed ones, one file per format, and one way of applying a request.

    wish, request        what is asked for              planner     what it means here: pure but for reading
    sysctl, kubelet...   text and wishes in, text out   journal     before, after, in force: a crash leaves old or new
    typed, files         models of our own              carry       carry out, check, take back
    policy               what needs a signature         keeper      the agent's part: outcome, drift, undo

A model's file is pure. It raises for what must stop the request and, for KubeOS's models, warns for what is left as it
is, as KubeOS does. The vendored YAML and TOML libraries are imported only when a setting needs them.
"""

from .carry import apply, drift, make_plan
from .request import Request, request_digest

__all__ = ["Request", "apply", "drift", "make_plan", "request_digest"]
