"""Accounts are edited as text, without asking any program."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostplane.errors import ImageError
from hostplane.image.recipe import User
from hostplane.image.root.accounts import Accounts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/usr/sbin/nologin\n")
    (etc / "group").write_text("root:x:0:\ndaemon:x:1:\nsudo:x:27:\n")
    (etc / "shadow").write_text("root:*:19000:0:99999:7:::\n")
    (etc / "gshadow").write_text("root:*::\nsudo:*::\n")
    return tmp_path


def read(root: Path, name: str) -> list[str]:
    return (root / "etc" / name).read_text().splitlines()


def test_a_new_user_gets_the_lowest_free_ids_and_no_password(root: Path) -> None:
    accounts = Accounts(root, 20000)
    accounts.add(User(name="ann", groups=("sudo",)))
    accounts.add(User(name="bob", password_hash="$6$x", uid=2000))
    accounts.write()
    assert read(root, "passwd")[2:] == [
        "ann:x:1000:1000:ann:/home/ann:/bin/bash",
        "bob:x:2000:2000:bob:/home/bob:/bin/bash",
    ]
    assert read(root, "group")[2:] == ["sudo:x:27:ann", "ann:x:1000:", "bob:x:2000:"]
    assert read(root, "shadow")[1:] == ["ann:*:20000:0:99999:7:::", "bob:$6$x:20000:0:99999:7:::"]
    assert read(root, "gshadow")[1:] == ["sudo:*::ann", "ann:!::", "bob:!::"]


def test_an_account_that_is_there_keeps_what_the_recipe_does_not_name(root: Path) -> None:
    accounts = Accounts(root, 20000)
    accounts.add(User(name="root", password_hash="$6$y"))
    accounts.add(User(name="root"))
    accounts.write()
    assert read(root, "passwd")[0] == "root:x:0:0:root:/root:/bin/sh"
    assert read(root, "shadow") == ["root:$6$y:20000:0:99999:7:::"]


def test_an_id_that_is_taken_is_refused(root: Path) -> None:
    accounts = Accounts(root, 1)
    with pytest.raises(ImageError, match="belongs to daemon") as caught:
        accounts.add(User(name="ann", uid=1))
    assert caught.value.name == "AccountIdTaken"
    with pytest.raises(ImageError) as caught:
        accounts.add(User(name="daemon", uid=7))
    assert caught.value.name == "AccountIdTaken"


def test_a_group_that_is_not_there_is_refused(root: Path) -> None:
    accounts = Accounts(root, 1)
    for user in (User(name="ann", groups=("wheel",)), User(name="ann", primary_group="wheel")):
        with pytest.raises(ImageError) as caught:
            accounts.add(user)
        assert caught.value.name == "AccountUnknown"


def test_owners_are_names_of_the_image_or_numbers(root: Path) -> None:
    accounts = Accounts(root, 1)
    assert accounts.ids("daemon", "sudo") == (1, 27)
    assert accounts.ids("12", "34") == (12, 34)
    with pytest.raises(ImageError):
        accounts.ids("nobody-here", "root")


def test_a_root_without_accounts_gets_them(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path, 5)
    assert accounts.ids("root", "root") == (0, 0)
    accounts.add(User(name="root", uid=0, primary_group=None, password_hash="$6$z"))
    accounts.write()
    assert read(tmp_path, "passwd") == ["root:x:0:0:root:/root:/bin/bash"]
    assert (tmp_path / "etc/shadow").stat().st_mode & 0o777 == 0o640
