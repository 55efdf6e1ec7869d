"""The agent's command line: its verbs and their options. A verb's work is in a file of its own, or in `commands`."""

import argparse
from typing import Callable

from hostplane import __version__
from hostplane.agent import bootnote

from . import commands, etc, plan, serve, settings

__all__ = ["parser"]


def parser() -> argparse.ArgumentParser:
    """The command line; what it parsed has `run`, which takes it and gives the exit status, and `command`."""
    line = argparse.ArgumentParser(
        prog="hostplane-agent", description="Stages, switches and proves the operating system of one host."
    )
    line.add_argument("--version", action="version", version="hostplane-agent " + __version__)
    verbs = line.add_subparsers(dest="command", metavar="COMMAND")

    def verb(name: str, words: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=words, description=words)
        made.add_argument("--root", default="/", metavar="DIR", help="the host's file-system root (default /)")
        made.set_defaults(run=run)
        return made

    def asking(name: str, words: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        made = verb(name, words, run)
        made.add_argument("--socket", metavar="PATH", help="the agent's socket (default DIR/run/hostplane/agent.sock)")
        return made

    serving = asking("serve", "answer on the agent's sockets", serve.run)
    serving.add_argument("--kubeos-socket", metavar="PATH", help="also answer KubeOS's four methods here")
    serving.add_argument(
        "--idle-seconds",
        type=float,
        metavar="N",
        help="end after N seconds with nothing to do; 0: never (default: %g when started by socket activation)"
        % serve.IDLE_SECONDS,
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
    plan.add_parser(verb("plan", "say what an upgrade to a bundle would fetch, and change nothing", plan.run))
    verb("grow", "let PERSIST fill its disk", commands.grow)
    verb("banner", "write the line above the login prompt", commands.banner)
    etc.add_parser(verbs)
    settings.add_parser(verbs)
    return line
