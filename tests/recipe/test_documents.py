"""YAML is read strictly, and every value remembers its line."""

from __future__ import annotations

import pytest

from seqdistill.core.errors import RecipeError
from seqdistill.recipe.documents import Settings, parse_document, parse_value


def document(text: str) -> Settings:
    problems: list[str] = []
    settings = parse_document(text, "a.yaml", problems)
    assert not problems
    return settings


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-3", -3),
        ("5e-4", 5e-4),
        ("5.0e-04", 5e-4),
        ("5E4", 5e4),
        (".5", 0.5),
        ("1.", 1.0),
        ("1_000", 1000),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("'5'", "5"),
        ("null", None),
        ("~", None),
        ("a/b=c", "a/b=c"),
        ("bundled:en-de", "bundled:en-de"),
        ("[1, {a: 2.5}]", [1, {"a": 2.5}]),
    ],
)
def test_plain_words_mean_what_they_look_like(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value and type(found) is type(value)


def test_each_value_remembers_its_line() -> None:
    settings = document("seed: 1\ndata:\n  train: a.tsv\ncompare:\n  - x\n  - y\n")
    assert settings.place_of(("data", "train")) == "a.yaml, line 3"
    assert settings.place_of(("compare", 1)) == "a.yaml, line 6"
    assert settings.place_of(("data", "dev")) == "a.yaml, line 2"
    assert settings.place_of(("training", "steps")) is None


def test_a_repeated_key_is_reported_with_both_lines() -> None:
    problems: list[str] = []
    parse_document("data:\n  train: a\n  dev: c\n  train: b\n", "a.yaml", problems)
    (problem,) = problems
    assert problem.startswith("a.yaml, line 4: ")
    assert "data.train" in problem and "first: a.yaml, line 2" in problem and "remove" in problem


@pytest.mark.parametrize(
    ("text", "line"),
    [("seed: 1\n  dev: 2\n", 2), ("seed: [1\n", 2), ("a: &x 1\nb: *x\n", 2), ("a: b: c\n", 1)],
)
def test_what_is_no_yaml_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(RecipeError, match=rf"^a\.yaml, line {line}: a recipe must be valid YAML"):
        document(text)


@pytest.mark.parametrize("text", ["just words", "- a\n- b\n", "5"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"must be a mapping of `key: value` lines"):
        document(text)


@pytest.mark.parametrize(
    "text",
    ["a: !!python/object/apply:os.getcwd []", "a: !!set {x, y}", "a: !!timestamp 2024-01-01"],
)
def test_tags_that_build_objects_are_refused(text: str) -> None:
    problems: list[str] = []
    settings = parse_document(text, "a.yaml", problems)
    assert settings.values == {"a": None}
    assert len(problems) == 1 and "plain YAML" in problems[0] and "line 1" in problems[0]


def test_mappings_are_merged_and_lists_replaced_with_their_lines() -> None:
    settings = document("a:\n  x: 1\n  y: 2\nb: [1, 2, 3]\n")
    settings.merge(parse_document("a: {y: 3}\nb: [9]\n", "over.yaml", []))
    assert settings.values == {"a": {"x": 1, "y": 3}, "b": [9]}
    assert settings.place_of(("a", "x")) == "a.yaml, line 2"
    assert settings.place_of(("a", "y")) == "over.yaml, line 1"
    assert settings.place_of(("b", 0)) == "over.yaml, line 2"
    assert settings.place_of(("b", 2)) == "over.yaml, line 2", "the place of a removed item stayed"


def test_an_architecture_of_another_type_replaces_the_one_before() -> None:
    settings = document("architecture: {model_type: mbart, d_model: 256}\n")
    settings.merge(document("architecture: {d_model: 512}\n"))
    assert settings.values == {"architecture": {"model_type": "mbart", "d_model": 512}}
    settings.merge(document("architecture: {model_type: t5, d_kv: 64}\n"))
    assert settings.values == {"architecture": {"model_type": "t5", "d_kv": 64}}


def test_put_reaches_into_lists_and_makes_sections() -> None:
    settings = document("terms:\n  - weight: 1\n  - weight: 2\n")
    settings.put(("terms", "1", "weight"), 5, "override")
    settings.put(("training", "steps"), 7, "override")
    assert settings.values == {
        "terms": [{"weight": 1}, {"weight": 5}],
        "training": {"steps": 7},
    }
    assert settings.place_of(("terms", 1, "weight")) == "override"
    assert settings.place_of(("terms", 0, "weight")) == "a.yaml, line 2"
    for path in (("terms", "2", "weight"), ("terms", "x"), ("training", "steps", "x")):
        with pytest.raises(KeyError):
            settings.put(path, 1, "override")
