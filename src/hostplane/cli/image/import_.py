"""`hostplane image import`: a KubeOS builder's configuration as a recipe."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command(name="import", short_help="Turn a kbimg.toml of KubeOS into a recipe.")
@click.argument("kbimg", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "directory",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("."),
    show_default=True,
    help="Where recipe.toml is written.",
)
@click.option("--name", default="kubeos", show_default=True, help="Name of the image.")
@click.option("--distro", default="openEuler", show_default=True, help="Distribution that its packages are of.")
@click.option("--release", help="Release (default: what the repositories' addresses say, else the newest known).")
@click.option("--arch", type=click.Choice(["x86_64", "aarch64"]), help="Processor (default: this machine's).")
@click.option("--force", is_flag=True, help="Replace a recipe.toml that is there.")
def command(
    kbimg: Path, directory: Path, name: str, distro: str, release: str | None, arch: str | None, force: bool
) -> None:
    """Turn KBIMG, the file that `kbimg create -f` takes, into DIR/recipe.toml.

    What could not be carried over is said on standard error and as comments at the head of the recipe. Plain
    passwords are hashed; the plain ones are not written anywhere.
    """
    from hostplane.image.reading.importer import import_kbimg

    result = import_kbimg(kbimg, directory, name=name, distro=distro, release=release, arch=arch, replace=force)
    for note in result.notes:
        click.echo(f"{note.where}: {note.text}", err=True)
    click.echo(result.recipe)
