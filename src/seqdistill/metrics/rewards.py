"""Rewards of outputs for reinforcement learning: by name, or a Python function of the user's.

A reward looks at texts, one number an output. Does not train, average or subtract a baseline.
Rewards that need a model live elsewhere (see `generation.entailment`).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from seqdistill.core.errors import DataError, RecipeError, did_you_mean
from seqdistill.core.families import REWARDS
from seqdistill.metrics.answers import same_answer
from seqdistill.metrics.checked import CheckedFunction, place, told
from seqdistill.metrics.corpus_metrics import in_units
from seqdistill.metrics.scripts import SPACED, Units
from seqdistill.metrics.similarity import sentence_bleu
from seqdistill.metrics.summaries import rouge_f1

NOTHING: Mapping[str, object] = MappingProxyType({})


@runtime_checkable
class Reward(Protocol):
    """What a student is paid: one finite number for each output, more is better."""

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        references: Sequence[str | None],
        /,
    ) -> Sequence[float]:
        """The rewards of `completions`, in their order; a reference is None where none exists."""
        ...


def exact_answer(
    prompts: Sequence[str], completions: Sequence[str], references: Sequence[str | None]
) -> list[float]:
    """1 where the final answer is the reference's, else 0. See `metrics.answers`.

    Raises DataError for a missing reference, or one without an answer.
    """
    return [float(same_answer(*pair)) for pair in _pairs(completions, references, "exact_answer")]


def rouge_l(
    prompts: Sequence[str], completions: Sequence[str], references: Sequence[str | None]
) -> list[float]:
    """ROUGE-L F1 against the reference, 0 to 1. See `metrics.summaries`.

    Raises DataError for a missing reference.
    """
    return [rouge_f1("rougeL", *pair) for pair in _pairs(completions, references, "rouge_l")]


def rouge_2(
    prompts: Sequence[str], completions: Sequence[str], references: Sequence[str | None]
) -> list[float]:
    """ROUGE-2 F1 against the reference, 0 to 1. See `metrics.summaries`.

    Raises DataError for a missing reference.
    """
    return [rouge_f1("rouge2", *pair) for pair in _pairs(completions, references, "rouge_2")]


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
    pairs = _pairs(completions, references, "bleu")
    return [similarity([output], reference)[0] / 100.0 for output, reference in pairs]


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


def _stem(file: str) -> str:
    return file.replace("\\", "/").rpartition("/")[2].removesuffix(".py")


def _imported(path: str) -> Callable[..., object]:
    module_name, _, function_name = path.partition(":")
    if module_name.endswith(".py"):
        raise RecipeError(
            f"Cannot import {module_name!r} (reward {path!r}): it is a file; write "
            f"{_stem(module_name)}:{function_name} and put its folder in PYTHONPATH"
        )
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:  # ValueError: an empty name
        raise RecipeError(
            f"Cannot import {module_name!r} (reward {path!r}): {error}; install it or put "
            "its folder in PYTHONPATH"
        ) from error
    except SyntaxError as error:
        raise RecipeError(
            f"Cannot import {module_name!r} (reward {path!r}): it is not Python: {error.msg} at "
            f"{error.filename}:{error.lineno}; fix it"
        ) from error
    except Exception as error:
        raise RecipeError(
            f"Cannot import {module_name!r} (reward {path!r}): it raised {told(error)} "
            f"{place(error)}; fix it"
        ) from error
    names = vars(module)
    if not callable(names.get(function_name)):
        found = type(names[function_name]).__name__ if function_name in names else "nothing"
        raise RecipeError(
            f"reward {path!r} must name a function of {module_name}, found {found} of that name."
            f"{did_you_mean(function_name, [name for name in names if callable(names[name])])}"
        )
    function: Callable[..., object] = names[function_name]
    return function


def _pairs(
    completions: Sequence[str], references: Sequence[str | None], name: str
) -> list[tuple[str, str]]:
    pairs = []
    for completion, reference in zip(completions, references, strict=True):
        if reference is None:
            raise DataError(
                f"reward {name} compares with references, but the data have none for the output "
                f"{completion[:80]!r}; add targets, or choose a reward that needs none"
            )
        pairs.append((completion, reference))
    return pairs
