"""`hostplane image osimage`: the OSImage of a bundle, for `kubectl apply`."""

from __future__ import annotations

from pathlib import Path

import click

from hostplane.cli.options import json_option

__all__ = ["command"]


@click.command(name="osimage", short_help="Print the OSImage of a bundle, for kubectl apply.")
@click.argument("bundles", metavar="OUT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--ref",
    "refs",
    multiple=True,
    required=True,
    help="Where hosts fetch the bundle: oci://HOST/REPOSITORY:TAG, http(s)://HOST/DIRECTORY/, file:///DIRECTORY.",
)
@click.option("--name", default="", help="Name of the OSImage (default: name and version of the image).")
@json_option
def command(bundles: tuple[Path, ...], refs: tuple[str, ...], name: str, as_json: bool) -> None:
    """Print the OSImage that names the bundle in OUT, a build's directory or the bundle's own.

    Digest, size, versions and signatures are read from the bundle; only its address is yours to say. For several
    architectures give one OUT and one --ref for each, in the same order.

    \b
        skopeo copy --all oci:build/node-2.0-x86_64/bundle docker://registry.example/node:2.0
        hostplane image osimage build/node-2.0-x86_64 --ref oci://registry.example/node:2.0 | kubectl apply -f -
    """
    from hostplane.image.bundle.inspection import bundle_of, inspect
    from hostplane.image.bundle.release import osimage

    if len(bundles) != len(refs):
        raise click.UsageError(f"{len(bundles)} bundles need as many --ref, not {len(refs)}.")
    pairs = [(inspect(bundle_of(path)), ref) for path, ref in zip(bundles, refs, strict=True)]
    manifest = osimage(pairs, name)
    if as_json:
        from hostplane.cli.output import print_json

        print_json(manifest)
        return
    import yaml

    click.echo(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True), nl=False)
