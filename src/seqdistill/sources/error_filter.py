"""Pseudo-labels of speech are kept where the teacher's words are nearly those of the reference."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence

from seqdistill.core.errors import DataError
from seqdistill.metrics.error_rates import word_edits
from seqdistill.sources.shards import TeacherOutput
from seqdistill.sources.teacher_corpus import in_step

_LOG = logging.getLogger(__name__)
Outputs = Iterator[tuple[str, Sequence[TeacherOutput]]]


@dataclasses.dataclass(frozen=True)
class FilterSummary:
    """What was left out; word error rates in percent."""

    max_word_error_rate: float
    num_outputs: int
    num_left_out: int
    word_error_rate: float
    """Of all outputs together."""
    kept_word_error_rate: float
    """Of those that are kept."""


def within_error_rate(
    outputs: Callable[[], Outputs],
    references: Sequence[tuple[str, str]],
    *,
    most: float,
) -> tuple[Outputs, FilterSummary]:
    """Each example's id, in order, with those outputs whose word error rate is at most `most`
    percent; and a summary.

    `outputs` gives the same at every call; the references are in their order. Raises DataError
    when none is kept.

    Source: Gandhi et al. 2023 (Distil-Whisper), sec. 4, with words as `spoken_words` finds them.
    """
    kept, sums = list[frozenset[int]](), [0, 0]
    totals, num_outputs = [0, 0], 0
    named = ((name, (name, reference)) for name, reference in references)
    for (_, reference), found in in_step(named, outputs()):
        ranks = set()
        for output in found:
            edits, length = word_edits(output.text, reference)
            num_outputs += 1
            totals = [totals[0] + edits, totals[1] + length]
            if 100.0 * edits <= most * length:
                ranks.add(output.rank)
                sums = [sums[0] + edits, sums[1] + length]
        kept.append(frozenset(ranks))
    num_kept = sum(map(len, kept))
    summary = FilterSummary(most, num_outputs, num_outputs - num_kept, _rate(totals), _rate(sums))
    if not num_kept:
        raise DataError(
            f"Some outputs of the teacher must have a word error rate of at most {most:g} % "
            f"(sequences.max_word_error_rate), but none of {num_outputs:,} has: together theirs is "
            f"{summary.word_error_rate:.1f} %; give a better teacher, or raise it"
        )
    _LOG.warning(
        "left out %d of %d outputs of the teacher with a word error rate above %g %%: together the "
        "outputs have %.1f %%, those that are kept %.1f %%",
        summary.num_left_out,
        num_outputs,
        most,
        summary.word_error_rate,
        summary.kept_word_error_rate,
    )
    chosen = (
        (name, [output for output in found if output.rank in ranks])
        for (name, found), ranks in zip(outputs(), kept, strict=True)
    )
    return chosen, summary


def _rate(counts: Sequence[int]) -> float:
    return 100.0 * counts[0] / max(1, counts[1])
