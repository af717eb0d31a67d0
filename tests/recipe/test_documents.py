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
    "value",
    [5, -3, True, None, "no", "on", "2024-01-01", "1:30", "a/b=c", "bundled:en-de",
     *(("5e-4", 5e-4), ("5.0e-04", 5e-4), ("5E4", 5e4), (".5", 0.5), ("1.", 1.0), ("'5'", "5")),
     *(("1_000", 1000), ("null", None), ("~", None), ("[1, {a: 2.5}]", [1, {"a": 2.5}]))],
    ids=str,
)  # fmt: skip
def test_plain_words_mean_what_they_look_like(value: object) -> None:
    text, expected = value if isinstance(value, tuple) else (str(value).lower(), value)
    found = parse_value("null" if text == "none" else text)
    assert found == expected and type(found) is type(expected)


def test_each_value_remembers_its_line() -> None:
    settings = document("seed: 1\ndata:\n  train: a.tsv\ncompare:\n  - x\n  - y\n")
    assert settings.place_of(("data", "train")) == "a.yaml, line 3"
    assert settings.place_of(("compare", 1)) == "a.yaml, line 6"
    assert settings.place_of(("data", "dev")) == "a.yaml, line 2"
    assert settings.place_of(("training", "steps")) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: 1\n  dev: 2\n", "line 2: a recipe must be valid YAML"),
        ("seed: [1\n", "line 2: a recipe must be valid YAML"),
        ("a: &x 1\nb: *x\n", "line 2: a recipe must be valid YAML"),
        ("a: b: c\n", "line 1: a recipe must be valid YAML"),
        ("just words", "must be a mapping of `key: value` lines"),
        ("- a\n- b\n", "must be a mapping of `key: value` lines"),
        ("a: !!python/object/apply:os.getcwd []", "line 1: a value must be plain YAML"),
        ("a: !!set {x, y}", "line 1: a value must be plain YAML"),
        ("a: !!timestamp 2024-01-01", "line 1: a value must be plain YAML"),
        ("b:\n  c: a\n  d: c\n  c: b\n", "line 4: a key must stand once, got b.c a second time"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_with_its_line(text: str, told: str) -> None:
    problems: list[str] = []
    try:
        values = parse_document(text, "a.yaml", problems).values
        assert values in ({"a": None}, {"b": {"c": "a", "d": "c"}}), "nothing was built"
    except RecipeError as error:
        problems.append(str(error))
    assert len(problems) == 1 and problems[0].startswith("a.yaml") and told in problems[0]
    assert "second" not in told or "first: a.yaml, line 2" in problems[0]


def test_mappings_are_merged_and_lists_replaced_with_their_lines() -> None:
    settings = document("a:\n  x: 1\n  y: 2\nb: [1, 2, 3]\n")
    settings.merge(parse_document("a: {y: 3}\nb: [9]\n", "over.yaml", []))
    assert settings.values == {"a": {"x": 1, "y": 3}, "b": [9]}
    assert settings.place_of(("a", "x")) == "a.yaml, line 2"
    assert settings.place_of(("a", "y")) == "over.yaml, line 1"
    assert settings.place_of(("b", 2)) == "over.yaml, line 2", "the place of a removed item stayed"
    # An architecture of another type replaces the one before.
    settings = document("architecture: {model_type: mbart, d_model: 256}\n")
    settings.merge(document("architecture: {d_model: 512}\n"))
    assert settings.values == {"architecture": {"model_type": "mbart", "d_model": 512}}
    settings.merge(document("architecture: {model_type: t5, d_kv: 64}\n"))
    assert settings.values == {"architecture": {"model_type": "t5", "d_kv": 64}}


def test_put_reaches_into_lists_and_makes_sections() -> None:
    settings = document("terms:\n  - weight: 1\n  - weight: 2\n")
    settings.put(("terms", "1", "weight"), 5, "override")
    settings.put(("training", "steps"), 7, "override")
    assert settings.values["terms"] == [{"weight": 1}, {"weight": 5}]
    assert settings.values["training"] == {"steps": 7}
    assert settings.place_of(("terms", 1, "weight")) == "override"
    assert settings.place_of(("terms", 0, "weight")) == "a.yaml, line 2"
    for path in (("terms", "2", "weight"), ("terms", "x"), ("training", "steps", "x")):
        with pytest.raises(KeyError):
            settings.put(path, 1, "override")
