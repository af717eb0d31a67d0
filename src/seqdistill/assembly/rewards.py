"""From a recipe's reward to a function of the sequences that the student has just written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from seqdistill.core.errors import RecipeError, UserError
from seqdistill.data.conversations import ChatSettings, prompt_text
from seqdistill.data.dataset import with_placeholder_targets
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example, ExampleTable
from seqdistill.generation.entailment import EntailmentReward
from seqdistill.metrics.rewards import Reward, reward_function
from seqdistill.metrics.scripts import SPACED, Units
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.objective_schema import RewardSection
from seqdistill.sources.completions import Completion

NUM_TRIED = 4
"""Examples that a reward is tried on before training."""
RewardOfCompletion = Callable[[Sequence[Completion]], Sequence[float]]


def build_reward(
    section: RewardSection,
    student: LoadedModel,
    examples: Sequence[Example],
    *,
    chat: ChatSettings,
    device: torch.device,
    units: Units = SPACED,
) -> RewardOfCompletion:
    """The reward of written sequences, which it turns into texts; a classifier's is on `device`.

    `units` are those of the references.

    A conversation's prompt is all of it up to the answer, as the chat template renders it. Raises
    RecipeError for a reward that is not there.
    """
    if section.function is None:
        raise RecipeError(
            "objective.reward.function must name the reward, but it is not set; name one, such as "
            "exact_answer, or your own as module:function"
        )
    if section.function == "entailment" and section.classifier is not None:
        function: Reward = EntailmentReward(section.classifier).to(device)
    else:
        function = reward_function(section.function, units=units, parameters=section.parameters)
    table = ExampleTable.of(examples)
    decoder = TextDecoder(student.tokenizer)

    def reward(written: Sequence[Completion]) -> Sequence[float]:
        asked = [table.named(one.example.id) for one in written]
        texts = decoder.texts(one.content_ids for one in written)
        return function(
            [prompt_text(example, student.tokenizer, chat) for example in asked],
            [text.strip() for text in texts],
            [example.target for example in asked],
        )

    return reward


def try_reward(reward: RewardOfCompletion, examples: Sequence[EncodedExample]) -> None:
    """Calls the reward once, on the targets of a few examples, or their sources, as if written.

    Raises UserError for a reward that cannot be computed, before anything depends on it.
    """
    written = [
        Completion(one, "student", finished=bool(asked.target_ids))
        for asked, one in zip(
            examples[:NUM_TRIED], with_placeholder_targets(examples[:NUM_TRIED]), strict=True
        )
    ]
    rewards = [float(value) for value in reward(written)]
    if len(rewards) != len(written) or not all(map(math.isfinite, rewards)):
        raise UserError(
            f"The reward must give one finite number for each of {len(written)} outputs, but gave "
            f"{rewards}; fix objective.reward.function"
        )
