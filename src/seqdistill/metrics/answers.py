"""Answers that are right or wrong: the final one of a worked solution, or the whole output."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from fractions import Fraction

from seqdistill.core.errors import DataError
from seqdistill.core.version import __version__
from seqdistill.metrics.arithmetic import numbers_in
from seqdistill.metrics.score import SummedStatistics, check_corpus, mean_statistics

MARK = "####"
"""What stands before the final answer, as in GSM8K."""


def has_answer(reference: str) -> bool:
    """Whether accuracy can compare with the text."""
    return final_answer(reference) is not None


def final_answer(text: str) -> Fraction | str | None:
    """The answer that a solution ends with: a number, else marked words, else None.

    After the last `####` (to the end of that line) the first number counts; where no number stands
    there, the words do, in lower case. Without a mark it is the last number of the text.
    """
    before, mark, after = text.rpartition(MARK)
    if mark:
        line = after.strip().split("\n", 1)[0]
        numbers = numbers_in(line)
        if numbers:
            return numbers[0]
        return " ".join(re.sub(r"[.!\s]+", " ", line).split()).casefold() or None
    numbers = numbers_in(before or text)
    return numbers[-1] if numbers else None


def same_answer(output: str, reference: str) -> bool:
    """Whether both end with the same answer: 66.0 is 66, 1,000 is 1000, 2/4 is 0.5.

    Numbers compare exactly. An output without an answer is never right.

    Raises DataError for a reference without an answer.
    """
    expected = final_answer(reference)
    if expected is None:
        raise DataError(
            f"every reference must hold an answer, a number or anything after {MARK}, but "
            f"{reference[:80]!r} has none; choose another metric or reward for these data"
        )
    return final_answer(output) == expected


_OUTER = "\"'`“”„‟‘’‚‛«»‹›「」『』"
_FINAL = ".!?…。！？．｡।॥؟۔։።"


def normalized_answer(text: str) -> str:
    """A short answer as `exact_match` compares it.

    Compatible characters are one (NFKC: full-width digits are digits), case is folded, white space
    is one space, and quotation marks around the answer and sentence marks at its end are left out.
    Nothing inside is touched: 3.5 is not 35 and -5 is not 5. A text of such marks alone is itself.
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(_OUTER + " ").rstrip(_FINAL + _OUTER + " ") or folded


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> SummedStatistics:
    """Rows of (1 where the whole output is the reference, 1): 100 * right / segments.

    Both are compared by `normalized_answer`; articles count. Raises ValueError if the sides differ
    in length or are empty.

    Source: Rajpurkar et al. 2016 (SQuAD), who also drop English articles and all punctuation.
    """
    rule = "match:exact|norm:nfkc+casefold+outer-marks"
    return _share_right(
        "exact_match",
        rule,
        lambda *pair: len({*map(normalized_answer, pair)}) == 1,
        hypotheses,
        references,
    )


def answer_accuracy(hypotheses: Sequence[str], references: Sequence[str]) -> SummedStatistics:
    """Rows of (1 where the final answer is the reference's, 1): 100 * right / segments.

    Raises ValueError if the sides differ in length or are empty, DataError for a reference without
    an answer.

    Source: Cobbe et al. 2021 (GSM8K), whose answers stand after `####`.
    """
    rule = f"answer:after-last-{MARK}-or-last-number|numbers:exact"
    return _share_right("answer_accuracy", rule, same_answer, hypotheses, references)


def _share_right(
    name: str,
    rule: str,
    is_right: Callable[[str, str], bool],
    hypotheses: Sequence[str],
    references: Sequence[str],
) -> SummedStatistics:
    check_corpus(hypotheses, references)
    right = [is_right(*pair) for pair in zip(hypotheses, references, strict=True)]
    return mean_statistics(name, f"{rule}|version:{__version__}", right, scale=100.0)
