"""User databases: who is there afterwards, with which number, and what that means for owners elsewhere."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hostplane.agent.etc.users import FILES, Moved, UsersMerge, merge_users

PASSWD = "root:x:0:0:root:/root:/bin/sh\nchrony:x:105:105::/var/lib/chrony:/bin/false\n"
GROUP = "root:x:0:\nsudo:x:27:\nchrony:x:105:\n"
SHADOW = "root:*:1:0:99999:7:::\nchrony:!:1:0:99999:7:::\n"


def merged(**sides: tuple[str, str, str]) -> tuple[dict[str, str], UsersMerge]:
    """Missing files are the same on every side."""
    usual = {"passwd": PASSWD, "group": GROUP, "shadow": SHADOW, "gshadow": "", "subuid": "", "subgid": ""}
    files = {}
    for name in FILES:
        base, ours, theirs = sides.get(name, (usual[name],) * 3)
        files[name] = (base.encode(), ours.encode(), theirs.encode())
    done = merge_users(files)
    return {name: content.decode() for name, content in done.files.items()}, done


def test_untouched_databases_are_the_images_to_the_byte() -> None:
    theirs = PASSWD + "new:x:106:106:::\n"
    files, done = merged(passwd=(PASSWD, PASSWD, theirs))
    assert files["passwd"] == theirs
    assert done.moved == []


def test_new_system_users_come_in_and_the_administrators_stay() -> None:
    mine, group = "ops:x:1000:1000:Ops:/home/ops:/bin/bash\n", "ops:x:1000:\n"
    files, done = merged(
        passwd=(PASSWD, PASSWD + mine, PASSWD + "new:x:106:106:::\n"),
        group=(GROUP, GROUP.replace("sudo:x:27:", "sudo:x:27:ops") + group, GROUP + "new:x:106:\n"),
        shadow=(SHADOW, SHADOW + "ops:$6$x:1:0:99999:7:::\n", SHADOW + "new:!:1::::::\n"),
    )
    assert files["passwd"] == PASSWD + "new:x:106:106:::\n" + mine
    assert files["group"] == GROUP.replace("sudo:x:27:", "sudo:x:27:ops") + "new:x:106:\n" + group
    assert files["shadow"] == SHADOW + "new:!:1::::::\nops:$6$x:1:0:99999:7:::\n"
    assert done.moved == []
    assert done.conflicts == []


def test_a_password_and_a_shell_that_the_host_set_stay() -> None:
    files, done = merged(
        shadow=(SHADOW, SHADOW.replace("root:*:1", "root:$6$mine:9"), SHADOW.replace(":1:", ":2:")),
        passwd=(PASSWD, PASSWD.replace("/bin/sh", "/bin/zsh"), PASSWD.replace("::/var", ":Time:/var")),
    )
    assert files["shadow"] == "root:$6$mine:9:0:99999:7:::\nchrony:!:2:0:99999:7:::\n"
    assert files["passwd"] == PASSWD.replace("/bin/sh", "/bin/zsh").replace("::/var", ":Time:/var")
    assert done.conflicts == [("shadow", "root")]


def test_a_system_users_new_number_holds_and_is_told() -> None:
    files, done = merged(
        passwd=(PASSWD, PASSWD + "ops:x:1000:105::/home/ops:/bin/sh\n", PASSWD.replace("105:105", "107:108")),
        group=(GROUP, GROUP, GROUP.replace("105", "108")),
    )
    assert "chrony:x:107:108:" in files["passwd"]
    assert "ops:x:1000:108:" in files["passwd"], "a primary group is the group, not its number"
    assert sorted(done.moved) == [Moved("gid", "chrony", 105, 108), Moved("uid", "chrony", 105, 107)]
    assert done.numbers[1].uids[105] == 107
    assert done.numbers[2].uids[107] == 107


def test_a_local_user_whose_number_the_image_needs_gets_a_free_one() -> None:
    files, done = merged(
        passwd=(PASSWD, PASSWD + "mine:x:106:27::/srv/mine:/bin/sh\n", PASSWD + "new:x:106:106:::\n"),
        group=(GROUP, GROUP, GROUP + "new:x:106:\n"),
    )
    assert "new:x:106:106" in files["passwd"]
    assert "mine:x:999:27:" in files["passwd"]
    assert done.moved == [Moved("uid", "mine", 106, 999)]


def test_exchanged_numbers_are_told_one_by_one() -> None:
    two = "a:x:101:101:::\nb:x:102:102:::\n"
    swapped = "a:x:102:101:::\nb:x:101:102:::\n"
    _, done = merged(passwd=(two, two, swapped), group=("", "", ""), shadow=("", "", ""))
    assert sorted(done.moved) == [Moved("uid", "a", 101, 102), Moved("uid", "b", 102, 101)]


def test_a_second_name_of_root_stays_root() -> None:
    files, done = merged(passwd=(PASSWD, PASSWD + "toor:x:0:0::/root:/bin/zsh\n", PASSWD + "new:x:9:9:::\n"))
    assert "toor:x:0:0:" in files["passwd"]
    assert done.moved == []


def test_a_user_that_the_image_dropped_goes_unless_the_host_used_it() -> None:
    old = PASSWD + "old:x:110:110:::\n"
    gone, _ = merged(passwd=(old, old, PASSWD), shadow=(SHADOW + "old:!:1::::::\n",) * 2 + (SHADOW,))
    assert "old" not in gone["passwd"] + gone["shadow"]
    kept, _ = merged(
        passwd=(old, old, PASSWD),
        shadow=(SHADOW + "old:!:1::::::\n", SHADOW + "old:$6$x:1::::::\n", SHADOW),
    )
    assert "old:x:110:110" in kept["passwd"]
    assert "old:$6$x" in kept["shadow"]


def test_a_user_that_the_host_deleted_stays_deleted() -> None:
    files, _ = merged(
        passwd=(PASSWD, PASSWD.split("chrony")[0], PASSWD), shadow=(SHADOW, SHADOW.split("chrony")[0], SHADOW)
    )
    assert "chrony" not in files["passwd"] + files["shadow"]


def test_members_of_a_group_come_and_go_on_both_sides() -> None:
    def sudo(members: str) -> str:
        return GROUP.replace("sudo:x:27:", "sudo:x:27:" + members)

    files, _ = merged(group=(sudo("a,b"), sudo("b,c"), sudo("a,b,d")))
    assert files["group"] == sudo("b,d,c")


def test_a_number_the_administrator_chose_stays() -> None:
    files, done = merged(passwd=(PASSWD, PASSWD.replace("105:105", "700:105"), PASSWD.replace("105:105", "107:105")))
    assert "chrony:x:700:105" in files["passwd"]
    assert done.moved == []
    assert done.numbers[2].uids[107] == 700, "the image's own files are the user's"


def test_ranges_that_overlap_stay_out() -> None:
    mine, new = "ops:100000:65536\n", "new:100000:65536\n"
    users = PASSWD + "ops:x:1000:27:::\n"
    files, done = merged(passwd=(PASSWD, users, PASSWD + "new:x:106:27:::\n"), subuid=("", mine, new))
    assert files["subuid"] == mine
    assert done.conflicts == [("subuid", "new")]


def test_lines_of_no_known_form_stay_and_rubbish_hurts_nobody() -> None:
    files, _ = merged(passwd=(PASSWD, PASSWD + "+nis::::::\n\xff\x00:::\n", PASSWD + "new:x:106:27:::\n"))
    assert files["passwd"].endswith("new:x:106:27:::\n+nis::::::\n\xff\x00:::\n")


ROWS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 8), max_size=6).filter(
    lambda numbers: len(set(numbers.values())) == len(numbers)
)


@settings(max_examples=150, deadline=None)
@given(base=ROWS, ours=ROWS, theirs=ROWS)
def test_nobody_gets_somebody_elses_number(base: dict[str, int], ours: dict[str, int], theirs: dict[str, int]) -> None:
    def passwd(numbers: dict[str, int]) -> str:
        return "".join(f"{name}:x:{number}:0:::\n" for name, number in numbers.items())

    files, done = merged(passwd=(passwd(base), passwd(ours), passwd(theirs)), group=("", "", ""), shadow=("", "", ""))
    after = {line.split(":")[0]: int(line.split(":")[2]) for line in files["passwd"].splitlines()}
    assert len(set(after.values())) == len(after)
    assert {moved.name: moved.new for moved in done.moved} == {
        name: after[name] for name in ours if name in after and after[name] != ours[name]
    }
    for name, number in theirs.items():
        if name in after and after[name] != number:
            assert ours.get(name) == after[name] != base.get(name), "only the administrator's own choice"
    assert set(after) >= set(ours) - set(base), "the host's own stay"
    assert set(after) >= set(theirs) - set(base), "the image's new ones come in"


def test_a_primary_group_without_a_name_stays_the_number_it_is() -> None:
    files, _ = merged(
        passwd=(PASSWD, PASSWD + "ops:x:1000:4242:::\n", PASSWD + "new:x:106:4343:::\n"),
        group=(GROUP, GROUP.replace("root:x:0:\n", ""), GROUP),
    )
    assert "ops:x:1000:4242:" in files["passwd"]
    assert "new:x:106:4343:" in files["passwd"]
    assert "root:x:0:0:" in files["passwd"], "also where the host has taken the group away"
