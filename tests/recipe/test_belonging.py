"""Settings that a preset brings for its own data never judge somebody else's."""

from __future__ import annotations

import pathlib

import pytest

from seqdistill.recipe import load_recipe, preset_names, read_recipe
from seqdistill.recipe.schema import DataSection

BRINGS_DATA = [name for name in preset_names() if read_recipe(name).data.train is not None]


@pytest.mark.parametrize("name", BRINGS_DATA)
@pytest.mark.parametrize("way", ["override", "alias", "section", "file", "file with override"])
def test_own_training_data_come_without_the_preset_s_dev_test_and_subsets(
    name: str, way: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(f"preset: {name}\n" + ("data: {train: own.tsv}\n" if way == "file" else ""))
    overrides = {
        "override": ["data.train=own.tsv"],
        "alias": ["dataset_name=own.tsv"],
        "section": ["data={train: own.tsv}"],
        "file": [],
        "file with override": ["data.train=own.tsv"],
    }[way]
    recipe = read_recipe(str(path) if "file" in way else name, overrides)
    assert recipe.data == DataSection(train="own.tsv")
    training = recipe.training
    assert (training.eval_every, training.keep_best, training.average_best) == (None, 1, False)
    (sentence,) = caplog.messages
    for told in ("data.train is not", "data.dev=bundled:en-de", "data.test=bundled:en-de"):
        assert told in sentence
    assert "training.eval_every=" in sentence
    assert ("teacher.model stays bundled:en-de" in sentence) == (name == "demo")


def test_what_is_given_beside_own_data_stays(caplog: pytest.LogCaptureFixture) -> None:
    given = ["data.train=a.tsv", "data.dev=b.tsv", "data.max_dev_examples=7", "data.test=c.tsv"]
    recipe = read_recipe("teacher", given)
    assert recipe.data == DataSection(train="a.tsv", dev="b.tsv", max_dev_examples=7, test="c.tsv")
    assert (recipe.training.eval_every, recipe.training.average_best) == (300, True)
    assert not caplog.messages


@pytest.mark.parametrize("overrides", [[], ["data.train=bundled:en-de"], ["seed=3"]])
def test_the_preset_s_own_data_keep_all_that_belongs_to_them(
    overrides: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert read_recipe("teacher", overrides).data == read_recipe("teacher").data
    assert not caplog.messages


EXAMPLES = pathlib.Path(__file__).parents[2] / "examples" / "tasks"


@pytest.mark.parametrize("name", ["translation", "summarization", "arithmetic"])
def test_a_recipe_on_bundled_data_judges_nobody_else_s(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = load_recipe(str(EXAMPLES / f"{name}.yaml"), ["data.train=own.parquet"])
    assert recipe.data == DataSection(train="own.parquet")
    assert all(not any("eval_every" in key for key in stage.settings) for stage in recipe.stages)
    (sentence,) = caplog.messages
    assert "data.dev=bundled:" in sentence
    assert "stages.1.settings.training.eval_every=" in sentence
    assert "teacher.model stays bundled:" in sentence


def test_a_recipe_of_one_s_own_keeps_its_dev_when_another_train_is_named(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("preset: baseline\ndata: {train: a.tsv, dev: b.tsv, max_dev_examples: 5}\n")
    recipe = read_recipe(str(path), ["data.train=c.tsv"])
    assert recipe.data == DataSection(train="c.tsv", dev="b.tsv", max_dev_examples=5)
    assert not caplog.messages


def test_own_dev_alone_is_not_cut_to_the_preset_s_subset(caplog: pytest.LogCaptureFixture) -> None:
    recipe = read_recipe("teacher", ["data.dev=b.tsv"])
    assert recipe.data.max_dev_examples is None
    assert (recipe.data.train, recipe.data.test) == ("bundled:en-de", "bundled:en-de")
    assert "data.max_dev_examples=500" in caplog.text
