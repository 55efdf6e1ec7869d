"""Where deb packages come from: the lines and stanzas of apt's sources, read and written.

A recipe's repositories become sources; without any, the building machine's own serve, when it runs the very release
that is built, and else the ones that mmdebstrap knows by the release's code name. Only suites of that release are taken
from the machine, so that a third-party archive of some other tool never slips into an image. Source packages and
CD-ROM entries are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct
from msgspec.structs import replace

__all__ = ["Source", "machine_sources", "os_release", "parse", "render"]


class Source(Struct, frozen=True, kw_only=True):
    """One archive: where it is, which parts of it, and whose signature it must carry."""

    url: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    """Empty for a flat archive, whose suite ends in a slash."""
    signed_by: str = ""
    """Path of a keyring, fingerprints, or an embedded key as apt writes it; empty: the machine's trusted keys."""
    trusted: bool = False
    """Whether signatures are not asked for."""
    valid_until: bool = True
    """Whether an index past its date is refused."""

    def public(self) -> Source:
        """The same without a user and a password in its address: fit for an image."""
        parts = urlsplit(self.url)
        if "@" not in parts.netloc:
            return self
        bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        return replace(self, url=bare)


def render(sources: Iterable[Source]) -> str:
    """The sources as deb822 stanzas."""
    return "\n".join(_stanza(source) for source in sources)


def _stanza(source: Source) -> str:
    lines = ["Types: deb", f"URIs: {source.url}", f"Suites: {' '.join(source.suites)}"]
    if source.components:
        lines.append(f"Components: {' '.join(source.components)}")
    if source.signed_by and not source.trusted:
        lines.append(f"Signed-By: {source.signed_by}")
    if source.trusted:
        lines.append("Trusted: yes")
    if not source.valid_until:
        lines.append("Check-Valid-Until: no")
    return "\n".join(lines) + "\n"


def parse(text: str, *, one_line: bool) -> list[Source]:
    """The binary archives of a sources file, in either of apt's two forms.

    What is disabled, holds sources or cannot be understood is left out.
    """
    found = _one_line(text) if one_line else _deb822(text)
    return [source for source in found if not source.url.startswith(("cdrom:", "mirror"))]


def _deb822(text: str) -> Iterator[Source]:
    bare = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for paragraph in re.split(r"\n\s*\n", bare):
        fields = _fields(paragraph)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        for url in fields.get("uris", "").split():
            yield _source(url, fields.get("suites", "").split(), fields.get("components", "").split(), fields)


def _fields(paragraph: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in paragraph.splitlines():
        if line[:1].isspace() and name:
            fields[name] += "\n" + line
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line.strip())
        if match is None:
            continue
        options = dict(part.split("=", 1) for part in (match[1] or "").split() if "=" in part)
        fields = {name.lower(): value.strip('"') for name, value in options.items()}
        yield _source(match[2], [match[3]], match[4].split(), fields)


def _source(url: str, suites: list[str], components: list[str], fields: Mapping[str, str]) -> Source:
    return Source(
        url=url,
        suites=tuple(suites),
        components=tuple(components),
        signed_by=fields.get("signed-by", ""),
        trusted=fields.get("trusted", "no").lower() in ("yes", "true"),
        valid_until=fields.get("check-valid-until", "yes").lower() not in ("no", "false"),
    )


def os_release(root: Path) -> dict[str, str]:
    """os-release of the tree below `root`; empty where it has none."""
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            text = (root / name).read_text(encoding="utf-8")
        except OSError:
            continue
        pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
        return {key: value.strip().strip("\"'") for key, value in pairs}
    return {}


def machine_sources(distro: str, codename: str, machine: Path = Path("/")) -> list[Source]:
    """The machine's own archives of `codename`; none when it runs another distribution or release."""
    facts = os_release(machine)
    if facts.get("ID") != distro or facts.get("VERSION_CODENAME") != codename:
        return []
    etc = machine / "etc/apt"
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    found = []
    for path in files:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        for source in parse(path.read_text(encoding="utf-8"), one_line=path.suffix == ".list"):
            suites = tuple(s for s in source.suites if s == codename or s.startswith(f"{codename}-"))
            if suites:
                found.append(replace(source, suites=suites))
    return found
