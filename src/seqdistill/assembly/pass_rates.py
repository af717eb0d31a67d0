"""From a recipe to pass rates: the fraction of a model's rollouts of each prompt that pass."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Literal

from seqdistill.assembly.corpus import CorpusOf
from seqdistill.assembly.rewards import RewardOfTexts, first_and_last
from seqdistill.core.errors import RecipeError
from seqdistill.data.examples import ExampleTable
from seqdistill.recipe.schema import Recipe, TeacherSection
from seqdistill.recipe.sequences_schema import DecodingSection
from seqdistill.recipe.stages import unchained
from seqdistill.sources.teacher_corpus import TeacherCorpus, in_step

Scored = Literal["student", "teacher"]
RATE, NUM = "pass_rate", "num_rollouts"
"""The columns that are made."""
_SHARD_ROLLOUTS = 2048
_JUDGED_TOGETHER = 128


@dataclasses.dataclass(frozen=True)
class PassRates:
    """Whose they are, and of how many rollouts."""

    model: Scored = "student"
    num_rollouts: int = 8

    @property
    def corpus(self) -> CorpusOf:
        """What the rollouts are called."""
        return CorpusOf(
            "rollouts",
            self.model,
            "sampling",
            "rollouts",
            "sequences.rollouts.engine",
            shard_size=max(1, _SHARD_ROLLOUTS // self.num_rollouts),
        )

    def labelling(self, recipe: Recipe) -> Recipe:
        """The recipe whose labels, by its teacher, are the rollouts.

        They are sampled as `sequences.rollouts` says, of a chain that of the last stage that
        samples. Raises RecipeError where the model has no name.
        """
        section = recipe.teacher if self.model == "teacher" else recipe.student
        if section.model is None:
            raise RecipeError(
                f"{self.model}.model must name the model whose rollouts are judged, got none; add "
                f"{self.model}.model=..."
            )
        stages = reversed(unchained(recipe)) if recipe.stages else ()
        sampling = next((one for one in stages if one.sequences.rolls_out), recipe).sequences
        rollouts = sampling.rollouts
        assert rollouts.engine != "vllm", "checked with the recipe"
        decoding = DecodingSection(
            mode="sample",
            n_best=self.num_rollouts,
            sampling_temperature=rollouts.sampling_temperature,
            top_k=rollouts.top_k,
            top_p=rollouts.top_p,
            max_new_tokens=rollouts.max_new_tokens,
            engine=rollouts.engine,
            threads=recipe.training.threads,
        )
        teacher = recipe.teacher
        if self.model == "student":
            trusted = recipe.student.trust_remote_code
            teacher = TeacherSection(model=section.model, trust_remote_code=trusted)
        others = tuple(name for name in recipe.data.extra_columns if name not in (RATE, NUM))
        changed = {
            "teacher": teacher,
            "sequences": recipe.sequences.model_copy(update={"decoding": decoding, "corpus": None}),
            "data": recipe.data.model_copy(update={"extra_columns": others}),
        }
        return recipe.model_copy(update=changed)

    def try_reward(self, reward: RewardOfTexts, examples: ExampleTable) -> None:
        """Calls it once, on targets or sources of the first and last examples, as if written.

        Raises UserError for a reward that cannot be computed, before hours of rollouts.
        """
        tried = examples.select(first_and_last(len(examples)))
        reward(tried, [example.target or example.source or "-" for example in tried])

    def of(
        self,
        corpus: TeacherCorpus,
        examples: ExampleTable,
        reward: RewardOfTexts,
        threshold: float,
    ) -> Iterator[float]:
        """Each example's: of its rollouts those that get the threshold, cut ones as they are."""
        found = in_step(((one.id, one) for one in examples), corpus.by_example())
        while chunk := list(itertools.islice(found, _JUDGED_TOGETHER)):
            asked = [example for example, outputs in chunk for _ in outputs]
            texts = [output.text for _, outputs in chunk for output in outputs]
            passed = iter([value >= threshold for value in reward(asked, texts)])
            for _, outputs in chunk:
                yield sum(itertools.islice(passed, len(outputs))) / self.num_rollouts
