"""Settings that a preset brings for its own data never judge somebody else's."""

from __future__ import annotations

import pathlib

import pytest

from seqdistill.recipe import load_recipe, preset_names, read_recipe
from seqdistill.recipe.schema import DataSection

BRINGS_DATA = [name for name in preset_names() if read_recipe(name).data.train is not None]
EXAMPLES = pathlib.Path(__file__).parents[2] / "examples" / "tasks"


@pytest.mark.parametrize("name", BRINGS_DATA)
@pytest.mark.parametrize("way", ["data.train=own.tsv", "dataset_name=own.tsv", "file"])
def test_own_training_data_come_without_the_preset_s_dev_test_and_subsets(
    name: str, way: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (path := tmp_path / "my.yaml").write_text(f"preset: {name}\ndata: {{train: own.tsv}}\n")
    recipe = read_recipe(str(path)) if way == "file" else read_recipe(name, [way])
    assert recipe.data == DataSection(train="own.tsv")
    training = recipe.training
    assert (training.eval_every, training.keep_best, training.average_best) == (None, 1, False)
    (sentence,) = caplog.messages
    for told in ("data.dev=bundled:en-de", "data.test=bundled:en-de", "training.eval_every="):
        assert told in sentence
    assert ("teacher.model stays bundled:en-de" in sentence) == (name == "demo")


def test_what_is_given_beside_own_data_stays_and_so_do_own_data(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = ["data.train=a.tsv", "data.dev=b.tsv", "data.max_dev_examples=7", "data.test=c.tsv"]
    recipe = read_recipe("teacher", given)
    assert recipe.data == DataSection(train="a.tsv", dev="b.tsv", max_dev_examples=7, test="c.tsv")
    assert (recipe.training.eval_every, recipe.training.average_best) == (300, True)
    for overrides in (["data.train=bundled:en-de"], ["seed=3"]):
        assert read_recipe("teacher", overrides).data == read_recipe("teacher").data
    path = tmp_path / "my.yaml"
    path.write_text("preset: baseline\ndata: {train: a.tsv, dev: b.tsv, max_dev_examples: 5}\n")
    recipe = read_recipe(str(path), ["data.train=c.tsv"])
    assert recipe.data == DataSection(train="c.tsv", dev="b.tsv", max_dev_examples=5)
    assert not caplog.messages
    recipe = read_recipe("teacher", ["data.dev=b.tsv"])
    assert recipe.data.max_dev_examples is None, "own dev is not cut to the preset's subset"
    assert (recipe.data.train, recipe.data.test) == ("bundled:en-de", "bundled:en-de")
    assert "data.max_dev_examples=500" in caplog.text


def test_a_recipe_on_bundled_data_judges_nobody_else_s(caplog: pytest.LogCaptureFixture) -> None:
    recipe = load_recipe(str(EXAMPLES / "translation.yaml"), ["data.train=own.parquet"])
    assert recipe.data == DataSection(train="own.parquet")
    assert all(not any("eval_every" in key for key in stage.settings) for stage in recipe.stages)
    (sentence,) = caplog.messages
    for told in ("data.dev=", "stages.1.settings.training.eval_every=", "teacher.model stays"):
        assert f"{told}" in sentence
