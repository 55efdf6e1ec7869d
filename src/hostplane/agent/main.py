"""`hostplane-agent`: serve a host, or ask a running agent how it is. The only place that exits."""

import argparse
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import time
from typing import List, Optional

from hostplane import __version__
from hostplane.errors import HostError, HostplaneError

__all__ = ["main"]

_LOCK_SECONDS = 5.0
_DEFAULT_IDLE_SECONDS = 10.0
_STATUS_SECONDS = 60.0  # a slow host has to start the agent first


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hostplane-agent", description="Stages, switches and proves the operating system of one host."
    )
    parser.add_argument("--version", action="version", version="hostplane-agent " + __version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    serve = commands.add_parser("serve", help="answer on the agent's sockets")
    serve.add_argument("--root", default="/", metavar="DIR", help="the host's file-system root (default /)")
    serve.add_argument("--socket", metavar="PATH", help="the agent's socket (default DIR/run/hostplane/agent.sock)")
    serve.add_argument("--kubeos-socket", metavar="PATH", help="also answer KubeOS's four methods here")
    serve.add_argument(
        "--idle-seconds",
        type=float,
        metavar="N",
        help="end after N seconds with nothing to do; 0: never (default: %g when started by socket activation)"
        % _DEFAULT_IDLE_SECONDS,
    )
    status = commands.add_parser("status", help="print the host's report")
    status.add_argument("--socket", default="/run/hostplane/agent.sock", metavar="PATH")
    status.add_argument("--json", action="store_true", help="as JSON, for programs")
    for name, words in (("grow", "let PERSIST fill its disk"), ("banner", "write the line above the login prompt")):
        commands.add_parser(name, help=words).add_argument("--root", default="/", metavar="DIR", help=argparse.SUPPRESS)
    return parser


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command line; gives the exit status: 0, or 1 after one sentence on standard error, or 2 for usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        if options.command == "serve":
            return _serve(options)
        if options.command == "status":
            return _status(options.socket, options.json)
        if options.command == "grow":
            return _grow(options.root)
        if options.command == "banner":
            return _banner(options.root)
    except HostplaneError as fault:
        print("hostplane-agent: %s\n%s" % (fault, fault.remedy), file=sys.stderr)
        return 1
    parser.print_usage(sys.stderr)
    return 2


def _status(path: str, as_json: bool) -> int:
    from hostplane.rpc.client import AgentClient

    from .console import status_text

    with AgentClient(path, timeout=_STATUS_SECONDS) as agent:
        report = agent.call("status")
    sys.stdout.write(json.dumps(report, indent=2) + "\n" if as_json else status_text(report))
    return 0


def _grow(root: str) -> int:
    from .grow import grow
    from .hostroot import HostRoot

    host = HostRoot(root)
    if host.is_vetoed:
        print("/etc/hostplane/never forbids every change")
        return 0
    size = grow(host)
    print("nothing to grow" if size is None else "PERSIST has %d MiB now" % (size >> 20))
    return 0


def _banner(root: str) -> int:
    from . import banner
    from .hostroot import HostRoot

    try:
        line = banner.show(HostRoot(root))
    except OSError as fault:
        raise HostError("BannerNotWritten", detail=str(fault)) from fault
    sys.stdout.buffer.write(line.encode("utf-8") + b"\n")  # whatever the console's locale is
    return 0


def _lock(root: str) -> int:
    """One agent a host: two would both act on one state. A predecessor that is just ending is waited for."""
    directory = os.path.join(root, "var/lib/hostplane")
    os.makedirs(directory, exist_ok=True)
    descriptor = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError:
            if time.monotonic() > deadline:
                raise HostError("AgentAlreadyRunning", root=root) from None
            time.sleep(0.05)


def _open(path: str, mode: int, directory_mode: int) -> socket.socket:
    from hostplane.rpc import endpoint

    try:
        return endpoint.listen(path, mode, directory_mode)
    except OSError as fault:
        raise HostError("SocketUnusable", path=path, detail=fault.strerror or str(fault)) from fault


def _serve(options: argparse.Namespace) -> int:
    from .host import Host
    from .kubeos import KubeosSocket
    from .server import Server, inherited_sockets

    lock = _lock(options.root)
    host = Host(options.root)
    inherited = inherited_sockets()
    idle = options.idle_seconds
    if idle is None:
        idle = _DEFAULT_IDLE_SECONDS if inherited else 0.0
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
        os.close(lock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
