"""KubeOS's os.tar on a real disk: unpacked into the other slot, booted, tried and kept, with all its files carry."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.guest import TEST_SECONDS
from tests.vm.upgrade.host import powered_on
from tests.vm.upgrade.images import V2, Images

_ALLOW = (
    "import json; path = '/etc/hostplane/agent.json'; said = json.load(open(path)); "
    "said['allowUnsignedTar'] = True; json.dump(said, open(path, 'w'))"
)
_MARKED = (
    "import os; path = '/usr/bin/marked'; print(sorted((name, os.getxattr(path, name)) for name in os.listxattr(path)))"
)


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    """A web server's address, as a guest reaches it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,))
        thread.start()
        try:
            yield f"http://10.0.2.2:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.timeout(3 * TEST_SECONDS)
def test_an_os_tar_becomes_the_other_slot(images: Images) -> None:
    old, new = images.made(), images.made(*V2, 'image.outputs+=["os-tar"]')
    assert old.disk is not None
    assert new.disk is not None
    tar = new.disk.parent / "os.tar"
    with tar.open("rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    with served(tar.parent) as address, powered_on(old.disk, {}) as host:
        report = host.call("status")
        assert report["slots"]["A"]["digest"] == old.digest, "a fresh disk names its bundle"
        assert report["firmware"]["grub"].startswith("2.")
        assert report["firmware"]["esp"] == "small 1.0.0"
        assert host.run("systemctl is-active hostplane-state.service").strip() == "active"
        marked = host.run(f'python3 -c "{_MARKED}"')

        image: dict[str, object] = {"format": "osTar", "ref": f"{address}/os.tar", "digest": digest, "version": "2.0.0"}
        image["size"] = tar.stat().st_size
        assert "HP-6012" in host.refused("stage", image=image)
        host.run(f'python3 -c "{_ALLOW}"')
        host.run("systemctl stop hostplane-agent.service")
        host.call("stage", image=image)
        host.wait(lambda report: report["phase"] == "Staged", unless=("Failed",))
        host.call("switch", seq=1, operation="upgrade", digest=digest, trialSeconds=7200)
        assert host.arrive("B").startswith("on trial")
        assert host.run("cat /usr/share/two").strip() == "two"
        assert host.run("findmnt -no LABEL,FSTYPE /").split() == ["ROOT-B", "ext4"]
        assert host.run(f'python3 -c "{_MARKED}"') == marked
        report = host.confirm(1)
        assert (report["phase"], report["activeSlot"], report["slots"]["B"]["state"]) == ("Idle", "B", "Confirmed")
