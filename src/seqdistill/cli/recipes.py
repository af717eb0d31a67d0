"""The commands on recipes as texts: `recipe list`, `show`, `check`, `schema`. Trains nothing."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from seqdistill.cli.failures import ExplainingGroup
from seqdistill.cli.options import ANY_OPTION, Arguments, argument, read_words
from seqdistill.cli.screen import echo, say_aligned
from seqdistill.core.errors import UserError

recipes = typer.Typer(cls=ExplainingGroup, help="List, show and check recipes.")


@recipes.command("list")
def list_recipes() -> None:
    """List the presets, each with a description."""
    from seqdistill.recipe.presets import list_presets

    say_aligned(list_presets())


@recipes.command()
def show(
    name: Annotated[str, argument("NAME", "A preset's name.")],
) -> None:
    """Show the commented YAML of a preset, to copy and change."""
    from seqdistill.recipe.presets import show_preset

    echo(show_preset(name).rstrip("\n"))


@recipes.command(context_settings=ANY_OPTION)
def check(
    file: Annotated[str, argument("FILE", "A YAML file, or a preset's name.")],
    settings: Arguments = None,
    *,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print every setting, defaults included.")
    ] = False,
) -> None:
    """Validate a recipe: every error with file, line and key."""
    from seqdistill.recipe.loading import load_recipe
    from seqdistill.recipe.systems import output_folder
    from seqdistill.recipe.writing import write_recipe

    given = read_words([file, *(settings or [])])
    if len(given.positional) != 1:
        raise UserError(
            f"FILE must be one recipe, got {len(given.positional)}: "
            f"{' '.join(given.positional)!r}; settings read key=value or --key value"
        )
    name = given.positional[0]
    checked = load_recipe(name, given.overrides)
    if resolved:
        echo(write_recipe(checked).rstrip("\n"))
        return
    trains = ", ".join(checked.compare) or checked.method
    echo(f"{name} is valid; it trains {trains} into {output_folder(checked)}")


@recipes.command()
def schema(
    file: Annotated[
        str | None, argument("FILE", "A recipe whose plug-ins belong to the schema, too.")
    ] = None,
) -> None:
    """Print the JSON schema of recipe files, for editors that complete and check."""
    from seqdistill.recipe.resolving import resolve
    from seqdistill.recipe.writing import json_schema

    if file is not None:
        resolve(file, [])
    echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
