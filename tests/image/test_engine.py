"""Stages run when what decides them changed, once, and say why."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from hostplane.image.recipe import StageName
from tests.image.tiny import Tiny, events, until

STAGES = [stage.value for stage in StageName]


def _layer(tiny: Tiny, stage: str) -> Path:
    said = json.loads((tiny.store / f"recipes/tiny/{stage}.json").read_text())
    return tiny.store / "layers" / said["key"]


def test_nothing_changed_makes_nothing_and_is_quick(tiny: Tiny) -> None:
    assert set(tiny.how().values()) == {"made"}
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert set(tiny.how().values()) == {"cached"}
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime < 2.0  # it waits for nothing else


def test_a_changed_file_makes_the_stages_from_files_on_but_not_boot(tiny: Tiny) -> None:
    tiny.write('[[file]]\npath = "/etc/motd"\ncontent = "one"\n')
    tiny.build()
    tiny.write('[[file]]\npath = "/etc/motd"\ncontent = "two"\n')
    made = [stage for stage, how in tiny.how().items() if how == "made"]
    assert made == ["files", "scripts", "slim", "seal", "pack"]


def test_a_file_that_an_initramfs_can_hold_makes_boot_again(tiny: Tiny) -> None:
    tiny.build()
    tiny.write('[[file]]\npath = "/usr/bin/x"\ncontent = "two"\n')
    assert tiny.how()["boot"] == "made"


def test_an_output_that_was_changed_in_place_is_made_anew(tiny: Tiny) -> None:
    tiny.build()
    tar = tiny.out / "root.tar"
    was = tar.read_bytes()
    with tar.open("ab") as file:
        file.write(b"changed by hand")
    made = [stage for stage, how in tiny.how().items() if how == "made"]
    assert made == ["pack"]
    assert tar.read_bytes() == was
    tar.unlink()
    assert set(tiny.how().values()) == {"cached"}
    assert tar.read_bytes() == was


def test_explain_names_the_input(tiny: Tiny) -> None:
    tiny.write('[sysctl]\n"vm.swappiness" = 1\n')
    tiny.build("--until", "scripts")
    tiny.write('[sysctl]\n"vm.swappiness" = 2\n')
    command = [word for word in tiny.command("--until", "scripts", "--explain") if word != "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "sysctl.vm.swappiness: 1 -> 2" in done.stderr
    assert "files changed" in done.stderr
    assert "packages   cached" in done.stderr


def test_force_makes_a_stage_again_and_what_builds_on_it(tiny: Tiny) -> None:
    tiny.build("--until", "slim")
    made = [stage for stage, how in tiny.how("--until", "slim", "--force", "scripts").items() if how == "made"]
    assert made == ["scripts", "slim"]


def test_from_takes_what_was_built_before_as_it_is(tiny: Tiny) -> None:
    tiny.build("--until", "scripts")
    (tiny.here / "root/etc/new").write_text("changes the bootstrap's inputs")
    how = tiny.how("--from", "files", "--until", "scripts")
    assert how == {"bootstrap": "kept", "packages": "kept", "files": "cached", "scripts": "cached"}
    refused = Tiny(tiny.here / "other").build("--from", "files", expect=1)
    assert "HP-8093" in refused.stderr


def test_two_builds_at_once_make_each_stage_once(tiny: Tiny) -> None:
    with ThreadPoolExecutor(2) as pool:
        done = [job.result() for job in [pool.submit(tiny.build, "-o", str(tiny.here / f"o{n}")) for n in (1, 2)]]
    made = [event["stage"] for one in done for event in events(one, "made")]
    assert sorted(made) == sorted(STAGES)


def test_a_build_waits_for_another_that_makes_its_stage_and_survives_its_death(tiny: Tiny) -> None:
    tiny.write(tiny.holds(("before", "files")))
    with tiny.held("before", "files") as first:
        log = tiny.here / "second.log"
        with log.open("wb") as out:
            second = subprocess.Popen(tiny.command(), stdout=out, stderr=subprocess.STDOUT)
        until(lambda: b'"waiting"' in log.read_bytes() or second.poll() is not None, "the second did not wait")
        first.kill()
        assert second.wait(60) == 0, log.read_text()
    assert b'"stage":"packages"' in log.read_bytes()


def test_a_script_sees_what_it_was_given_and_nothing_else(tiny: Tiny) -> None:
    tiny.write(
        """
[[script]]
name = "inside"
environment = { GIVEN = "yes" }
secrets = ["TOKEN"]
content = '''
env > /etc/seen
cat /proc/1/environ > /etc/first
echo "the token is $TOKEN"
echo inside > $OUT/inside
cat /proc/net/dev > /etc/network
rm -f /nothing
'''
[[script]]
name = "outside"
place = "host"
when = "before"
content = "#!/bin/sh\\necho outside > $ROOT/etc/outside"
"""
    )
    tiny.build("--until", "scripts", env={"TOKEN": "hunter2-secret", "CALLERS": "own"})
    layer = _layer(tiny, "scripts")
    seen = (layer / "tree/etc/seen").read_text()
    assert "GIVEN=yes" in seen
    assert "SOURCE_DATE_EPOCH=" in seen
    assert "CALLERS" not in seen
    assert "CALLERS" not in (layer / "tree/etc/first").read_text()
    assert (layer / "tree/etc/outside").read_text() == "outside\n"
    assert (layer / "out/inside").read_text() == "inside\n"
    assert "eth" not in (layer / "tree/etc/network").read_text()
    log = (layer / "log").read_text()
    assert "the token is ***" in log
    assert not (layer / "tree/run").exists()
    found = subprocess.run(["grep", "-rl", "hunter2", str(tiny.store)], capture_output=True, text=True, check=False)
    assert found.stdout.split() == [str(layer / "tree/etc/seen")], "only where the script itself put it"


def test_a_script_has_the_network_only_where_the_recipe_allows_it(tiny: Tiny) -> None:
    look = "cat /proc/net/dev > /etc/dev; cat /etc/resolv.conf > /etc/seen"
    tiny.write(f'[[script]]\nname = "online"\nnetwork = true\ncontent = "{look}"\n')
    tiny.build("--until", "scripts")
    tree = _layer(tiny, "scripts") / "tree/etc"
    here = [line.split(":")[0] for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    assert [line.split(":")[0] for line in (tree / "dev").read_text().splitlines()[2:]] == here
    assert (tree / "seen").read_bytes() == Path("/etc/resolv.conf").read_bytes()
    assert not (tree / "resolv.conf").exists(), "the machine's name servers are no part of the image"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system for the store")
def test_a_full_disk_is_said_as_such(tiny: Tiny) -> None:
    (tiny.here / "large").write_bytes(bytes(16 << 20))
    tiny.write('[[file]]\npath = "/large"\nsource = "large"\n')
    tiny.store.mkdir()
    small = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=12m tmpfs "$0" && exec "$@"', str(tiny.store)]
    done = subprocess.run([*small, *tiny.command()], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "HP-8104" in done.stderr


def test_a_failed_script_shows_its_last_lines_and_its_log(tiny: Tiny) -> None:
    tiny.write(
        '[[script]]\nname = "broken"\nsecrets = ["TOKEN"]\ncontent = "echo one\\necho two $TOKEN >&2\\nexit 7"\n'
    )
    command = [word for word in tiny.command("--until", "scripts") if word != "--json"]
    env = {**os.environ, "TOKEN": "hunter2-secret"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "broken ended with exit code 7: two ***" in done.stderr
    assert "    one\n" in done.stderr
    log = Path(done.stderr.rsplit("Read ", 1)[1].strip().rstrip("."))
    assert "two ***" in log.read_text()
    assert "hunter2" not in done.stdout + done.stderr + log.read_text()


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ('content = "sleep 60"\ntimeout_seconds = 1', "HP-8083"),
        ('content = "#!/bin/nothing\\ntrue"', "HP-8081"),
        ('content = "exit 1"\nstage = "bootstrap"\nplace = "host"\nwhen = "before"', "HP-8086"),
    ],
)
def test_what_is_wrong_with_a_script_is_said(tiny: Tiny, script: str, code: str) -> None:
    tiny.write(f'[[script]]\nname = "wrong"\n{script}\n')
    done = tiny.build("--until", "scripts", expect=1)
    assert code in done.stderr
    assert "wrong" in done.stderr


def test_tools_use_as_many_processors_as_allowed(tiny: Tiny) -> None:
    tiny.write('[[script]]\nname = "count"\nplace = "host"\ncontent = "nproc > $OUT/count"\n')
    tiny.build("--until", "scripts", "--jobs", "1")
    assert (_layer(tiny, "scripts") / "out/count").read_text() == "1\n"


def test_a_script_around_boot_keeps_what_it_changes(tiny: Tiny) -> None:
    tiny.write('[[script]]\nname = "late"\nstage = "boot"\nwhen = "before"\ncontent = "echo x > /etc/late"\n')
    tiny.build("--until", "slim")
    assert (_layer(tiny, "boot") / "tree/etc/late").exists()
    tiny.write()
    tiny.build("--until", "slim")
    assert list((_layer(tiny, "boot") / "tree").iterdir()) == []


def test_prune_leaves_a_running_build_alone(tiny: Tiny) -> None:
    tiny.write(tiny.holds(("before", "scripts")))
    prune = [*tiny.command()[:3], "image", "store", "prune", "--all", "--json", "--store", str(tiny.store)]
    with tiny.held("before", "scripts"):
        done = subprocess.run(prune, capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(done.stdout) == {"removed": 0, "bytes": 0, "in_use": 3}
    done = subprocess.run(prune, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["removed"] == 3
    assert list((tiny.store / "tmp").iterdir()) == []


def test_the_builder_itself_stays_small(tiny: Tiny) -> None:
    tiny.write(tiny.holds(("after", "files")))
    with tiny.held("after", "files") as process:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert sum(one.memory_info().rss for one in family) < 300 << 20
