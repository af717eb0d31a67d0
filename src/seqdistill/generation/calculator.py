"""Greedy decoding with a calculator: what a model computes wrongly in a marked step is put right.

A step stands in the output as `<<3*4=12>>`, as in GSM8K. Works with every engine and decoder-only
models: outputs are decoded as they come, the first wrong result is replaced, and decoding goes on
from there. Chooses no operation and mends no step whose expression it cannot compute.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Sequence
from fractions import Fraction

from transformers import PreTrainedTokenizerBase

from seqdistill.core.errors import RecipeError
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.generation.decoding import Decoding, SequenceGenerator
from seqdistill.metrics.arithmetic import decimal_text, evaluate, numbers_in, rounded_text

_LOG = logging.getLogger(__name__)

STEP = re.compile(r"<<([^<>=]+)=([^<>=]*)>>")
MAX_ROUNDS = 16
"""How often one output is put right at most; worked solutions have fewer steps."""
ROUNDED_DECIMALS = 2
"""Of a result that no decimal number holds."""


@dataclasses.dataclass(frozen=True)
class CalculatedOutput:
    """What a model wrote with a calculator at hand."""

    token_ids: tuple[int, ...]
    """The calculator's results included; the end token too when finished."""
    text: str
    finished: bool
    """False when `max_new_tokens` cut it off."""
    num_corrections: int
    """Results that the calculator replaced."""


@dataclasses.dataclass(frozen=True)
class Correction:
    """The first wrong result of a text."""

    text: str
    """The text up to and including the right result and its closing mark."""
    kept: int
    """How many characters of it the model wrote itself, up to the equals sign."""


def first_correction(text: str) -> Correction | None:
    """The first marked step whose result is wrong, put right; None where none is.

    A step is left alone when its expression has no value (other signs than + - * / ( ), a division
    by zero) or the step is not closed. A result counts as right when it is the exact value, or the
    value rounded to as many decimals as it has, at least ROUNDED_DECIMALS, where no decimal number
    is the exact value.
    """
    for match in STEP.finditer(text):
        value = evaluate(match.group(1))
        if value is not None and not _is_right(match.group(2), value):
            kept = match.start(2)
            exact = decimal_text(value)
            result = rounded_text(value, decimals=ROUNDED_DECIMALS) if exact is None else exact
            return Correction(f"{text[:kept]}{result}>>", kept)
    return None


def _is_right(written: str, value: Fraction) -> bool:
    numbers = numbers_in(written)
    if len(numbers) != 1 or numbers[0] == value:
        return numbers == [value]
    decimals = len("".join(re.findall(r"\.(\d+)", written)))
    if decimal_text(value) is not None or decimals < ROUNDED_DECIMALS:
        return False
    return numbers[0] == Fraction(rounded_text(value, decimals=decimals))


def greedy_with_calculator(
    generator: SequenceGenerator,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    tokenizer: PreTrainedTokenizerBase,
) -> list[CalculatedOutput]:
    """The greedy output of every prompt, in which no marked step has a wrong result.

    After each replaced result the model goes on from the text as it now stands, so later steps can
    use the right number. Nothing is longer than `decoding.max_new_tokens`, what the calculator
    wrote included. An output that is wrong more than MAX_ROUNDS times, or whose right result the
    tokenizer cannot spell, keeps the rest of its mistakes; both are logged.

    For decoder-only models: a prompt is what the model reads before it answers.

    Raises RecipeError unless `decoding` is greedy.

    Source: Cobbe et al. 2021 (calculation annotations of GSM8K), who put the result in as soon as
    the equals sign is written: the same output, since greedy decoding depends on its prefix alone.
    """
    if decoding.mode != "beam" or decoding.beam_size != 1:
        found = "samples" if decoding.mode == "sample" else f"a beam of {decoding.beam_size}"
        raise RecipeError(
            f"the calculator needs greedy decoding, got {found}; set mode beam with beam_size 1"
        )
    decoder = TextDecoder(tokenizer)
    drafts = [_Draft(tuple(prompt)) for prompt in prompts]
    _continue(generator, drafts, decoding)
    waiting = drafts
    for _ in range(MAX_ROUNDS):
        waiting = [draft for draft in waiting if _put_right(draft, tokenizer, decoder, decoding)]
        if not waiting:
            break
        _continue(generator, waiting, decoding)
    outputs = [_output(draft, decoder) for draft in drafts]
    num_wrong = sum(first_correction(output.text) is not None for output in outputs)
    if num_wrong:
        _LOG.warning("%d of %d outputs keep a wrong step", num_wrong, len(outputs))
    return outputs


@dataclasses.dataclass
class _Draft:
    """An output that is being written."""

    prompt: tuple[int, ...]
    forced: tuple[int, ...] = ()
    """The beginning of the output, every step of it right."""
    written: tuple[int, ...] = ()
    """What the model wrote after it."""
    finished: bool = False
    num_corrections: int = 0

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.forced + self.written


def _continue(generator: SequenceGenerator, drafts: Sequence[_Draft], decoding: Decoding) -> None:
    """Lets the model write on from the forced beginnings, within what is left of the limit.

    Drafts with equally much left are decoded together, since an engine has one limit for all.
    """
    by_room: dict[int, list[_Draft]] = {}
    for draft in drafts:
        by_room.setdefault(decoding.max_new_tokens - len(draft.forced), []).append(draft)
    for room, group in sorted(by_room.items()):
        if room == 0:
            continue
        limited = dataclasses.replace(decoding, max_new_tokens=room, n_best=1)
        found = generator.generate([draft.prompt + draft.forced for draft in group], limited)
        for draft, hypotheses in zip(group, found, strict=True):
            best = hypotheses[0]
            draft.written, draft.finished = best.token_ids, best.finished


def _put_right(
    draft: _Draft, tokenizer: PreTrainedTokenizerBase, decoder: TextDecoder, decoding: Decoding
) -> bool:
    """Whether a result was replaced, so that the model has to go on."""
    correction = first_correction(decoder.text(draft.token_ids))
    if correction is None:
        return False
    ids = _spelled(draft.token_ids, correction, tokenizer, decoder)
    if ids is None:
        _LOG.warning("the tokenizer cannot spell %r; a wrong step stays", correction.text[-40:])
        return False
    draft.forced, draft.written = ids[: decoding.max_new_tokens], ()
    draft.finished = False
    draft.num_corrections += 1
    return True


def _spelled(
    ids: Sequence[int],
    correction: Correction,
    tokenizer: PreTrainedTokenizerBase,
    decoder: TextDecoder,
) -> tuple[int, ...] | None:
    """The corrected text as ids, the model's own as far as they go; None where it has none."""
    own = correction.text[: correction.kept]
    for length in range(len(ids), -1, -1):
        text = decoder.text(ids[:length])
        if own.startswith(text):
            rest = correction.text[len(text) :]
            spelled = (*ids[:length], *tokenizer(rest, add_special_tokens=False).input_ids)
            if decoder.text(spelled) == correction.text:
                return spelled
            break
    whole = tuple(tokenizer(correction.text, add_special_tokens=False).input_ids)
    return whole if decoder.text(whole) == correction.text else None


def _output(draft: _Draft, decoder: TextDecoder) -> CalculatedOutput:
    text = decoder.text(draft.token_ids[:-1] if draft.finished else draft.token_ids)
    return CalculatedOutput(draft.token_ids, text, draft.finished, draft.num_corrections)
