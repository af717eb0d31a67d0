"""A recipe as text: commented YAML that reads back as the same recipe, and a schema for editors.

The comments are the docstrings of `schema`, so that they cannot fall behind it.
"""

from __future__ import annotations

import textwrap

import yaml

from seqdistill.recipe.documents import RecipeDumper
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sections import Section

_WIDTH = 98


def write_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every setting, each under the comment that explains it.

    `resolving.read_recipe` of this text gives an equal recipe.
    """
    return "\n".join(_section_lines(recipe, indent=0)) + "\n"


def json_schema() -> dict[str, object]:
    """The JSON schema of recipe files, with descriptions, for editors that complete and check."""
    schema: dict[str, object] = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema.update(Recipe.model_json_schema())
    return schema


def _section_lines(section: Section, *, indent: int) -> list[str]:
    lines: list[str] = []
    plain, margin = section.model_dump(mode="json"), " " * indent
    for name, field in type(section).model_fields.items():
        value: object = getattr(section, name)
        if isinstance(value, Section) and isinstance(field.default, Section):
            lines += ["", *_comment(type(value).__doc__, indent), f"{margin}{name}:"]
            lines += _section_lines(value, indent=indent + 2)
            continue
        lines += _comment(field.description, indent)
        if isinstance(value, tuple) and any(isinstance(item, Section) for item in value):
            items = [item.model_dump(exclude_defaults=True) for item in value]
            lines += [f"{margin}{name}:", *(f"{margin}- {_flow(item)}" for item in items)]
        else:
            lines.append(f"{margin}{name}: {_flow(plain[name])}")
    return lines


def _comment(text: str | None, indent: int) -> list[str]:
    margin = " " * indent + "# "
    return textwrap.wrap(
        " ".join((text or "").split()),
        width=_WIDTH,
        initial_indent=margin,
        subsequent_indent=margin,
        break_on_hyphens=False,
    )


def _flow(value: object) -> str:
    """The value on one line, quoted where it would be read as something else."""
    text = yaml.dump(
        value,
        Dumper=RecipeDumper,
        default_flow_style=True,
        allow_unicode=True,
        sort_keys=False,
        width=10**9,
    )
    return text.removesuffix("\n").removesuffix("\n...")
