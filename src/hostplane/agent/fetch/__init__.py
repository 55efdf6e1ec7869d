"""Where the bytes of an image come from: a registry, a web server or a file, through whatever stands between.

Nothing here judges an image. A bundle's manifest and blobs are compared with the digests they are asked by, ranges are
not (their frames' hashes do that), and signatures are handed over as they are. It asks for what it was told to fetch
and for nothing else, with the access that the host itself configures (docs/reference/fetch.md).

The network's modules are imported only when a download begins: an agent at rest does without them.
"""

from .download import Fetch, Source
from .pace import Cancelled, Limits
from .source import BundleSource, open_bundle
from .tarball import TarSource, check_source, is_in_image, source_of

__all__ = [
    "BundleSource",
    "Cancelled",
    "Fetch",
    "Limits",
    "Source",
    "TarSource",
    "check_source",
    "is_in_image",
    "open_bundle",
    "source_of",
]
