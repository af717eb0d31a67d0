"""Greedy outputs of a system that has a calculator for its marked steps: their quality.

For decoder-only models. Outputs without a calculator are measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from seqdistill.core.errors import RecipeError
from seqdistill.data.encoding import EncodedExample
from seqdistill.evaluation.settings import EvaluationSettings, scored
from seqdistill.generation.calculator import greedy_with_calculator
from seqdistill.generation.decoding import SequenceGenerator
from seqdistill.models.adapters import Kind
from seqdistill.records.results import Calculated


def calculated(
    generator: SequenceGenerator,
    examples: Sequence[EncodedExample],
    tokenizer: PreTrainedTokenizerBase,
    references: Sequence[str],
    settings: EvaluationSettings,
    *,
    kind: Kind,
) -> Calculated | None:
    """Scores with intervals, and how many results an output had corrected.

    None unless the settings ask for it. Raises RecipeError for an encoder-decoder.

    Source: Agarwal et al. 2024 (GKD), sec. 4.3, whose GSM8K accuracies are with a calculator.
    """
    if not settings.calculator:
        return None
    if kind != "causal":
        raise RecipeError(
            "evaluation.calculator must be left out unless the models are decoder-only, got an "
            "encoder-decoder; remove it"
        )
    outputs = greedy_with_calculator(
        generator, [e.prompt_ids for e in examples], settings.greedy, tokenizer=tokenizer
    )
    texts = [output.text for output in outputs]
    return Calculated(
        scores={
            name: scored(settings.metric(name).statistics(texts, references), settings)
            for name in settings.metrics
        },
        corrections_per_output=sum(o.num_corrections for o in outputs) / max(1, len(outputs)),
    )
