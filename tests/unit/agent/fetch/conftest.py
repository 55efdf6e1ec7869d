"""A host, a bundle, and servers that are closed with the test."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.agent.fetch.faulty import Faulty
from tests.unit.agent.fetch.layouts import Bundle, Site, make_bundle


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own proxy is not part of a test."""
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "host")
    yield made
    made.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "host/bundle")


@pytest.fixture
def serve() -> Iterator[Callable[..., Faulty]]:
    made: list[Faulty] = []

    def start(directory: Path | None = None, context: ssl.SSLContext | None = None) -> Faulty:
        made.append(Faulty(directory, context))
        return made[-1]

    yield start
    for server in made:
        server.close()


@pytest.fixture
def web(serve: Callable[..., Faulty], bundle: Bundle) -> Faulty:
    return serve(bundle.directory)
