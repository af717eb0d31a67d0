"""From a recipe's reward to a function of the sequences that the student has just written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from seqdistill.core.errors import RecipeError
from seqdistill.data.examples import Example
from seqdistill.generation.entailment import EntailmentReward
from seqdistill.metrics.rewards import Reward, reward_function
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.objective_schema import RewardSection
from seqdistill.sources.writers import Written

RewardOfWritten = Callable[[Sequence[Written]], Sequence[float]]


def build_reward(
    section: RewardSection, student: LoadedModel, examples: Sequence[Example]
) -> RewardOfWritten:
    """The reward of written sequences, which it turns into texts.

    A chat's prompt is its last turn. Raises RecipeError for a reward that is not there.
    """
    function, by_id = _function(section), {example.id: example for example in examples}

    def reward(written: Sequence[Written]) -> Sequence[float]:
        asked = [by_id[one.example.id] for one in written]
        texts = student.tokenizer.batch_decode(
            [one.example.target_ids for one in written], skip_special_tokens=True
        )
        return function(
            [prompt_text(example) for example in asked],
            [text.strip() for text in texts],
            [example.target for example in asked],
        )

    return reward


def prompt_text(example: Example) -> str:
    """What the student was asked: the source, or the last turn of a chat."""
    return example.messages[-1][1] if example.messages else example.source


def _function(section: RewardSection) -> Reward:
    if section.function is None:
        raise RecipeError(
            "objective.reward.function must name the reward, but it is not set; name one, such as "
            "exact_answer, or your own as module:function"
        )
    if section.function == "entailment" and section.classifier is not None:
        return EntailmentReward(section.classifier)
    return reward_function(section.function)
