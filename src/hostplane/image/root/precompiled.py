"""The agent's zip application with its modules compiled by the image's own Python: it starts in half the time.

A zip application cannot keep what Python compiles, and a read-only root has no place for it either, so each start would
compile the sources anew. The sources stay inside, for any other Python and for whoever reads them. A Python before 3.7
goes on without: what it compiles is tied to a time that a zip does not hold.
"""

from __future__ import annotations

from hostplane.errors import ImageError
from hostplane.image.root.rootpath import within
from hostplane.image.stage import Work

__all__ = ["compile_agent"]

_AGENT = "/usr/lib/hostplane/agent.pyz"
_SCRIPT = b"""
import importlib.util, marshal, os, sys, zipfile
AGENT = sys.argv[1]
if sys.version_info < (3, 7):
    sys.exit()
with zipfile.ZipFile(AGENT) as packed:
    entries = {info.filename: (info, packed.read(info)) for info in packed.infolist()}
with open(AGENT, "rb") as packed:
    first = packed.readline()
for name, (info, source) in list(entries.items()):
    if name.startswith("hostplane/") and name.endswith(".py"):
        code = marshal.dumps(compile(source, "%s/" + name, "exec", dont_inherit=True))
        head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source)
        made = zipfile.ZipInfo(name + "c", info.date_time)  # 1: goes by a digest of the source, which nobody asks
        made.external_attr, made.create_system = info.external_attr, info.create_system
        entries[name + "c"] = made, head + code
fresh = AGENT + ".new"
with open(fresh, "wb") as target:
    target.write(first)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(entries):
            packed.writestr(entries[name][0], entries[name][1], zipfile.ZIP_DEFLATED)
os.chmod(fresh, 0o755)
os.rename(fresh, AGENT)
""" % _AGENT.encode()


def compile_agent(work: Work) -> None:
    """Add compiled modules to the agent in `work.root`; the same agent and Python give the same bytes.

    Nothing where no agent is, or where the root's Python does not run here: it is a matter of speed alone.
    """
    if not within(work.root, _AGENT).is_file():
        return
    try:
        work.run(["python3", "-I", "-", _AGENT], chroot=True, stdin=_SCRIPT)
    except ImageError as fault:
        work.log(f"the agent stays uncompiled: {fault}")
