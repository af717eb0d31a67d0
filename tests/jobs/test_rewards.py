"""A reward is tried before anything is written: what is wrong with it costs no rollout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.jobs.runs import folder_for, recipe_in, trained

from seqdistill.assembly import rewards
from seqdistill.assembly.preparing import prepare
from seqdistill.core.errors import UserError
from seqdistill.jobs.plan import plan
from seqdistill.metrics.rewards import Reward
from seqdistill.models.placement import device_of
from seqdistill.recipe.schema import Recipe

OWN = """
asked = []

def long(prompts, completions, references):
    asked.append((prompts, completions, references))
    return [float(len(text)) for text in completions]

def looks_up(prompts, completions, references):
    return [{}[text] for text in completions]

def too_few(prompts, completions, references):
    return [1.0]

def infinite(prompts, completions, references):
    return [float("inf") for _ in completions]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with data, models and a user's module of rewards."""
    (tmp_path / "own_rewards.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder_for(tmp_path, "mbart")
    sys.modules.pop("own_rewards", None)


def rewarded_by(folder: Path, function: str, *overrides: str) -> Recipe:
    return recipe_in(folder, "gkd_rl", f"objective.reward.function={function}", *overrides)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("own_rewards:looks_up", r"raised KeyError: .* at \S+own_rewards.py:9; fix the function"),
        ("own_rewards:too_few", "one number for each of the 4 outputs, found 1"),
        ("own_rewards:infinite", "must be finite, found inf"),
        ("own_rewards:lnog", "Did you mean 'long'"),
    ],
)
def test_a_broken_reward_leaves_no_folder_behind(place: Path, function: str, message: str) -> None:
    recipe = rewarded_by(place, function)
    for run in (trained, plan):
        with pytest.raises(UserError, match=message):
            run(recipe)
    assert not (place / "runs").exists()


def test_a_reward_is_tried_once_on_prompts_and_references_of_the_data(place: Path) -> None:
    prepared = prepare(rewarded_by(place, "own_rewards:long"))
    ((prompts, completions, references),) = sys.modules["own_rewards"].asked
    last = len(prepared.train_examples) - 1
    tried = prepared.train_examples.select([0, 1, last - 1, last])
    assert len(prompts) == rewards.NUM_TRIED
    assert prompts == [example.source for example in tried]
    assert completions == references == [example.target for example in tried]


def test_without_references_the_sources_stand_in_for_outputs(place: Path) -> None:
    (place / "prompts.txt").write_text("eins\nzwei\n", encoding="utf-8")
    prompts_alone = f"data.train={place / 'prompts.txt'}"
    prepare(rewarded_by(place, "own_rewards:long", prompts_alone))
    ((prompts, completions, references),) = sys.modules["own_rewards"].asked
    assert prompts == completions == ["eins", "zwei"] and references == [None, None]
    with pytest.raises(UserError, match="reward rouge_l compares with references"):
        prepare(rewarded_by(place, "rouge_l", prompts_alone))


def test_training_is_rewarded_by_what_was_tried(place: Path) -> None:
    run = trained(rewarded_by(place, "own_rewards:long", "sequences.rollouts.samples_every=1"))
    rows = run.read_rollouts()
    assert rows and all(row["reward"] == len(str(row["written"]).strip()) for row in rows)
    tried, *written = sys.modules["own_rewards"].asked
    assert tried[1] == tried[2] and len(written) == 4, "once before, then once an update"


def test_a_classifier_judges_on_the_device_of_the_training(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[object] = []

    class Classifier:
        def __init__(self, folder: str) -> None:
            assert folder == "classifier"

        def to(self, device: torch.device) -> Reward:
            moved.append(device)
            return lambda prompts, completions, references: [1.0] * len(prompts)

    monkeypatch.setattr(rewards, "EntailmentReward", Classifier)
    for wanted in ("cpu", "auto"):
        given = ("objective.reward.classifier=classifier", f"training.device={wanted}")
        prepare(rewarded_by(place, "entailment", *given))
    assert moved == [torch.device("cpu"), device_of("auto")]
