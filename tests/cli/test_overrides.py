"""Settings on the command line, in the spellings of this program and of Hugging Face scripts."""

from __future__ import annotations

import pytest

from seqdistill.cli.overrides import named_settings, read_words
from seqdistill.core.errors import UserError
from seqdistill.recipe.resolving import read_recipe


def test_three_spellings_mean_the_same() -> None:
    spelled = [
        ["recipe.yaml", "learning_rate=3e-4"],
        ["recipe.yaml", "--learning_rate=3e-4"],
        ["recipe.yaml", "--learning_rate", "3e-4"],
        ["--learning_rate", "3e-4", "recipe.yaml"],
        ["recipe.yaml", "--learning-rate", "3e-4"],
    ]
    assert {read_words(words) for words in spelled} == {read_words(spelled[0])}
    assert read_words(spelled[0]).overrides == ("learning_rate=3e-4",)
    assert read_words(spelled[0]).positional == ("recipe.yaml",)


def test_order_is_kept_since_the_last_override_wins() -> None:
    given = read_words(["a=1", "--a", "2", "--a=3", "a=4"])
    assert given.overrides == ("a=1", "a=2", "a=3", "a=4")


def test_option_without_a_value_means_true() -> None:
    given = read_words(["--student.trust_remote_code", "--teacher.trust_remote_code", "seed=3"])
    assert given.overrides == (
        "student.trust_remote_code=true",
        "teacher.trust_remote_code=true",
        "seed=3",
    )


def test_values_may_be_negative_or_hold_signs_and_spaces() -> None:
    given = read_words(["--length_penalty", "-1.5", "--data.train", "a b/c=d.tsv", "x=y=z"])
    assert given.overrides == ("length_penalty=-1.5", "data.train=a b/c=d.tsv", "x=y=z")


def test_paths_are_positional_even_with_an_equals_sign() -> None:
    assert read_words(["runs/seed=1/recipe.yaml"]).positional == ("runs/seed=1/recipe.yaml",)


@pytest.mark.parametrize(
    ("words", "resume"),
    [
        (["--resume_from_checkpoint"], True),
        (["--resume_from_checkpoint", "True"], True),
        (["--resume-from-checkpoint=true"], True),
        (["--resume_from_checkpoint", "False"], False),
        ([], False),
    ],
)
def test_resume_from_checkpoint_is_understood(words: list[str], resume: bool) -> None:
    given = read_words(words)
    assert given.resume is resume
    assert given.overrides == ()


def test_a_named_checkpoint_is_refused_rather_than_replaced_by_the_newest() -> None:
    with pytest.raises(UserError, match=r"got 'runs/x/checkpoint-5'.*--resume"):
        read_words(["--resume_from_checkpoint", "runs/x/checkpoint-5"])


@pytest.mark.parametrize("folder", ["runs/x", "1", "true", "a: b", 'quote"d', "runs/ü #1"])
def test_output_dir_is_text_whatever_it_looks_like(folder: str) -> None:
    recipe = read_recipe("baseline", named_settings(folder, 7))
    assert recipe.output_dir == folder
    assert recipe.seed == 7
