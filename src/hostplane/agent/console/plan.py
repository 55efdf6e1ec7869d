"""`hostplane-agent plan REF DIGEST`: what an upgrade to a bundle would fetch, told beforehand.

The bundle is judged as a staging would judge it, its block indexes are fetched, the passive slot is read; the slots,
the state and the boot order stay as they are. Needs root, as whoever may read the disk does; needs no agent.
"""

import argparse
import json
import threading

from hostplane.errors import HostError

__all__ = ["add_parser", "run"]


def add_parser(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("ref", metavar="REF", help="oci://HOST/REPO, http(s)://.../DIR/ or file:///DIR")
    parser.add_argument("digest", metavar="DIGEST", help="of the bundle's manifest: sha256:...")
    parser.add_argument("--version", dest="wanted", default="", metavar="V", help="the version it must be")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(options: argparse.Namespace) -> int:
    """Print it. Raises HostError: why the bundle would be refused, or cannot be reached."""
    from hostplane.agent.bootstate import other
    from hostplane.agent.disk import partitions
    from hostplane.agent.fetch import open_bundle
    from hostplane.agent.hostroot import HostRoot
    from hostplane.agent.payload.install import estimate
    from hostplane.agent.payload.pace import IdleDisk, Pace
    from hostplane.agent.state import Image

    host = HostRoot(options.root)
    image = Image(format="bundle", ref=options.ref, digest=options.digest, version=options.wanted)
    found = partitions.find(host)
    source = open_bundle(host, image, threading.Event())
    try:
        with IdleDisk(host.config.io_idle):
            pace = Pace(host.config.io_bytes_per_second)
            plan = estimate(host, found, other(found.active), image, source, pace)
    except OSError as fault:
        raise HostError("RootDiskUnknown", detail=str(fault)) from fault
    finally:
        source.close()
    if options.json:
        print(json.dumps(plan._asdict(), indent=2))
    else:
        share = 100.0 * plan.download / max(1, plan.total)
        print("download %d bytes, %.1f %% of the images' %d; " % (plan.download, share, plan.total), end="")
        print("%d bytes are on this host already" % plan.reused)
    return 0
