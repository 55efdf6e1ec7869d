"""`hostplane-agent`: serve a host, or ask a running agent how it is. The only place that exits."""

import argparse
import sys
from typing import Callable, List, Optional

from hostplane.errors import HostplaneError

from .console.parser import parser
from .journal import set_up

__all__ = ["main"]


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command line; gives the exit status: 0, or 1 after one sentence on standard error, or 2 for usage."""
    line = parser()
    options = line.parse_args(arguments)
    if options.command is None:
        line.print_usage(sys.stderr)
        return 2
    set_up(options.command in ("serve", "trial") and options.root == "/")
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except HostplaneError as fault:
        print("hostplane-agent: %s\n%s" % (fault, fault.remedy), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
