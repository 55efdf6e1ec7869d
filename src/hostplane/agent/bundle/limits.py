"""How much a bundle may ask of a host: sizes in bytes unless said otherwise, checked before anything is allocated.

A host may raise none of these by configuration: they are part of the format (docs/reference/bundle.md). A bundle past
one of them is refused by its writer already.
"""

__all__ = [
    "BLOCK",
    "CHUNK_RECORDS",
    "MAX_FRAMES",
    "MAX_FRAME_RAW",
    "MAX_IMAGE",
    "MAX_INDEX",
    "MAX_JSON",
    "MAX_KEYS",
    "MAX_LAYERS",
    "MAX_MANIFEST",
    "MAX_METADATA",
    "MAX_PATCH_OPS",
    "MAX_PATCH_RAW",
    "MAX_PATCH_WINDOW",
    "MAX_REPORT",
    "MAX_SIGNATURES",
    "MAX_TRUST_CHAIN",
]

BLOCK = 4096
"""The unit of the block index; every image and every frame is a multiple of it."""
MAX_IMAGE = 16 << 30
MAX_FRAME_RAW = 8 << 20
"""Content of one frame. A reader needs about three times this: stored bytes, content and the decoder's window."""
MAX_PATCH_RAW = 4 << 20
"""Content of one patch."""
MAX_PATCH_WINDOW = 8 << 20
"""Of the earlier images, for one patch."""
MAX_PATCH_OPS = 65536
"""Copies from the window, in one patch."""
MAX_FRAMES = 262144
"""Frames of one image."""
CHUNK_RECORDS = 16384
"""Records of one deflated chunk of the index: 192 KiB unpacked."""
MAX_INDEX = 256 << 20
"""One image's block index: what 16 GiB of blocks can need, and some."""
MAX_MANIFEST = 256 << 10
MAX_METADATA = 256 << 10
MAX_REPORT = 256 << 20
"""Bill of materials, licences, inventory: a host does not read them; readers at a desk stop here."""
MAX_JSON = 256 << 10
"""Any JSON document a host parses."""
MAX_LAYERS = 32
"""Descriptors in one manifest or one index."""
MAX_SIGNATURES = 16
"""In one list."""
MAX_KEYS = 64
"""In one trusted set, and as many revoked ones again."""
MAX_TRUST_CHAIN = 64
"""Versions of the trusted set in one file."""
