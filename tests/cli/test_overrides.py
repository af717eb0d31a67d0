"""Settings on the command line: `key=value`, and what is said of other spellings."""

from __future__ import annotations

import pytest

from seqdistill.cli.options import named_settings, read_words
from seqdistill.core.errors import UserError
from seqdistill.recipe.resolving import read_recipe


def test_settings_and_other_words_are_told_apart_and_keep_their_order() -> None:
    given = read_words(["a=1", "runs/seed=1/recipe.yaml", "data.train=a b/c=d.tsv", "a=-1.5"])
    assert given.positional == ("runs/seed=1/recipe.yaml",)
    assert given.overrides == ("a=1", "data.train=a b/c=d.tsv", "a=-1.5")


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("--learning-rate", "write learning_rate=VALUE"),
        ("--training.steps=3", "write training.steps=VALUE"),
        ("--resume_from_checkpoint", "write --resume"),
    ],
)
def test_an_option_of_other_trainers_is_refused_with_what_to_write(
    option: str, remedy: str
) -> None:
    with pytest.raises(UserError, match=remedy):
        read_words(["recipe.yaml", option, "3e-4"])


@pytest.mark.parametrize("folder", ["runs/x", "1", "true", "a: b", 'quote"d', "runs/ü #1"])
def test_output_dir_is_text_whatever_it_looks_like(folder: str) -> None:
    recipe = read_recipe("baseline", named_settings(folder, 7))
    assert recipe.output_dir == folder
    assert recipe.seed == 7
