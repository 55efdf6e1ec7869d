"""Whether a node's own services answer: the container runtime on its socket, the kubelet on its health port.

Asked in their own protocols and no further than a greeting: an HTTP/2 preface for containerd and CRI-O, `/_ping` for
Docker, `/healthz` for the kubelet. A service that nobody wants on this host is not asked.
"""

import re
import socket
from typing import NamedTuple, Tuple

from ..hostroot import HostRoot
from . import systemd

__all__ = ["RUNTIMES", "Runtime", "answers", "health_address", "kubelet", "runtime"]

_SECONDS = 5.0
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # the preface and empty SETTINGS
_PING = b"GET /_ping HTTP/1.0\r\nHost: localhost\r\n\r\n"
_HEALTH = "GET /healthz HTTP/1.0\r\nHost: %s\r\n\r\n"


class Runtime(NamedTuple):
    """A container runtime: its unit, its socket, and what is said to it."""

    unit: str
    socket: str
    greeting: bytes


RUNTIMES = (
    Runtime("containerd.service", "run/containerd/containerd.sock", _HTTP2),
    Runtime("crio.service", "run/crio/crio.sock", _HTTP2),
    Runtime("docker.service", "run/docker.sock", _PING),
)


def answers(sock: socket.socket, greeting: bytes) -> bool:
    """Whether the other side answers a greeting as its protocol does: SETTINGS, or status 200."""
    sock.sendall(greeting)
    said, enough = b"", 9 if greeting == _HTTP2 else len("HTTP/1.1 200")
    while len(said) < enough:
        piece = sock.recv(4096)
        if not piece:
            return False
        said += piece
    return said[3] == 4 if greeting == _HTTP2 else re.match(rb"HTTP/1\.\d 200", said) is not None


def _unix(path: str, greeting: bytes) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_SECONDS)
        try:
            sock.connect(path)
            return "" if answers(sock, greeting) else "it answers nonsense"
        except OSError as fault:
            return fault.strerror or str(fault)


def runtime(host: HostRoot) -> str:
    """Whether every container runtime that this host wants answers."""
    for one in RUNTIMES:
        if systemd.is_wanted(one.unit):
            words = _unix(host.path(one.socket), one.greeting)
            if words:
                return "%s: /%s: %s" % (one.unit, one.socket, words)
    return ""


def health_address(config: str) -> Tuple[str, int]:
    """Where a kubelet with this configuration (YAML) tells its health; port 0: nowhere."""
    port = re.search(r"^healthzPort:\s*[\"']?(\d+)", config, re.MULTILINE)
    bind = re.search(r"^healthzBindAddress:\s*[\"']?([0-9a-fA-F.:]+)", config, re.MULTILINE)
    address = bind.group(1) if bind else "127.0.0.1"
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address), int(port.group(1)) if port else 10248


def kubelet(host: HostRoot) -> str:
    """Whether the kubelet, where this host wants one, says that it is healthy."""
    if not systemd.is_wanted("kubelet.service"):
        return ""
    try:
        with open(host.path("var/lib/kubelet/config.yaml"), encoding="utf-8", errors="replace") as file:
            address = health_address(file.read())
    except OSError:
        address = health_address("")
    if not address[1]:
        return ""
    try:
        with socket.create_connection(address, _SECONDS) as sock:
            sock.settimeout(_SECONDS)
            is_healthy = answers(sock, (_HEALTH % address[0]).encode("ascii"))
            return "" if is_healthy else "%s:%d/healthz is not ok" % address
    except OSError as fault:
        return "%s:%d/healthz: %s" % (address + (fault.strerror or str(fault),))
