"""Rewards of outputs for reinforcement learning: by name, or a Python function of the user's.

A reward looks at texts, one number an output. Does not train, average or subtract a baseline.
Rewards that need a model live elsewhere (see `generation.entailment`).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import math
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from seqdistill.core.errors import DataError, RecipeError, UserError, did_you_mean
from seqdistill.metrics.answers import same_answer
from seqdistill.metrics.scripts import SPACED, Units
from seqdistill.metrics.similarity import sentence_bleu
from seqdistill.metrics.summaries import rouge_f1


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


REWARDS: Mapping[str, Reward] = MappingProxyType(
    {"exact_answer": exact_answer, "rouge_l": rouge_l, "rouge_2": rouge_2, "bleu": bleu}
)
"""Every named reward."""


def reward_function(name_or_path: str, *, units: Units = SPACED) -> Reward:
    """The named reward, or the function of the user's that `module:function` names.

    `units` are those of the references; of the named rewards BLEU alone needs them.

    The module is imported here and now; it must lie where Python finds it (installed, or in a
    folder of PYTHONPATH). What the function returns is checked at every call.

    Raises RecipeError for an unknown name, for a module that cannot be imported, and for a function
    that is not there or cannot be called.
    """
    if ":" not in name_or_path:
        if name_or_path not in REWARDS:
            raise RecipeError(
                f"reward must be one of {', '.join(REWARDS)}, or module:function of your own, got "
                f"{name_or_path!r}.{did_you_mean(name_or_path, REWARDS)}"
            )
        if name_or_path == "bleu":
            return functools.partial(bleu, tokenize=units.bleu_tokenizer)
        return REWARDS[name_or_path]
    return CheckedReward(name_or_path, _imported(name_or_path))


@dataclasses.dataclass(frozen=True)
class CheckedReward:
    """A user's reward, held to its promise: as many finite numbers as there are outputs."""

    name: str
    function: Callable[..., object]

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        references: Sequence[str | None],
        /,
    ) -> list[float]:
        """The function's numbers.

        Raises UserError when they are not what a reward must be, and for whatever the function
        raises, saying where it did.
        """
        try:
            found = self.function(list(prompts), list(completions), list(references))
            given = None  # the letters of a text and the keys of a mapping are no rewards
            if isinstance(found, Iterable) and not isinstance(found, _NO_LISTS):
                given = list(found)  # a generator's code runs only here
        except Exception as error:
            raise UserError(
                f"reward {self.name} must return a list of numbers, one for each completion, but "
                f"raised {_told(error)} {_place(error, self.function)}; fix the function"
            ) from error
        if given is None:
            raise self._no_numbers(f"found {type(found).__name__}")
        values = [self._number(value) for value in given]
        if len(values) != len(completions):
            raise UserError(
                f"reward {self.name} must return one number for each of the {len(completions)} "
                f"completions, found {len(values)}; fix the function"
            )
        for completion, value in zip(completions, values, strict=True):
            if not math.isfinite(value):
                raise UserError(
                    f"reward {self.name} must be finite, found {value} for the completion "
                    f"{completion[:80]!r}; fix the function"
                )
        return values

    def _number(self, value: object) -> float:
        found = f"found {type(value).__name__} {str(value)[:80]!r} in it"
        if isinstance(value, (str, bytes)):  # float() would read them
            raise self._no_numbers(found)
        try:
            return float(value)  # type: ignore[arg-type]
        except Exception as error:  # of an array, a tensor, a class of the user's: theirs to raise
            raise self._no_numbers(f"{found} ({error})") from error

    def _no_numbers(self, found: str) -> UserError:
        return UserError(
            f"reward {self.name} must return a list of numbers, one for each completion, {found}; "
            "fix the function"
        )


_NO_LISTS = (str, bytes, Mapping, Set)


def _told(error: BaseException) -> str:
    """The exception's name and text."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place(error: BaseException, function: Callable[..., object] | None = None) -> str:
    """`at FILE:LINE`, where the user's code raised.

    That is the innermost frame in the file of `function`, or in any file where that has none. An
    error in the very call, such as a wrong number of arguments, is placed at the definition.
    """
    code = getattr(inspect.unwrap(function), "__code__", None) if function is not None else None
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is ours
    own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    if own or frames:
        frame = (own or frames)[-1]
        return f"at {frame.filename}:{frame.lineno}"
    return f"at {code.co_filename}:{code.co_firstlineno}" if code is not None else "when called"


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
            f"Cannot import {module_name!r} (reward {path!r}): it raised {_told(error)} "
            f"{_place(error)}; fix it"
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
