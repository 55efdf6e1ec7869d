"""`hostplane image schema`: the JSON schema of a recipe, for editors."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command(name="schema", short_help="Print the JSON schema of a recipe, for editors.")
def command() -> None:
    """Print the JSON schema of a recipe: editors complete keys and mark mistakes with it.

    The same text is docs/reference/recipe.schema.json; docs/how-to/recipes.md says how an editor is told about it.
    """
    from hostplane.image.reading.schema import schema

    click.echo(schema(), nl=False)
