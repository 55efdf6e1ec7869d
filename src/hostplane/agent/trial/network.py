"""What this host reaches: its gateway, its name servers, the registry it stages from, the API server.

Each question is asked before the reboot and again on trial. An answer is an empty string, or the words for what is not
reached. Nothing is sent but what an idle host sends anyway: a datagram to the gateway, a question for the root zone,
the first packets of a TCP connection.
"""

import os
import re
import select
import socket
import struct
import time
from typing import Dict, List, Tuple
from urllib.parse import urlsplit

from ..hostroot import HostRoot
from . import neighbours

__all__ = ["api_server", "dns", "gateway", "name_servers", "registry_of", "tcp"]

_SECONDS = 3.0
_DNS_PORT = 53
_SERVFAIL = 2
_STUB = "127.0.0.53"
_KUBECONFIGS = ("etc/kubernetes/kubelet.conf", "var/lib/kubelet/kubeconfig", "etc/kubernetes/kubelet/kubeconfig")
_SERVER = re.compile(r"^\s*server:\s*[\"']?(https?://[^\s\"']+)", re.MULTILINE)


def _text(host: HostRoot, relative: str) -> str:
    try:
        with open(host.path(relative), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def gateway(host: HostRoot) -> str:
    """Whether a default gateway answers on its link."""
    found = neighbours.default_gateways(_text(host, "proc/net/route"), _text(host, "proc/net/ipv6_route"))
    if not found:
        return "there is no default route"
    for hop in found:
        if neighbours.is_answering(hop, _SECONDS, neighbours.neighbours, neighbours.poke):
            return ""
    return "no answer from %s" % ", ".join("%s (%s)" % hop for hop in found)


def name_servers(host: HostRoot) -> List[str]:
    """The host's name servers; those behind systemd-resolved's stub, which answers without any of them."""
    found = re.findall(r"^\s*nameserver\s+(\S+)", _text(host, "etc/resolv.conf"), re.MULTILINE)
    if found == [_STUB]:
        behind = _text(host, "run/systemd/resolve/resolv.conf")
        found = re.findall(r"^\s*nameserver\s+(\S+)", behind, re.MULTILINE) or found
    return found


def dns(host: HostRoot, port: int = _DNS_PORT, seconds: float = _SECONDS) -> str:
    """Whether a name server answers the question for the root's servers; any answer but a failure of its own counts."""
    servers = name_servers(host)
    if not servers:
        return "no name server is configured"
    socks: Dict[socket.socket, bytes] = {}
    try:
        for server in servers:
            ident = os.urandom(2)
            question = ident + struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + b"\0" + struct.pack(">HH", 2, 1)
            try:
                kind, _, _, _, address = socket.getaddrinfo(
                    server, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
                )[0]
                sock = socket.socket(kind, socket.SOCK_DGRAM)
                socks[sock] = ident
                sock.connect(address)
                sock.send(question)
            except OSError:
                continue
        if _is_answered(socks, time.monotonic() + seconds):
            return ""
    finally:
        for sock in socks:
            sock.close()
    return "no answer from %s" % ", ".join(servers)


def _is_answered(socks: Dict[socket.socket, bytes], deadline: float) -> bool:
    waiting = dict(socks)
    while waiting and time.monotonic() < deadline:
        ready, _, _ = select.select(list(waiting), [], [], max(0.0, deadline - time.monotonic()))
        for sock in ready:
            try:
                answer = sock.recv(4096)
            except OSError:  # its port is closed
                waiting.pop(sock)
                continue
            if len(answer) >= 12 and answer[:2] == waiting[sock] and answer[2] & 0x80:
                if answer[3] & 0x0F != _SERVFAIL:
                    return True
                waiting.pop(sock)
    return False


def tcp(address: Tuple[str, int], seconds: float = _SECONDS) -> str:
    """Whether somebody listens at `address`; an empty host name asks nobody and is no failure."""
    if not address[0]:
        return ""
    try:
        socket.create_connection(address, seconds).close()
        return ""
    except OSError as fault:
        return "%s:%d: %s" % (address[0], address[1], fault.strerror or fault)


def _address(url: str) -> Tuple[str, int]:
    try:
        split = urlsplit(url)
        return split.hostname or "", split.port or (80 if split.scheme == "http" else 443)
    except ValueError:
        return "", 0


def registry_of(ref: str) -> Tuple[str, int]:
    """Where an image comes from; an empty name for a file, or for none."""
    if "://" not in ref:
        ref = "oci://" + ref
    return ("", 0) if ref.startswith("file:") or ref == "oci://" else _address(ref)


def api_server(host: HostRoot) -> Tuple[str, int]:
    """The API server that the kubelet talks to; an empty name where there is no kubelet."""
    for name in _KUBECONFIGS:
        found = _SERVER.search(_text(host, name))
        if found:
            return _address(found.group(1))
    return "", 0
