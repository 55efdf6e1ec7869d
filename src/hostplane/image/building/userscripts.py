"""Steps of the user's own, before and after any stage.

A step in the image's root is run from its /run, which is no part of the image, and finds the stage's results at $OUT;
one on the building machine finds the root at $ROOT. Both get what the recipe gives them and nothing of the caller's
environment; secrets come from the caller by name and reach no key and no log.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from hostplane.errors import ImageError
from hostplane.image.building import mounts
from hostplane.image.building.digests import source_digest, text_digest
from hostplane.image.recipe import Recipe, Script, ScriptPlace, StageName
from hostplane.image.stage import Inputs, Work

__all__ = ["run_scripts", "script_inputs", "secret_names", "secret_values"]

_INSIDE = Path("/run/hostplane-build")
_PLAIN = ["/bin/sh", "-eu"]


def script_inputs(recipe: Recipe, stage: StageName) -> list[Inputs]:
    """What the scripts around `stage` add to its inputs."""
    return [
        {
            "name": script.name,
            "when": script.when,
            "place": script.place.value,
            "digest": source_digest(script.source) if script.source else text_digest(script.content or ""),
            "environment": dict(script.environment),
            "secrets": list(script.secrets),
            "network": script.network,
        }
        for script in recipe.script
        if script.stage is stage
    ]


def secret_names(recipe: Recipe) -> Iterator[str]:
    """The environment variables whose values may be written nowhere."""
    for script in recipe.script:
        yield from script.secrets
    for repository in recipe.packages.repositories:
        if repository.password_env:
            yield repository.password_env


def secret_values(recipe: Recipe) -> list[str]:
    """Their values, as far as they are set."""
    return [os.environ[name] for name in secret_names(recipe) if os.environ.get(name)]


def run_scripts(work: Work, stage: StageName, when: str) -> None:
    """Run the recipe's scripts `when` ("before" or "after") `stage`, in the recipe's order.

    Raises:
        ImageError: ScriptFailed, SecretMissing.
    """
    for script in work.recipe.script:
        if script.stage is stage and script.when == when:
            work.progress(0.0 if when == "before" else 1.0, f"script {script.name}")
            _run(work, script)


def _run(work: Work, script: Script) -> None:
    content = Path(script.source).read_bytes() if script.source else (script.content or "").encode()
    environment = {**script.environment, **_secrets(script)}
    with ExitStack() as held:
        if script.place is ScriptPlace.CHROOT:
            held.enter_context(mounts.api_mounts(work.root, resolver=script.network))
            inside = work.root / _INSIDE.relative_to("/")
            (inside / "out").mkdir(parents=True)
            mounts.mount(str(work.out), inside / "out", "", mounts.MS_BIND)
            held.callback(_put_away, inside)
            environment |= {"ROOT": "/", "OUT": str(_INSIDE / "out")}
            file, seen = inside / "script", _INSIDE / "script"
        else:
            environment |= {"ROOT": str(work.root), "OUT": str(work.out)}
            file = seen = work.scratch / "script"
        file.write_bytes(content)
        file.chmod(0o755)
        try:
            work.run(
                [str(seen)] if content.startswith(b"#!") else [*_PLAIN, str(seen)],
                chroot=script.place is ScriptPlace.CHROOT,
                network=script.network,
                env=environment,
                timeout=script.timeout_seconds,
                cwd=None if script.place is ScriptPlace.CHROOT else work.scratch,
            )
        except ImageError as error:
            params = error.reason.params
            if error.name == "ToolFailed":
                raise ImageError("ScriptFailed", **{**params, "script": script.name}) from error
            raise ImageError(error.name, **{**params, "tool": f"script {script.name}"}) from error
        finally:
            file.unlink(missing_ok=True)


def _put_away(inside: Path) -> None:
    mounts.umount(inside / "out")
    (inside / "out").rmdir()
    inside.rmdir()


def _secrets(script: Script) -> dict[str, str]:
    missing = [name for name in script.secrets if name not in os.environ]
    if missing:
        raise ImageError("SecretMissing", script=script.name, names=", ".join(missing))
    return {name: os.environ[name] for name in script.secrets}
