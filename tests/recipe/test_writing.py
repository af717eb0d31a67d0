"""A written recipe explains itself and reads back as the same recipe."""

from __future__ import annotations

import pathlib
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdistill.recipe import (
    json_schema,
    preset_names,
    read_recipe,
    write_recipe,
)
from seqdistill.recipe.objective_schema import ObjectiveSection, read_term
from seqdistill.recipe.schema import DataSection, Recipe, StudentSection, TrainingSection
from seqdistill.recipe.schema_errors import all_keys
from seqdistill.recipe.sections import Section
from seqdistill.recipe.sequences_schema import DecodingSection, SequencesSection


def read_back(recipe: Recipe) -> Recipe:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "recipe.yaml"
        path.write_text(write_recipe(recipe), encoding="utf-8")
        return read_recipe(str(path))


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_reads_back_as_itself(name: str) -> None:
    recipe = read_recipe(name, ["training.learning_rate=3e-7", "data.train=no"])
    assert read_back(recipe) == recipe


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12
) | st.sampled_from(
    ["no", "true", "null", "~", "5e-4", "1_0", "0x1f", ".inf", "2024-01-01", "a: b", "# x", "", "="]
)
POSITIVE = st.floats(min_value=1e-30, max_value=1e30)
INNER = st.floats(0, 1, exclude_min=True, exclude_max=True)
NUMBERS = INNER | st.fixed_dictionaries({"start": INNER, "end": INNER})
WEIGHINGS = st.sampled_from(["importance", {"kind": "origin", "origins": ["student"]}])
OF_TERMS: list[st.SearchStrategy[dict[str, object]]] = [
    st.fixed_dictionaries(
        {"divergence": st.just(name), "weight": POSITIVE, **parameters},
        optional={"token_weights": st.lists(WEIGHINGS, max_size=2)},
    )
    for name, parameters in (
        ("negative_log_likelihood", {}),
        ("skew_forward_kl", {"alpha": NUMBERS}),
        (
            "jensen_shannon",
            {"beta": st.floats(0, 1), "scale": st.sampled_from(["raw", "gradient"])},
        ),
    )
]
TERMS = st.one_of(OF_TERMS).map(read_term)
ARCHITECTURES = st.dictionaries(
    TEXTS, TEXTS | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False), max_size=3
)
RECIPES = st.builds(
    Recipe,
    method=TEXTS,
    seed=st.integers(0, 10**18 - 1),
    output_dir=TEXTS,
    data=st.builds(DataSection, train=st.none() | TEXTS, source_column=st.none() | TEXTS),
    student=st.builds(StudentSection, architecture=st.none() | ARCHITECTURES),
    sequences=st.builds(
        SequencesSection,
        decoding=st.builds(DecodingSection, length_penalty=st.floats(-1e9, 1e9), n_best=st.just(3)),
    ),
    objective=st.builds(ObjectiveSection, terms=st.lists(TERMS, min_size=1, max_size=3).map(tuple)),
    training=st.builds(
        TrainingSection,
        learning_rate=POSITIVE,
        patience=st.none() | st.integers(1, 9),
        trackers=st.sampled_from([(), ("tensorboard",)]),
    ),
    compare=st.lists(TEXTS, max_size=2).map(tuple),
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(recipe=RECIPES)
def test_any_recipe_reads_back_as_itself(recipe: Recipe) -> None:
    architecture = recipe.student.architecture or {}
    if any(value in (float("inf"), float("-inf")) for value in architecture.values()):
        return  # refused on reading: a recipe holds finite numbers
    assert read_back(recipe) == recipe


def test_every_setting_stands_under_its_explanation() -> None:
    lines = write_recipe(Recipe()).splitlines()
    for path in all_keys():
        name, depth = path[-1], 2 * (len(path) - 1)
        at = [i for i, line in enumerate(lines) if line.startswith(f"{' ' * depth}{name}:")]
        assert at, f"{name} is not written"
        if name not in {"compare"}:
            assert all(lines[i - 1].strip().startswith("#") for i in at)
    assert max(map(len, lines)) <= 100


def test_every_field_of_the_schema_is_documented() -> None:
    described = json_schema()["$defs"]
    assert isinstance(described, dict)
    pending: list[type[Section]] = [Section]
    while pending:
        section = pending.pop()
        pending.extend(section.__subclasses__())
        if "_" in section.__name__ and section.__name__ not in described:
            continue  # made of a plug-in that another test loaded
        assert section.__doc__, section
        for name, field in section.model_fields.items():
            is_section = isinstance(field.default, Section)
            assert is_section or field.description, f"{section.__name__}.{name} says nothing"
