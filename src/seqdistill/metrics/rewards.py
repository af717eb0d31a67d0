"""Rewards of outputs for reinforcement learning: by name, or a Python function of the user's.

Rewards that need a model live elsewhere (see `generation.entailment`).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from seqdistill.core.errors import DataError, RecipeError, did_you_mean, place, told
from seqdistill.core.families import REWARDS
from seqdistill.metrics.answers import same_answer
from seqdistill.metrics.checked import CheckedFunction
from seqdistill.metrics.corpus_metrics import in_units
from seqdistill.metrics.scripts import SPACED, Units
from seqdistill.metrics.similarity import sentence_bleu
from seqdistill.metrics.summaries import rouge_f1

NOTHING: Mapping[str, object] = MappingProxyType({})


Reward = Callable[[Sequence[str], Sequence[str], Sequence[str | None]], Sequence[float]]
"""Prompts, completions and references (None where there is none) to what the student is paid: one
finite number for each completion, more is better."""


def _compared(name: str, value: Callable[[str, str], float]) -> Callable[..., list[float]]:
    """The reward that is a value of each output and its reference.

    It raises DataError for a missing reference.
    """

    def reward(
        _prompts: Sequence[str], completions: Sequence[str], references: Sequence[str | None]
    ) -> list[float]:
        rewards = []
        for completion, reference in zip(completions, references, strict=True):
            if reference is None:
                raise DataError(
                    f"reward {name} compares with references, but the data have none for the "
                    f"output {completion[:80]!r}; add targets, or choose a reward that needs none"
                )
            rewards.append(value(completion, reference))
        return rewards

    return reward


exact_answer = _compared("exact_answer", lambda output, wanted: float(same_answer(output, wanted)))
"""1 where the final answer is the reference's, else 0. See `metrics.answers`."""
rouge_l = _compared("rouge_l", functools.partial(rouge_f1, "rougeL"))
"""ROUGE-L F1 against the reference, 0 to 1. See `metrics.summaries`."""
rouge_2 = _compared("rouge_2", functools.partial(rouge_f1, "rouge2"))
"""ROUGE-2 F1, likewise."""


def bleu(
    prompts: Sequence[str],
    completions: Sequence[str],
    references: Sequence[str | None],
    *,
    tokenize: str = SPACED.bleu_tokenizer,
) -> list[float]:
    """sacrebleu's sentence BLEU / 100 against the reference, 0 to 1.

    `tokenize` is one of sacrebleu's tokenizers. Raises DataError for a missing reference.
    """
    similarity = sentence_bleu(tokenize=tokenize)
    reward = _compared("bleu", lambda output, wanted: similarity([output], wanted)[0] / 100.0)
    return reward(prompts, completions, references)


def reward_function(
    name_or_path: str, *, units: Units = SPACED, parameters: Mapping[str, object] = NOTHING
) -> Reward:
    """The registered reward, or the function of the user's that `module:function` names.

    `units` are those of the references; of the named rewards BLEU alone needs them.

    A module is imported here and now; it must lie where Python finds it (installed, or in a
    folder of PYTHONPATH). What a function of the user's returns is checked at every call.

    Raises RecipeError for an unknown name, for a module that cannot be imported, and for a function
    that is not there or cannot be called.
    """
    if ":" in name_or_path:
        return CheckedFunction("reward", name_or_path, _imported(name_or_path))
    chosen = REWARDS.choose(name_or_path, **parameters)
    given = chosen.arguments() | in_units(chosen.member.unit, units)
    function: Reward = functools.partial(chosen.member.function, **given)
    if isinstance(chosen.member.target, str):
        return function
    return CheckedFunction("reward", name_or_path, function)


def _imported(path: str) -> Callable[..., object]:
    module_name, _, function_name = path.partition(":")
    try:
        names = vars(importlib.import_module(module_name))
    except Exception as error:
        where = "" if isinstance(error, ImportError | SyntaxError) else f" {place(error)}"
        raise RecipeError(
            f"Cannot import {module_name!r} (reward {path!r}): {told(error)}{where}; name a "
            "module, no file, that is installed or whose folder is in PYTHONPATH; fix its error"
        ) from error
    function: Callable[..., object] | None = names.get(function_name)
    if not callable(function):
        found = type(function).__name__ if function_name in names else "nothing"
        raise RecipeError(
            f"reward {path!r} must name a function of {module_name}, found {found} of that name."
            f"{did_you_mean(function_name, [name for name in names if callable(names[name])])}"
        )
    return function
