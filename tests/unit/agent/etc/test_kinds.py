"""Files that are merged by what they say: both sides' changes are in the outcome, comments and order stay."""

from __future__ import annotations

import pytest

from hostplane.agent.etc import kinds
from hostplane.agent.etc.lines import NotMergeable


def merged(kind: str, base: str, ours: str, theirs: str) -> tuple[str, tuple[str, ...]]:
    done = kinds.merge(kind, base.encode(), ours.encode(), theirs.encode())
    return done.content.decode(), done.conflicts


@pytest.mark.parametrize(
    ("kind", "base", "ours", "theirs", "after", "conflicts"),
    [
        # a value of the image, a comment and a value of the host
        ("pairs", "a=1\nb=2\n", "# mine\na=1\nb=3\n", "a=9\nb=2\n", "# mine\na=9\nb=3\n", ()),
        # new keys come in where the image has them, with their comment; dropped ones go
        ("pairs", "a=1\nc=3\n", "a=1\nc=3\nmy=1\n", "a=1\n\n# why\nb=2\n", "a=1\n# why\nb=2\nmy=1\n", ()),
        ("pairs", "a=1\n", "a=2\n", "a=3\n", "a=2\n", ("a",)),
        ("pairs", "a=1\n", "", "a=3\n", "", ()),  # the host deleted it
        ("pairs", "a=1\n", "a=2\n", "", "a=2\n", ()),  # the image dropped what the host edited
        ("pairs", "a=1", "a=1\nb=2", "a=1\nc=3\n", "a=1\nc=3\nb=2", ()),
        ("pairs", "a=1\n", "a=1\nb=2", "a=1\nz=3\n", "a=1\nz=3\nb=2", ()),
        # sections, repeated keys
        ("pairs", "[A]\nx=1\n[B]\nx=1\n", "[A]\nx=2\n[B]\nx=1\n", "[A]\nx=1\n[B]\nx=3\n", "[A]\nx=2\n[B]\nx=3\n", ()),
        ("pairs", "[A]\nx=1\n", "[A]\nx=1\nmy=1\n", "[A]\nx=1\n[B]\ny=1\n", "[A]\nx=1\nmy=1\n\n[B]\ny=1\n", ()),
        (
            "pairs",
            "[S]\nE=\nE=1\n",
            "[S]\nE=\nE=1\nT=1\n",
            "[S]\nE=\nE=2\nE=3\n",
            "[S]\nE=\nE=2\nE=3\nT=1\n",
            (),
        ),
        ("pairs", "[A]\nx=1\ny=1\n", "[A]\nx=1\n", "[A]\nx=1\ny=2\n[C]\nz=1\n", "[A]\nx=1\n\n[C]\nz=1\n", ()),
        ("pairs", 'A="x"\nB=1\n', 'A="x"\nB=2\n', 'A="y z"\nB=1\n', 'A="y z"\nB=2\n', ()),
        ("pairs", "A=1 \\\n 2\nB=1\n", "A=1 \\\n 2\nB=2\n", "A=1 \\\n 3\nB=1\n", "A=1 \\\n 3\nB=2\n", ()),
        (
            "fstab",
            "/dev/a / ext4 ro 0 0\n",
            "/dev/a / ext4 ro 0 0\n/dev/d /data xfs nofail 0 2\n",
            "/dev/a / ext4 ro,x 0 0\n/dev/l /logs xfs nofail 0 2\n",
            "/dev/a / ext4 ro,x 0 0\n/dev/l /logs xfs nofail 0 2\n/dev/d /data xfs nofail 0 2\n",
            (),
        ),
        (
            "hosts",
            "127.0.0.1 localhost\n",
            "127.0.0.1 localhost\n10.0.0.1 api\n",
            "127.0.0.1 localhost l4\n",
            "127.0.0.1 localhost l4\n10.0.0.1 api\n",
            (),
        ),
        (
            "limits",
            "* soft nofile 1\n",
            "* soft nofile 1\n* hard nofile 9\n",
            "*\tsoft\tnofile\t2\n",
            "*\tsoft\tnofile\t2\n* hard nofile 9\n",
            (),
        ),
        (
            "services",
            "ssh 22/tcp\n",
            "ssh 22/tcp\nmine 7000/tcp\n",
            "ssh 22/tcp # x\nb 9/udp\n",
            "ssh 22/tcp\nb 9/udp\nmine 7000/tcp\n",
            (),
        ),
        (
            "switch",
            "passwd: files\nhosts: files dns\n",
            "passwd: files sss\nhosts: files dns\n",
            "passwd: files\nhosts: files mdns dns\n",
            "passwd: files sss\nhosts: files mdns dns\n",
            (),
        ),
        ("words", "/bin/sh\n", "/bin/sh\n/bin/zsh\n", "/bin/sh\n/bin/bash\n", "/bin/sh\n/bin/bash\n/bin/zsh\n", ()),
        (
            "yaml",
            "# k\na: 1\nb:\n  c: x\n",
            "# k\na: 1\n# mine\nb:\n  c: y # why\n",
            "a: 2\nb:\n  c: x\n  d: [1]\n",
            "# k\na: 2\n# mine\nb:\n  c: y # why\n  d: [1]\n",
            (),
        ),
        ("yaml", "a: 1\nb: 1\n", "a: 2\nb: 1\n", "a: 3\nb: 2\n", "a: 2\nb: 2\n", ("a",)),
        ("yaml", "a: 1\nb: 1\n", "a: 2\nb: 1\n", "a: 1\n", "a: 2\n", ()),
        (
            "toml",
            "# c\nversion = 2\n[p.cri]\nx = 1\n",
            "# c\nversion = 2\n[p.cri]\n# mine\nx = 5\n",
            "version = 3\n[p.cri]\nx = 1\ny = true\n",
            "# c\nversion = 3\n[p.cri]\n# mine\nx = 5\ny = true\n",
            (),
        ),
        ("toml", "a = 1\n", "a = 2\n", "a = 3\n", "a = 2\n", ("a",)),
        ("json", '{"a": 1}', '{"a": 1, "r": {}}', '{"a": 2}', '{\n  "a": 2,\n  "r": {}\n}\n', ()),
    ],
)
def test_what_either_side_changed_is_in_the_outcome(
    kind: str, base: str, ours: str, theirs: str, after: str, conflicts: tuple[str, ...]
) -> None:
    assert merged(kind, base, ours, theirs) == (after, conflicts)
    assert merged(kind, base, after, theirs)[0] == after, "a second time changes it again"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("pairs", "if true; then\n  a=1\nfi\n"),
        ("pairs", 'a="1\n2"\n'),
        ("pairs", "a = {\n kdc = 1\n}\n"),
        ("pairs", "a=1\\"),
        ("pairs", "a\0=1\n"),
        ("fstab", "/dev/a /\n"),
        ("limits", "* soft nofile\n"),
        ("switch", "passwd files\n"),
        ("yaml", "a: &x 1\nb: *x\n"),
        ("yaml", "a: 1\n---\nb: 1\n"),
        ("yaml", "- 1\n"),
        ("yaml", "a: [\n"),
        ("yaml", "a: 1\na: 2\n"),
        ("toml", "a = \n"),
        ("toml", "a = 2020-01-01\n"),
        ("json", '{"a": 1, "a": 2}'),
        ("json", "[1]"),
        ("certificates", "-----BEGIN CERTIFICATE-----\nAA\n"),
        ("file", "a"),
    ],
)
def test_what_is_not_plainly_of_the_kind_is_refused(kind: str, text: str) -> None:
    with pytest.raises(NotMergeable):
        merged(kind, text, text + "\nx=1\n" if kind == "pairs" else text, text)


@pytest.mark.parametrize("kind", ["pairs", "yaml", "toml"])
def test_a_file_that_would_take_minutes_is_merged_as_a_whole(kind: str) -> None:
    def many(value: int) -> str:
        return "".join(f"key{number}{': ' if kind == 'yaml' else '='}{value}\n" for number in range(40000))

    with pytest.raises(NotMergeable):
        merged(kind, many(1), many(1) + "# mine\n", many(2))


def certificate(name: str) -> str:
    return f"# {name}\n-----BEGIN CERTIFICATE-----\n{name}AAA\nBBBB\n-----END CERTIFICATE-----\n"


def test_an_authority_of_the_host_outlives_the_images_new_list() -> None:
    one, two, three, mine = (certificate(name) for name in ("one", "two", "three", "mine"))
    assert merged("certificates", one + two, one + two + mine, one + three) == (one + three + mine, ())


def test_text_that_is_no_utf_8_survives() -> None:
    done = kinds.merge("pairs", b"a=1\nb=\xff\n", b"a=2\nb=\xff\n# \xfe\n", b"a=1\nb=\xff\nc=\xfd\n")
    assert done.content == b"a=2\nb=\xff\nc=\xfd\n# \xfe\n"
