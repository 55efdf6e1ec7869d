"""What holds for any trees and any bytes: the image's changes arrive, the host's survive, and twice is as once."""

from __future__ import annotations

import os
import random
import tempfile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostplane.agent.etc import build, kinds
from hostplane.agent.etc.lines import NotMergeable
from hostplane.agent.etc.node import DIRECTORY, FILE, LINK, Meta, Node, read_tree
from hostplane.agent.etc.plan import Rules, merge_trees
from hostplane.agent.etc.rules import RULES, Paths
from hostplane.agent.etc.userrows import parse
from hostplane.agent.etc.users import FILES, merge_users
from tests.unit.agent.etc.trees import dressed, flat

KINDS = sorted({kind for _, kind in RULES})
NAMES = [
    "f",
    "f.new",
    "d",
    "passwd-",
    "sysctl.conf",
    "x.yaml",
    "alternatives",
    "rc3.d",
    "S01a",
    "K02a",
    "machine-id",
    "os-release",
]
RULES_USED = Rules(identity=Paths(["machine-id", "d/machine-id"]))
SEED = 20261123

LINE = st.sampled_from(
    [
        "a=1",
        "a=2",
        "b=1",
        "[s]",
        "# c",
        "",
        "x: 1",
        "x: {y: 2}",
        "- a",
        "root:x:0:0::/:",
        "u:x:5:5::/:",
        "/dev/a /x ext4 ro",
        "\\",
        "a",
    ]
)
TEXT = st.lists(LINE, max_size=6).map(lambda lines: "\n".join(lines).encode()) | st.binary(max_size=40)
METAS = st.builds(Meta, st.sampled_from([0o644, 0o600, 0o4755]), st.integers(0, 2), st.integers(0, 2), st.just(()))


def nodes() -> st.SearchStrategy[Node]:
    files = st.builds(lambda meta, data: Node(FILE, meta, data=data), METAS, TEXT)
    links = st.builds(
        lambda target: Node(LINK, Meta(0o777), target=target), st.sampled_from(["/dev/null", "../a", "b"])
    )
    return st.recursive(files | links, directories, max_leaves=6)


def directories(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    names = st.dictionaries(st.sampled_from(NAMES), children, max_size=4)
    return st.builds(lambda table: Node(DIRECTORY, Meta(0o755), children=table), names)


TREES = directories(nodes())


def merged(base: Node, ours: Node, theirs: Node) -> Node:
    return merge_trees(copy(base), copy(ours), copy(theirs), RULES_USED).tree


def copy(node: Node) -> Node:
    made = node.dressed(node.meta)
    made.children = {name: copy(child) for name, child in node.children.items()}
    return made


def without_identity(content: dict[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in content.items() if not RULES_USED.identity.covers(path)}


@settings(max_examples=80, deadline=None)
@given(base=TREES, theirs=TREES)
def test_an_untouched_tree_follows_the_image(base: Node, theirs: Node) -> None:
    ours = copy(base)
    after = flat(merged(base, ours, theirs))
    want = without_identity(flat(theirs))
    kept_for_identity = {path for path in after if any(each.startswith(path + "/") for each in flat(ours))}
    for path, value in want.items():
        if not (kept_for_identity and any(RULES_USED.identity.covers(each) for each in flat(ours))):
            assert after[path] == value, path


@settings(max_examples=80, deadline=None)
@given(base=TREES, ours=TREES)
def test_where_the_image_changed_nothing_the_host_keeps_everything(base: Node, ours: Node) -> None:
    done = merge_trees(copy(base), copy(ours), copy(base), RULES_USED)
    after, mine = flat(done.tree), flat(ours)
    images = {path for path in flat(base) if path.split("/")[-1] == "os-release"}
    for path, value in mine.items():
        if not any(path.startswith(each) for each in images):
            assert path in after, path
            assert after[path] == value, path
    assert not [each for each in done.conflicts if each.is_blocking]


@settings(max_examples=80, deadline=None)
@given(base=TREES, ours=TREES, theirs=TREES)
def test_twice_is_as_once_and_nothing_local_is_lost(base: Node, ours: Node, theirs: Node) -> None:
    once = merged(base, ours, theirs)
    assert flat(merged(base, once, theirs)) == flat(once)
    assert flat(merged(theirs, once, theirs)) == flat(once)
    after = set(flat(once))
    for path in flat(ours):
        if path not in flat(base) and path not in flat(theirs) and "os-release" not in path:
            assert path in after, f"{path} is the host's alone"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@settings(max_examples=40, deadline=None)
@given(base=TREES, ours=TREES, theirs=TREES)
def test_what_is_written_is_what_was_planned_and_nothing_else(base: Node, ours: Node, theirs: Node) -> None:
    planned = merged(base, ours, theirs)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # nothing to wait for when it is synced
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        for _ in range(2):
            build.put(planned, directory, "B", lambda: None)
        assert os.listdir(directory) == ["B"]
        written = read_tree(directory + "/B")
        assert written is not None
        assert flat(written) == flat(planned)
        links = {path for path, value in flat(planned).items() if str(value).startswith("-> ")}
        found, wanted = dressed(written), dressed(planned)
        assert {path: found[path] for path in found if path not in links} == {
            path: wanted[path] for path in wanted if path not in links
        }


@settings(max_examples=250, deadline=None)
@given(kind=st.sampled_from(KINDS), base=TEXT, ours=TEXT, theirs=TEXT)
def test_no_bytes_crash_a_kind_and_twice_is_as_once(kind: str, base: bytes, ours: bytes, theirs: bytes) -> None:
    check_kind(kind, base, ours, theirs)


def check_kind(kind: str, base: bytes, ours: bytes, theirs: bytes) -> bool:
    """Whether it was merged."""
    try:
        done = kinds.merge(kind, base, ours, theirs)
    except NotMergeable:
        return False
    again = kinds.merge(kind, base, done.content, theirs)
    assert again.content == done.content
    assert kinds.merge(kind, base, ours, base).content == ours, "nothing is changed where the image changed nothing"
    return True


ROWS = st.lists(
    st.builds(
        lambda name, uid, gid, end: f"{name}:x:{uid}:{gid}:{end}",
        st.sampled_from(["root", "a", "b", "c", "d"]),
        st.integers(0, 6),
        st.integers(0, 6),
        st.sampled_from(["::", ":/h:/bin/sh", ""]),
    )
    | st.builds(
        lambda name, gid, members: f"{name}:x:{gid}:{members}",
        st.sampled_from("abcd"),
        st.integers(0, 6),
        st.sampled_from(["", "a", "a,b"]),
    ),
    max_size=6,
).map(lambda rows: "".join(row + "\n" for row in rows).encode())


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(ROWS, ROWS, ROWS), min_size=len(FILES), max_size=len(FILES)))
def test_users_keep_to_their_rules_whatever_the_databases_are(contents: list[tuple[bytes, bytes, bytes]]) -> None:
    check_users(dict(zip(FILES, contents, strict=True)))


def check_users(files: dict[str, tuple[bytes, bytes, bytes]]) -> None:
    done = merge_users(files)
    assert set(done.files) == set(files)
    if all(base == ours for base, ours, _ in files.values()):
        assert done.files == {name: theirs for name, (_, _, theirs) in files.items()}
    names = [row.split(b":")[0] for row in rows(done.files["passwd"])]
    again = merge_users({name: (theirs, done.files[name], theirs) for name, (_, _, theirs) in files.items()})
    for name, of in (("passwd", "passwd"), ("group", "group"), ("shadow", "passwd"), ("gshadow", "group")):
        known = parse(of, done.files[of]).rows
        once, twice = (parse(name, each.files[name]).rows for each in (done, again))
        assert {key: once[key] for key in once if key in known} == {key: twice[key] for key in twice if key in known}
    assert again.moved == []
    local = {line.split(b":")[0] for line in rows(files["passwd"][1])} - {
        line.split(b":")[0] for line in rows(files["passwd"][0])
    }
    assert local <= set(names), "a user of the host's own is lost"


def rows(content: bytes) -> list[bytes]:
    found = [line for line in content.split(b"\n") if line.count(b":") == 6]
    return [line for line in found if all(part.isdigit() for part in line.split(b":")[2:4])]


SAMPLES = [
    ("pairs", b"# c\na=1\nb = 2\n\n[s]\nk=v\nk=w\n[t]\nx=\\\n 1\n"),
    (
        "toml",
        b'# c\nversion = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  image = "x"\n  a = [1, 2]\n[x]\ny = {z = 1}\n',
    ),
    (
        "yaml",
        b"# c\nkind: KubeletConfiguration\nevictionHard:\n  memory.available: 100Mi # d\nlist:\n- a\n- b\nm: {n: 1}\n",
    ),
    ("json", b'{"a": {"b": [1, 2, {"c": null}]},\n "d": "e",\n "f": {}}\n'),
    ("certificates", b"# a\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" * 3),
    ("fstab", b"/dev/a / ext4 ro 0 1\n/dev/b none swap sw 0 0\nUUID=1 /data xfs nofail 0 2\n"),
    ("hosts", b"127.0.0.1 localhost\n::1 localhost ip6 # c\n10.0.0.1 a b\n"),
    ("limits", b"* soft nofile 1\n@x hard nproc 2\n"),
    ("services", b"ssh 22/tcp\ndomain 53/udp\ndomain 53/tcp\n"),
    ("switch", b"passwd: files systemd\nhosts: files dns\n"),
    ("table", b"UMASK 022\nUID_MIN 1000\n# c\n"),
    ("words", b"/bin/sh\n/bin/bash\n\nnf_conntrack\n"),
]
DATABASES = {
    "passwd": b"root:x:0:0:root:/root:/bin/sh\na:x:105:105::/var/lib/a:/bin/false\nb:x:106:100:::\nc:x:1000:1000:::\n",
    "group": b"root:x:0:\na:x:105:c\nb:x:100:a,c\nc:x:1000:\n",
    "shadow": b"root:*:1:0:99999:7:::\na:!:1::::::\nc:$6$x:1::::::\n",
    "gshadow": b"root:*::\nb:!:a:a,c\n",
    "subuid": b"c:100000:65536\n",
    "subgid": b"c:100000:65536\n",
}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_campaign_of_bytes_and_databases() -> None:
    """A stated seed, some minutes: mutations of real files through every kind, and of all user databases together."""
    chance = random.Random(SEED)

    def mutated(content: bytes) -> bytes:
        lines = content.split(b"\n")
        for _ in range(chance.randrange(4)):
            at, act = chance.randrange(len(lines)), chance.randrange(8)
            if act < 2 and len(lines) > 1:
                del lines[at]
            elif act < 4:
                lines.insert(at, chance.choice(lines))
            elif act < 6:
                lines[at] = (
                    lines[at]
                    .replace(b"1", b"%d" % chance.randrange(2000))
                    .replace(b"a", chance.choice([b"a", b"b", b"z"]))
                )
            else:
                line = bytearray(lines[at])
                where = chance.randrange(len(line) + 1)
                line[where : where + chance.randrange(3)] = bytes(
                    chance.randrange(256) for _ in range(chance.randrange(4))
                )
                lines[at] = bytes(line)
        return b"\n".join(lines)

    merged_so_far = 0
    for _ in range(60000):
        kind, content = chance.choice(SAMPLES)
        merged_so_far += check_kind(kind, mutated(content), mutated(content), mutated(content))
        check_kind(chance.choice(KINDS), mutated(content), mutated(content), mutated(content))
        check_users({name: (mutated(rows), mutated(rows), mutated(rows)) for name, rows in DATABASES.items()})
    assert merged_so_far > 20000, "most of it was refused: the samples try nothing"
