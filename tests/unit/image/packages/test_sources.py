"""apt's two forms of sources are read; the machine's own serve only their own release."""

from __future__ import annotations

from pathlib import Path

from hostplane.image.packages.sources import Source, machine_sources, os_release, parse, render

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://one.example/debian http://two.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/x.gpg

Types: deb-src
URIs: http://one.example/debian
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://flat.example/x
Suites: ./
Trusted: yes
"""


def test_deb822_stanzas_are_read() -> None:
    one, two, flat = parse(DEB822, one_line=False)
    assert (one.url, two.url) == ("http://one.example/debian", "http://two.example/debian")
    assert one.suites == ("bookworm", "bookworm-updates")
    assert one.components == ("main", "contrib")
    assert one.signed_by == "/usr/share/keyrings/x.gpg"
    assert (flat.suites, flat.components, flat.trusted) == (("./",), (), True)


def test_one_line_entries_are_read() -> None:
    text = """\
deb [arch=amd64 signed-by=/k.gpg check-valid-until=no] https://x.example/debian bookworm main contrib # note
deb-src https://x.example/debian bookworm main
# deb https://off.example/debian bookworm main
deb cdrom:[Debian]/ bookworm main
deb http://y.example/debian bookworm-updates main
"""
    first, second = parse(text, one_line=True)
    assert first == Source(
        url="https://x.example/debian",
        suites=("bookworm",),
        components=("main", "contrib"),
        signed_by="/k.gpg",
        valid_until=False,
    )
    assert second.suites == ("bookworm-updates",)


def test_what_is_written_is_read_back() -> None:
    source = Source(
        url="https://x.example/d", suites=("a", "b"), components=("main",), signed_by="/k", valid_until=False
    )
    flat = Source(url="copy:/srv", suites=("./",), components=(), trusted=True)
    assert parse(render([source, flat]), one_line=False) == [source, flat]


def test_an_embedded_key_survives() -> None:
    text = "Types: deb\nURIs: http://x.example/d\nSuites: s\nComponents: main\nSigned-By:\n -----BEGIN\n .\n abc\n"
    (source,) = parse(text, one_line=False)
    assert source.signed_by.splitlines()[1:] == [" -----BEGIN", " .", " abc"]
    assert parse(render([source]), one_line=False)[0].signed_by.split() == source.signed_by.split()


def test_a_public_source_has_no_password() -> None:
    source = Source(url="https://me:secret@x.example:8443/d", suites=("s",), components=("main",))
    assert source.public().url == "https://x.example:8443/d"


def _machine(tmp_path: Path, codename: str) -> Path:
    (tmp_path / "etc/apt/sources.list.d").mkdir(parents=True)
    (tmp_path / "etc/os-release").write_text(f'ID=debian\nVERSION_CODENAME="{codename}"\n')
    (tmp_path / "etc/apt/sources.list").write_text(f"deb http://x.example/debian {codename} main\n")
    (tmp_path / "etc/apt/sources.list.d/cloud.list").write_text("deb http://c.example/apt cloud-bookworm main\n")
    (tmp_path / "etc/apt/sources.list.d/off.sources.disabled").write_text(DEB822)
    (tmp_path / "etc/apt/sources.list.d/more.sources").write_text(DEB822)
    return tmp_path


def test_a_machine_gives_only_the_suites_of_the_release_it_runs(tmp_path: Path) -> None:
    machine = _machine(tmp_path, "bookworm")
    found = machine_sources("debian", "bookworm", machine)
    assert [source.url for source in found] == [
        "http://x.example/debian",
        "http://one.example/debian",
        "http://two.example/debian",
    ]
    assert machine_sources("debian", "trixie", machine) == []
    assert machine_sources("ubuntu", "bookworm", machine) == []


def test_a_root_without_os_release_has_no_facts(tmp_path: Path) -> None:
    assert os_release(tmp_path) == {}
