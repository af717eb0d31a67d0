"""From a recipe's reward to a function of the sequences that the student has just written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from seqdistill.assembly.data import chat_settings
from seqdistill.assembly.judging import text_units
from seqdistill.data.conversations import prompt_text
from seqdistill.data.dataset import EncodedDataset, with_placeholder_targets
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.examples import Example, ExampleTable
from seqdistill.generation.entailment import EntailmentReward
from seqdistill.metrics.rewards import Reward, reward_function
from seqdistill.models.loading import LoadedModel
from seqdistill.models.placement import device_of
from seqdistill.recipe.schema import Recipe
from seqdistill.sources.completions import Completion

NUM_TRIED = 4
"""Examples, half of them from either end, that a reward is tried on before training."""
RewardOfTexts = Callable[[Sequence[Example], Sequence[str]], Sequence[float]]
"""Examples, and a text that answers each, to a number each."""
RewardOfCompletion = Callable[[Sequence[Completion]], Sequence[float]]


def reward_of_texts(recipe: Recipe, model: LoadedModel, examples: ExampleTable) -> RewardOfTexts:
    """The recipe's reward of what the model answers to examples, of which `examples` are some.

    A conversation's prompt is all of it up to the answer, as the model's chat template renders it.
    """
    section, chat = recipe.objective.reward, chat_settings(recipe.data)
    function: Reward
    if section.classifier is not None:
        function = EntailmentReward(section.classifier).to(device_of(recipe.training.device))
    else:
        units, name = text_units(recipe, examples), str(section.function)
        function = reward_function(name, units=units, parameters=section.parameters)

    def reward(asked: Sequence[Example], texts: Sequence[str]) -> Sequence[float]:
        prompts = [prompt_text(example, model.tokenizer, chat) for example in asked]
        return function(prompts, texts, [example.target for example in asked])

    return reward


def tried_reward(
    recipe: Recipe, student: LoadedModel, examples: ExampleTable, encoded: EncodedDataset
) -> RewardOfCompletion | None:
    """The reward of what the student writes, which it turns into texts; None where no term reads
    one.

    It is called once, on the targets of the first and last examples, or their sources, as if
    written: raises UserError for a reward that is not there or cannot be computed, before anything
    depends on it. Unlabelled sources come last, so that they are tried, too.
    """
    if not any(term.reads_reward for term in recipe.objective.built_terms()):
        return None
    of_texts = reward_of_texts(recipe, student, examples)
    decoder = TextDecoder(student.tokenizer)

    def reward(written: Sequence[Completion]) -> Sequence[float]:
        asked = [examples.named(one.example.id) for one in written]
        texts = decoder.texts(one.content_ids for one in written)
        return of_texts(asked, [text.strip() for text in texts])

    tried = encoded.select(first_and_last(len(encoded)))
    answered = zip(tried, with_placeholder_targets(tried), strict=True)
    reward([Completion(one, "student", finished=bool(had.target_ids)) for had, one in answered])
    return reward


def first_and_last(size: int) -> list[int]:
    """The places of what a reward is tried on, of so many examples."""
    places, half = range(size), NUM_TRIED // 2
    return sorted({*places[:half], *places[-half:]})
