"""Rewards: the named ones lie in [0, 1], a user's is found, called and held to its promise."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqdistill.core.errors import DataError, RecipeError, UserError
from seqdistill.metrics.corpus_metrics import CORPUS_METRICS
from seqdistill.metrics.rewards import REWARDS, Reward, reward_function

PROMPTS = ["add 1 and 2", "add 3 and 4", "add 5 and 6"]
REFERENCES = ["one and two is #### 3", "three and four is #### 7", "five and six is #### 11"]
OUTPUTS = ["one and two is #### 3", "that makes #### 8", ""]

OWN = """
def brief(prompts, completions, references):
    assert isinstance(completions, list)
    return [1 / (1 + len(text)) for text in completions]

def too_few(prompts, completions, references):
    return [0.0]

def infinite(prompts, completions, references):
    return [float("nan") for _ in completions]

def nothing(prompts, completions, references):
    return None

limit = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An importable module of a user, by its name."""
    (tmp_path / "own_rewards.py").write_text(OWN)
    (tmp_path / "broken_rewards.py").write_text("import no_such_package_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_rewards"
    for name in ("own_rewards", "broken_rewards"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", REWARDS)
def test_the_reference_is_paid_most_and_every_reward_lies_in_the_unit_interval(name: str) -> None:
    reward = reward_function(name)
    right, wrong, silent = reward(PROMPTS, OUTPUTS, REFERENCES)
    assert right == pytest.approx(1.0)
    assert 1.0 > wrong >= silent == 0.0


@pytest.mark.parametrize("name", ["rouge_l", "rouge_2"])
def test_a_reward_is_the_metric_of_one_sentence(name: str) -> None:
    metric = CORPUS_METRICS[name]
    mean = sum(reward_function(name)(PROMPTS, OUTPUTS, REFERENCES)) / 3
    assert metric.statistics(OUTPUTS, REFERENCES).score().value == pytest.approx(100 * mean)


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_of_one_output_does_not_depend_on_the_others(name: str) -> None:
    reward = reward_function(name)
    together = reward(PROMPTS, OUTPUTS, REFERENCES)
    alone = [reward([p], [o], [r])[0] for p, o, r in zip(PROMPTS, OUTPUTS, REFERENCES, strict=True)]
    assert together == alone


@pytest.mark.parametrize("name", REWARDS)
def test_data_without_references_are_refused_by_name(name: str) -> None:
    with pytest.raises(DataError, match=f"reward {name} compares with references"):
        reward_function(name)(PROMPTS, OUTPUTS, [None] * 3)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"one of exact_answer, .* Did you mean 'rouge_l'"):
        reward_function("rougel")


def test_a_users_function_is_found_and_called(own: str) -> None:
    reward: Reward = reward_function(f"{own}:brief")
    assert reward(PROMPTS, ["", "a", "abc"], [None] * 3) == [1.0, 0.5, 0.25]


def test_the_module_is_imported_only_when_the_reward_is_asked_for(own: str) -> None:
    assert own not in sys.modules
    reward_function(f"{own}:brief")
    assert own in sys.modules


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module_anywhere:f", "importable module.*no_such_module_anywhere"),
        ("broken_rewards:f", "importable module.*no_such_package_anywhere"),
        ("own_rewards:brie", "found nothing of that name. Did you mean 'brief'"),
        ("own_rewards:limit", "found int of that name"),
        ("own_rewards:", "found nothing"),
        (":brief", "importable module"),
    ],
)
def test_what_cannot_be_imported_or_called_is_told(own: str, path: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        reward_function(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_few", "one number for each of the 3 completions, found 1"),
        ("infinite", "must be finite, found nan for the completion 'one and two"),
        ("nothing", "must return a list of numbers.*found NoneType"),
    ],
)
def test_a_function_that_breaks_its_promise_is_named(own: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        reward_function(f"{own}:{name}")(PROMPTS, OUTPUTS, REFERENCES)
