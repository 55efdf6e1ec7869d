"""Images are the same bytes for the same arguments, and the server gives exactly what is asked."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from hostplane.local.disk import read_release
from hostplane.local.image import ImageServer, root_tar, write_image


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert root_tar("v1", filler_bytes=100) == root_tar("v1", filler_bytes=100)
    assert root_tar("v1", filler_bytes=100) != root_tar("v2", filler_bytes=100)


def test_an_image_is_what_it_says(tmp_path: Path) -> None:
    image = write_image(tmp_path, "v2", filler_bytes=1000)
    content = Path(image.path).read_bytes()
    assert image.size == len(content)
    assert image.digest == "sha256:" + hashlib.sha256(content).hexdigest()
    release = read_release(Path(image.path))
    assert release is not None
    assert (release.version_id, release.pretty_name) == ("v2", image.pretty_name)


def test_a_broken_image_names_no_system(tmp_path: Path) -> None:
    assert read_release(Path(write_image(tmp_path, "bad", boots=False).path)) is None


def get(url: str, **headers: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        return answer.status, answer.read()


def test_the_server_gives_files_and_ranges_of_them(tmp_path: Path) -> None:
    image = write_image(tmp_path, "v1", filler_bytes=1000)
    content = Path(image.path).read_bytes()
    with ImageServer(tmp_path) as server:
        assert get(server.address(image)) == (200, content)
        assert get(server.address(image), Range="bytes=512-") == (206, content[512:])
        assert get(server.address(image), Range="bytes=0-9") == (206, content[:10])


@pytest.mark.parametrize("path", ["/none.tar", "/../secret", "/.hidden", "/sub/v1.tar"])
def test_the_server_gives_nothing_else(tmp_path: Path, path: str) -> None:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    (tmp_path / "images" / ".hidden").write_text("x")
    (tmp_path / "images" / "sub" / "v1.tar").write_text("x")
    (tmp_path / "secret").write_text("x")
    with ImageServer(tmp_path / "images") as server, pytest.raises(urllib.error.HTTPError) as caught:
        get(server.url + path)
    caught.value.close()
    assert caught.value.code == 404
