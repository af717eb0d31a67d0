"""Greedy decoding with a calculator: what a model computes wrongly in a marked step is put right.

A step stands in the output as `<<3*4=12>>`, as in GSM8K. Outputs are decoded as they come, the
first wrong result is replaced, and decoding goes on from there, with any engine.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Sequence
from fractions import Fraction

from transformers import PreTrainedTokenizerBase

from seqdistill.core.batch import Kind
from seqdistill.core.errors import RecipeError
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.encoding import EncodedExample
from seqdistill.evaluation.settings import EvaluationSettings, scored
from seqdistill.generation.decoding import SequenceGenerator
from seqdistill.metrics.arithmetic import decimal_text, evaluate, numbers_in, rounded_text
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records.results import Calculated

_LOG = logging.getLogger(__name__)

STEP = re.compile(r"<<([^<>=]+)=([^<>=]*)>>")
MAX_ROUNDS = 16
"""How often one output is put right at most; worked solutions have fewer steps."""
ROUNDED_DECIMALS = 2
"""Of a result that no decimal number holds."""


def calculated(
    generator: SequenceGenerator,
    examples: Sequence[EncodedExample],
    tokenizer: PreTrainedTokenizerBase,
    references: Sequence[str],
    settings: EvaluationSettings,
    *,
    kind: Kind,
) -> Calculated | None:
    """Scores with intervals of outputs with a calculator, and how many results were corrected.

    None unless the settings ask for it. Raises RecipeError for an encoder-decoder.

    Source: Agarwal et al. 2024 (GKD), sec. 4.3, whose GSM8K accuracies are with a calculator.
    """
    if not settings.section.calculator:
        return None
    check_calculator(kind)
    prompts = [example.prompt_ids for example in examples]
    outputs = greedy_with_calculator(generator, prompts, settings.greedy, tokenizer=tokenizer)
    texts = [output.text for output in outputs]
    return Calculated(
        scores={
            name: scored(settings.metric(name).statistics(texts, references), settings)
            for name in settings.metrics
        },
        corrections_per_output=sum(o.num_corrections for o in outputs) / max(1, len(outputs)),
    )


def check_calculator(kind: Kind) -> None:
    """Raises RecipeError for models that write no steps behind a prompt."""
    if kind != "causal":
        raise RecipeError(
            "evaluation.calculator must be left out unless the models are decoder-only, got an "
            "encoder-decoder; remove it"
        )


@dataclasses.dataclass
class CalculatedOutput:
    """What a model writes with a calculator at hand."""

    prompt: tuple[int, ...]
    token_ids: tuple[int, ...] = ()
    """The calculator's results included; the end token too when finished."""
    finished: bool = False
    """False when `max_new_tokens` cut it off."""
    text: str = ""
    num_corrections: int = 0
    """Results that the calculator replaced."""


def greedy_with_calculator(
    generator: SequenceGenerator,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    tokenizer: PreTrainedTokenizerBase,
) -> list[CalculatedOutput]:
    """The greedy output of every prompt of a decoder-only model, in which no marked step is wrong.

    After each replaced result the model goes on from the text as it now stands, so later steps can
    use the right number. Nothing is longer than `decoding.max_new_tokens`, what the calculator
    wrote included. An output that is wrong more than MAX_ROUNDS times, or whose right result the
    tokenizer cannot spell, keeps the rest of its mistakes; both are logged.

    Source: Cobbe et al. 2021 (calculation annotations of GSM8K), who put the result in as soon as
    the equals sign is written: the same output, since greedy decoding depends on its prefix alone.
    """
    decoder = TextDecoder(tokenizer)
    outputs = [CalculatedOutput(tuple(prompt)) for prompt in prompts]
    waiting = outputs
    for remaining in range(MAX_ROUNDS, -1, -1):
        _continue(generator, waiting, decoding, decoder)
        waiting = [
            output
            for output in (waiting if remaining else [])
            if _put_right(output, tokenizer, decoder, decoding.max_new_tokens)
        ]
    num_wrong = sum(first_correction(output.text) is not None for output in outputs)
    if num_wrong:
        _LOG.warning("%d of %d outputs keep a wrong step", num_wrong, len(outputs))
    return outputs


def _continue(
    generator: SequenceGenerator,
    outputs: Sequence[CalculatedOutput],
    decoding: Decoding,
    decoder: TextDecoder,
) -> None:
    """Lets the model write on, within what is left of the limit.

    Outputs with equally much left are decoded together, since an engine has one limit for all.
    """
    by_room: dict[int, list[CalculatedOutput]] = {}
    for output in outputs:
        by_room.setdefault(decoding.max_new_tokens - len(output.token_ids), []).append(output)
    for room, group in sorted(by_room.items()):
        if room == 0:
            continue
        limited = decoding.model_copy(update={"max_new_tokens": room})
        found = generator.generate([output.prompt + output.token_ids for output in group], limited)
        for output, (best, *_) in zip(group, found, strict=True):
            output.text = decoder.text(output.token_ids + best.content_ids)
            output.token_ids += best.token_ids
            output.finished = best.finished


def _put_right(
    output: CalculatedOutput,
    tokenizer: PreTrainedTokenizerBase,
    decoder: TextDecoder,
    max_new_tokens: int,
) -> bool:
    """Whether a result was replaced, so that the model has to go on."""
    correction = first_correction(output.text)
    if correction is None:
        return False
    ids = _spelled(output.token_ids, *correction, tokenizer, decoder)
    if ids is None:
        _LOG.warning("the tokenizer cannot spell %r; a wrong step stays", "".join(correction)[-40:])
        return False
    output.token_ids, output.finished = ids[:max_new_tokens], False
    output.text = decoder.text(output.token_ids)
    output.num_corrections += 1
    return True


def _spelled(
    ids: tuple[int, ...],
    own: str,
    right: str,
    tokenizer: PreTrainedTokenizerBase,
    decoder: TextDecoder,
) -> tuple[int, ...] | None:
    """The corrected text as ids, the model's own as far as they go; None where it has none."""
    kept = next(n for n in range(len(ids), -1, -1) if own.startswith(decoder.text(ids[:n])))
    for beginning in (ids[:kept], ()):
        rest = (own + right)[len(decoder.text(beginning)) :]
        spelled = (*beginning, *tokenizer(rest, add_special_tokens=False).input_ids)
        if decoder.text(spelled) == own + right:
            return spelled
    return None


def first_correction(text: str) -> tuple[str, str] | None:
    """The text up to the equals sign of the first wrong step, and its right end; None if none is.

    A step is left alone when its expression has no value (other signs than + - * / ( ), a division
    by zero) or the step is not closed. A result counts as right when it is the exact value, or the
    value rounded to as many decimals as it has, at least ROUNDED_DECIMALS, where no decimal number
    is the exact value.
    """
    for match in STEP.finditer(text):
        value = evaluate(match.group(1))
        if value is not None and not _is_right(match.group(2), value):
            result = decimal_text(value) or rounded_text(value, decimals=ROUNDED_DECIMALS)
            return text[: match.start(2)], f"{result}>>"
    return None


def _is_right(written: str, value: Fraction) -> bool:
    numbers = numbers_in(written)
    if len(numbers) != 1 or numbers[0] == value:
        return numbers == [value]
    decimals = len("".join(re.findall(r"\.(\d+)", written)))
    if decimal_text(value) is not None or decimals < ROUNDED_DECIMALS:
        return False
    return numbers[0] == Fraction(rounded_text(value, decimals=decimals))
