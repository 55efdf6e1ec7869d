"""`hostplane-agent`: serve a host, or ask a running agent how it is. The only place that exits."""

import argparse
import os
import signal
import socket
import sys
from typing import Callable, List, Optional

from hostplane import __version__
from hostplane.errors import HostError, HostplaneError

from . import bootnote, commands, etcverb, planverb
from .journal import set_up
from .lock import lock
from .settings import verb as settingsverb

__all__ = ["main"]

_DEFAULT_IDLE_SECONDS = 10.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hostplane-agent", description="Stages, switches and proves the operating system of one host."
    )
    parser.add_argument("--version", action="version", version="hostplane-agent " + __version__)
    verbs = parser.add_subparsers(dest="command", metavar="COMMAND")

    def verb(name: str, words: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=words, description=words)
        made.add_argument("--root", default="/", metavar="DIR", help="the host's file-system root (default /)")
        made.set_defaults(run=run)
        return made

    def asking(name: str, words: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        made = verb(name, words, run)
        made.add_argument("--socket", metavar="PATH", help="the agent's socket (default DIR/run/hostplane/agent.sock)")
        return made

    serve = asking("serve", "answer on the agent's sockets", _serve)
    serve.add_argument("--kubeos-socket", metavar="PATH", help="also answer KubeOS's four methods here")
    serve.add_argument(
        "--idle-seconds",
        type=float,
        metavar="N",
        help="end after N seconds with nothing to do; 0: never (default: %g when started by socket activation)"
        % _DEFAULT_IDLE_SECONDS,
    )
    status = asking("status", "print the host's report", commands.status)
    status.add_argument("--json", action="store_true", help="as JSON, for programs")
    asking("rollback", "go back to the other slot, which must be proven, by a reboot", commands.rollback)
    call = asking(
        "call", "make one call to the agent and print its result (docs/reference/agent-rpc.md)", commands.call
    )
    call.add_argument("method", metavar="METHOD")
    call.add_argument("params", metavar="JSON", nargs="?", default="{}", help="its parameters; - for standard input")
    call.add_argument("--host-uid", metavar="UID", help="the Host to speak for (default: the one this host obeys)")
    verb("trial", "own the trial of this boot until it is committed or given up", commands.trial)
    verb("state", "say that this slot is in charge of /var, before what writes there starts", bootnote.run)
    planverb.add_parser(verb("plan", "say what an upgrade to a bundle would fetch, and change nothing", planverb.run))
    verb("grow", "let PERSIST fill its disk", commands.grow)
    verb("banner", "write the line above the login prompt", commands.banner)
    etcverb.add_parser(verbs)
    settingsverb.add_parser(verbs)
    return parser


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command line; gives the exit status: 0, or 1 after one sentence on standard error, or 2 for usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_usage(sys.stderr)
        return 2
    set_up(options.command in ("serve", "trial") and options.root == "/")
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except HostplaneError as fault:
        print("hostplane-agent: %s\n%s" % (fault, fault.remedy), file=sys.stderr)
        return 1


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

    held = lock(options.root)
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
        os.close(held)
    return 0


if __name__ == "__main__":
    sys.exit(main())
