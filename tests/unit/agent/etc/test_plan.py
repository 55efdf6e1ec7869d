"""The outcome matrix of docs/reference/etc.md, row by row, and what must hold whatever the trees are."""

from __future__ import annotations

from typing import Any

import pytest

from hostplane.agent.etc.node import FIFO, Meta, Node
from hostplane.agent.etc.plan import BESIDE, KEPT, LEFT, Outcome, Rules, merge_trees
from hostplane.agent.etc.rules import Paths, kind_of
from tests.unit.agent.etc.trees import dressed, file, flat, link, tree

IDENTITY = Rules(identity=Paths(["machine-id", "ssh/ssh_host_*_key", "kubernetes", "cni/net.d"]))


def merge(base: Any, ours: Any, theirs: Any, rules: Rules = IDENTITY) -> Outcome:
    sides = [each if isinstance(each, Node) else tree(each) for each in (base, ours, theirs)]
    return merge_trees(sides[0], sides[1], sides[2], rules)


def outcome(base: Any, ours: Any, theirs: Any, rules: Rules = IDENTITY) -> dict[str, Any]:
    return flat(merge(base, ours, theirs, rules).tree)


GONE: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "after", "actions"),
    [
        ({"f": "1"}, {"f": "1"}, {"f": "2"}, {"f": b"2"}, []),
        ({"f": "1"}, {"f": "1"}, GONE, {}, []),
        (GONE, GONE, {"f": "2"}, {"f": b"2"}, []),
        ({"f": "1"}, {"f": "me"}, {"f": "1"}, {"f": b"me"}, []),
        ({"f": "1"}, {"f": "me"}, GONE, {"f": b"me"}, []),
        ({"f": "1"}, GONE, {"f": "1"}, {}, []),
        ({"f": "1"}, GONE, {"f": "2"}, {}, []),
        (GONE, {"f": "me"}, GONE, {"f": b"me"}, []),
        ({"f": "1"}, {"f": "2"}, {"f": "2"}, {"f": b"2"}, []),
        (GONE, {"f": "2"}, {"f": "2"}, {"f": b"2"}, []),
        ({"f": "1"}, GONE, GONE, {}, []),
        ({"f": "1"}, {"f": "me"}, {"f": "2"}, {"f": b"me", "f.new": b"2"}, [BESIDE]),
        (GONE, {"f": "me"}, {"f": "2"}, {"f": b"me", "f.new": b"2"}, [BESIDE]),
        # links, and what turns into something else
        ({"f": link("a")}, {"f": link("a")}, {"f": link("b")}, {"f": "-> b"}, []),
        ({"f": link("a")}, {"f": "me"}, {"f": link("a")}, {"f": b"me"}, []),
        ({"f": link("a")}, {"f": "me"}, {"f": link("b")}, {"f": b"me", "f.new": "-> b"}, [BESIDE]),
        ({"f": "1"}, {"f": "1"}, {"f": {"x": "2"}}, {"f": None, "f/x": b"2"}, []),
        ({"f": {"x": "1"}}, {"f": {"x": "1"}}, {"f": "2"}, {"f": b"2"}, []),
        ({"f": {"x": "1"}}, {"f": "me"}, {"f": {"x": "1"}}, {"f": b"me"}, []),
        ({"f": "1"}, {"f": "me"}, {"f": {"x": "2"}}, {"f": b"me", "f.new": None, "f.new/x": b"2"}, [BESIDE]),
        ({"f": {"x": "1"}}, {"f": {"x": "me"}}, {"f": "2"}, {"f": None, "f/x": b"me", "f.new": b"2"}, [BESIDE]),
        # directories
        ({"d": {}}, {"d": {}}, GONE, {}, []),
        ({"d": {"x": "1"}}, {"d": {"x": "1", "y": "me"}}, GONE, {"d": None, "d/y": b"me"}, []),
        ({"d": {"x": "1"}}, GONE, {"d": {"x": "1", "y": "2"}}, {"d": None, "d/y": b"2"}, []),
        ({"d": {}}, GONE, {"d": {}}, {}, []),
        (GONE, {"d": {}}, GONE, {"d": None}, []),
    ],
)
def test_the_matrix(base: Any, ours: Any, theirs: Any, after: dict[str, Any], actions: list[str]) -> None:
    done = merge(base, ours, theirs)
    assert flat(done.tree) == after
    assert [each.action for each in done.conflicts] == actions
    again = merge(base, done.tree, theirs)
    assert flat(again.tree) == after, "a second time changes it again"
    assert flat(merge(theirs, done.tree, theirs).tree) == after, "the same image again changes nothing"


def test_a_file_beside_is_replaced_by_the_next_merge_but_a_file_of_the_hosts_own_is_not() -> None:
    assert outcome({"f": "1"}, {"f": "me", "f.new": "1"}, {"f": "2"}) == {"f": b"me", "f.new": b"2"}
    assert outcome({"f": "1"}, {"f": "me", "f.new": "mine"}, {"f": "2"}) == {
        "f": b"me",
        "f.new": b"mine",
        "f.new.1": b"2",
    }


def test_a_file_beside_is_no_program() -> None:
    done = merge({"d/f": file("1", 0o755)}, {"d/f": file("me", 0o755)}, {"d/f": file("2", 0o4755)})
    assert dressed(done.tree)["d/f.new"].mode == 0o644
    assert dressed(done.tree)["d/f"].mode == 0o755, "the host's content is not made set-uid"


def test_where_every_file_counts_nothing_is_laid_beside() -> None:
    done = merge({"logrotate.d/x": "1"}, {"logrotate.d/x": "me"}, {"logrotate.d/x": "2"})
    assert flat(done.tree) == {"logrotate.d": None, "logrotate.d/x": b"me"}
    assert [each.action for each in done.conflicts] == [KEPT]


def test_identity_is_the_hosts_and_never_merged() -> None:
    base = {"machine-id": "", "ssh/ssh_host_rsa_key": "", "ssh/config": "1", "kubernetes/manifests": {}, "cni": {}}
    ours = {"machine-id": "id", "ssh/ssh_host_rsa_key": "key", "ssh/config": "1", "kubernetes/kubelet.conf": "cert"}
    theirs = {"machine-id": "", "ssh/config": "2", "kubernetes/manifests/x": "new", "cni/net.d/default": "new"}
    assert outcome(base, ours, theirs) == {
        "machine-id": b"id",
        "ssh": None,
        "ssh/ssh_host_rsa_key": b"key",
        "ssh/config": b"2",
        "kubernetes": None,
        "kubernetes/kubelet.conf": b"cert",
    }


def test_identity_outlives_a_directory_that_the_image_drops_or_turns_into_a_file() -> None:
    ours = {"ssh/ssh_host_rsa_key": "key", "ssh/config": "1"}
    assert outcome({"ssh/config": "1"}, ours, GONE) == {"ssh": None, "ssh/ssh_host_rsa_key": b"key"}
    after = outcome({"ssh/config": "1"}, ours, {"ssh": "file"})
    assert after["ssh/ssh_host_rsa_key"] == b"key"


def test_content_and_each_attribute_go_separate_ways() -> None:
    base = {"f": file("1", 0o644, 0, 0, user__a=b"1", security__selinux=b"old")}
    ours = {"f": file("1", 0o600, 0, 0, user__a=b"1", user__b=b"me", security__selinux=b"old")}
    theirs = {"f": file("2", 0o644, 7, 8, security__selinux=b"new")}
    done = merge(base, ours, theirs)
    xattrs = (("security.selinux", b"new"), ("user.b", b"me"))
    assert dressed(done.tree)["f"] == Meta(0o600, 7, 8, xattrs)
    assert flat(done.tree) == {"f": b"2"}


def test_a_local_file_takes_the_label_of_its_directory() -> None:
    def labelled(names: dict[str, Node], label: bytes) -> Node:
        made = tree(names)
        made.meta = made.meta._replace(xattrs=(("security.selinux", label),))
        return made

    done = merge_trees(
        labelled({}, b"old"),
        labelled(
            {
                "plain": file("me", security__selinux=b"old"),
                "own": file("me", security__selinux=b"mine"),
                "none": file(""),
            },
            b"old",
        ),
        labelled({}, b"new"),
        Rules(),
    )
    labels = {name: dict(meta.xattrs)["security.selinux"] for name, meta in dressed(done.tree).items()}
    assert labels == {"plain": b"new", "own": b"mine", "none": b"new"}


WANTS = "systemd/system/multi-user.target.wants"


def test_units_turned_on_off_and_masked_stay_so() -> None:
    def unit(name: str, where: str = "/usr/lib/systemd/system/") -> Node:
        return link(where + name)

    base = {WANTS: {"a.service": unit("a.service"), "b.service": unit("b.service"), "old": unit("old")}}
    ours = {
        WANTS: {
            "b.service": unit("b.service", "/lib/systemd/system/"),
            "mine.service": unit("mine.service"),
            "old": unit("old"),
        },
        "systemd/system/c.service": link("/dev/null"),
    }
    theirs = {
        WANTS: {"a.service": unit("a.service"), "b.service": unit("b.service"), "new.service": unit("new.service")}
    }
    assert sorted(outcome(base, ours, theirs)) == sorted(
        ["systemd", "systemd/system", WANTS, "systemd/system/c.service"]
        + [f"{WANTS}/{name}.service" for name in ("b", "mine", "new")]
    )


def test_a_mask_of_the_hosts_stays_over_the_images_new_unit() -> None:
    done = merge(GONE, {"systemd/system/c.service": link("/dev/null")}, {"systemd/system/c.service": "unit"})
    assert flat(done.tree)["systemd/system/c.service"] == "-> /dev/null"


def test_a_chosen_program_stays_while_the_image_has_it() -> None:
    rules = Rules(is_in_image=lambda path: path != "/usr/bin/vim")
    base = {"alternatives": {"editor": link("/usr/bin/nano"), "x": link("/usr/bin/a")}}
    ours = {"alternatives": {"editor": link("/usr/bin/vim"), "x": link("/usr/bin/b")}}
    done = merge(base, ours, base, rules)
    assert flat(done.tree) == {
        "alternatives": None,
        "alternatives/editor": "-> /usr/bin/nano",
        "alternatives/x": "-> /usr/bin/b",
    }
    assert [each.path for each in done.conflicts] == ["alternatives/editor"]


def test_a_service_turned_off_stays_off_whatever_number_the_image_gives_it() -> None:
    base = {"rc3.d": {"S01foo": link("../init.d/foo"), "S01bar": link("../init.d/bar")}}
    ours = {"rc3.d": {"K01foo": link("../init.d/foo"), "S01bar": link("../init.d/bar")}}
    theirs = {"rc3.d": {"S05foo": link("../init.d/foo"), "S02bar": link("../init.d/bar")}}
    assert sorted(outcome(base, ours, theirs)) == ["rc3.d", "rc3.d/K01foo", "rc3.d/S02bar"]


def test_what_belongs_to_another_distribution_is_left_behind() -> None:
    rules = IDENTITY._replace(is_foreign=True)
    base = {"pam.d/sshd": "1", "dracut.conf.d": {}, "f": "1"}
    ours = {"pam.d/sshd": "me", "dracut.conf.d/mine.conf": "me", "f": "me"}
    theirs = {"pam.d/sshd": "2", "f": "1"}
    done = merge(base, ours, theirs, rules)
    assert flat(done.tree) == {"pam.d": None, "pam.d/sshd": b"2", "f": b"me"}
    assert {(each.path, each.action) for each in done.conflicts} == {("pam.d", LEFT), ("dracut.conf.d", LEFT)}
    assert not any(each.is_blocking for each in done.conflicts)


def test_generated_files_are_the_images_and_notes_of_programs_are_not_carried() -> None:
    ours = {"ld.so.cache": "me", ".updated": "now", "os-release": "me", "passwd-": "me"}
    assert outcome({"ld.so.cache": "1", "os-release": "1"}, ours, {"ld.so.cache": "2", "os-release": "2"}) == {
        "ld.so.cache": b"2",
        "os-release": b"2",
        "passwd-": b"me",
    }


def test_names_and_kinds_that_are_rare_come_through() -> None:
    ours = {"caf\udce9": "me", "pipe": Node(FIFO, Meta(0o600)), "dangling": link("/no/where"), "a\nb": "me"}
    done = merge({"caf\udce9": "1"}, ours, {"caf\udce9": "2"})
    assert done.tree.children["pipe"].kind == FIFO
    assert flat(done.tree)["dangling"] == "-> /no/where"
    assert [each.path for each in done.conflicts] == ["caf\\xe9"], "printable, and valid in JSON"


def test_a_merged_file_keeps_the_hosts_attributes() -> None:
    done = merge({"sysctl.conf": "a=1\n"}, {"sysctl.conf": file("a=1\nb=1\n", 0o600)}, {"sysctl.conf": "a=2\n"})
    assert flat(done.tree) == {"sysctl.conf": b"a=2\nb=1\n"}
    assert dressed(done.tree)["sysctl.conf"].mode == 0o600
    assert (done.merged, done.conflicts) == (1, ())


def test_a_key_both_changed_is_named() -> None:
    done = merge({"sysctl.conf": "a=1\n"}, {"sysctl.conf": "a=2\n"}, {"sysctl.conf": "a=3\n"})
    assert flat(done.tree) == {"sysctl.conf": b"a=2\n", "sysctl.conf.new": b"a=3\n"}
    assert done.conflicts[0].action == BESIDE + ": a"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("passwd", "users"),
        ("passwd-", "local"),
        ("sysctl.d/10-x.conf", "pairs"),
        ("systemd/system/x.target.wants/y.service", "links"),
        ("systemd/system/x.service.d/o.conf", "pairs"),
        ("containerd/config.toml", "toml"),
        ("crictl.yaml", "yaml"),
        ("security/limits.d/x.conf", "limits"),
        ("ssl/certs/ca-certificates.crt", "certificates"),
        ("ssl/certs/0a1b.0", "links"),
        ("rc3.d", "runlevels"),
        ("ssh/sshd_config", "file"),
        (".updated", "fresh"),
        ("os-release.d", "file"),
    ],
)
def test_kinds_by_path(path: str, kind: str) -> None:
    assert kind_of(path) == kind
