"""`recipe`: the presets as texts, and whether a file is right."""

from __future__ import annotations

import json

from seqdistill.recipe.presets import preset_names, show_preset
from seqdistill.recipe.resolving import read_recipe
from seqdistill.recipe.schema import Recipe

from .conftest import Program


def test_list_names_every_preset_with_its_line(program: Program) -> None:
    lines = program("recipe", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == preset_names()
    assert all(len(line.split()) > 3 for line in lines)


def test_show_prints_the_very_text(program: Program) -> None:
    assert program("recipe", "show", "seq_kd").stdout == show_preset("seq_kd")


def test_schema_is_the_recipe_s(program: Program) -> None:
    schema = json.loads(program("recipe", "schema").stdout)
    assert set(schema["properties"]) == set(Recipe.model_fields)


def test_resolved_recipe_reads_back_as_the_same(program: Program, recipe_file: str) -> None:
    answer = program("recipe", "check", recipe_file, "--resolved", "max_steps=500")
    with open("resolved.yaml", "w", encoding="utf-8") as stream:
        stream.write(answer.stdout)
    expected = read_recipe(recipe_file, ["training.steps=500"])
    assert read_recipe("resolved.yaml") == expected
