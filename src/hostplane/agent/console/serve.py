"""`hostplane-agent serve`: the agent itself, on the sockets it inherits or makes, until it is told to end."""

import argparse
import os
import signal
import socket
from typing import List

from hostplane.agent.lock import lock
from hostplane.errors import HostError

__all__ = ["IDLE_SECONDS", "run"]

IDLE_SECONDS = 10.0  # with nothing to do, when started by socket activation


def _open(path: str, mode: int, directory_mode: int) -> socket.socket:
    from hostplane.rpc import endpoint

    try:
        return endpoint.listen(path, mode, directory_mode)
    except OSError as fault:
        raise HostError("SocketUnusable", path=path, detail=fault.strerror or str(fault)) from fault


def run(options: argparse.Namespace) -> int:
    """Answer until told to end, or idle for long enough. Raises HostError."""
    from hostplane.agent.host import Host
    from hostplane.agent.kubeos import KubeosSocket
    from hostplane.agent.server import Server, inherited_sockets

    held = lock(options.root)
    host = Host(options.root)
    inherited = inherited_sockets()
    idle = options.idle_seconds
    if idle is None:
        idle = IDLE_SECONDS if inherited else 0.0
    server = Server(host, idle)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    kubeos = KubeosSocket(host)
    ours: List[str] = []
    try:
        if inherited:
            for name, sock in inherited:
                server.listen(sock, kubeos.serve if name == "kubeos" else server.serve_native)
        else:
            path = options.socket or os.path.join(options.root, "run/hostplane/agent.sock")
            server.listen(_open(path, 0o660, 0o755), server.serve_native)
            ours.append(path)
            if options.kubeos_socket:
                server.listen(_open(options.kubeos_socket, 0o640, 0o750), kubeos.serve)
                ours.append(options.kubeos_socket)
        host.start(server.stop)
        server.run()
    finally:
        host.close()
        for path in ours:
            try:
                os.unlink(path)
            except OSError:
                pass
        os.close(held)
    return 0
