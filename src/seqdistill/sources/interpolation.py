"""Sequence-level interpolation: for each source the teacher's output most like the reference.

Chooses among what a teacher's corpus holds and says what was gained. Generates nothing, reads no
files and does not train: what the choice is good for is to fine-tune on.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean

from seqdistill.core.errors import DataError
from seqdistill.metrics.agreement import exact_match_share
from seqdistill.metrics.similarity import SentenceSimilarity
from seqdistill.sources.corpus_shards import TeacherOutput

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class InterpolationSummary:
    """What was chosen, over all examples for which there was a choice; similarities 0 to 100."""

    similarity: str
    """Name of the similarity."""
    signature: str
    """Its settings."""
    num_examples: int
    """Examples with an output chosen."""
    num_hypotheses: int
    """Finished outputs compared, over all these examples."""
    num_without_hypothesis: int
    """References left out, because the corpus holds no finished output for them."""
    num_without_reference: int
    """Examples of the corpus left out, because there is no reference to compare with."""
    mean_similarity: float
    """Of the chosen outputs to their references."""
    mean_first_similarity: float
    """Of the teacher's first outputs to the same references: the difference is the gain."""
    mean_rank: float
    """Of the chosen outputs among the finished ones; 0 is the teacher's first."""
    rank_counts: tuple[int, ...]
    """At place r: for how many examples the output of rank r was chosen."""
    exact_match_share: float
    """Share of examples, in [0, 1], whose chosen text is the reference, white space apart."""


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """The chosen output of each example that has one, by its id, and how good the choices are."""

    outputs: dict[str, TeacherOutput]
    summary: InterpolationSummary

    @property
    def targets(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Example id -> its one chosen output's token ids, as `with_teacher_targets` reads them."""
        return {example_id: (output.token_ids,) for example_id, output in self.outputs.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class _Choice:
    output: TeacherOutput
    text: str
    reference: str
    similarity: float
    first_similarity: float
    num_hypotheses: int
    last_rank: int


def interpolate(
    outputs: Iterable[TeacherOutput],
    references: Mapping[str, str],
    *,
    similarity: SentenceSimilarity,
    decode: Callable[[Sequence[int]], str],
    on_progress: Callable[[int], None] | None = None,
) -> Interpolation:
    """For each reference, by its example's id, the teacher's output whose text is most like it.

        chosen(x) = argmax over t in outputs(x) of similarity(decode(t), reference(x))

    Ties go to the higher log_prob, which a corpus stores as the plain sum in nats, not divided by
    length; then to the lower rank, which is the decoder's own order, length penalty included.
    Several outputs with one text are such a tie. `decode` makes of token ids, end token included,
    the text that is compared; the labelling's own makes the texts that the corpus stores.

    `outputs` is a TeacherCorpus, or any outputs in which those of an example stand together. Those
    that are not finished (cut samples) take no part. A reference without output is left out,
    counted and logged; an example without reference is left out and counted, so that a part of the
    data can be asked for. `on_progress` receives numbers of references that are done; they add up
    to all of them.

    Raises DataError when nothing can be chosen, ValueError when an example's outputs lie apart.

    Source: Kim and Rush 2016, sec. 3.3, with the 35 best of beam search. Their released code
    compares what is in the beam at its end and closes what is unfinished; here only outputs that
    the teacher finished take part.
    """
    choices: list[_Choice] = []
    num_without_reference = 0
    for hypotheses in _by_example(outputs):
        reference = references.get(hypotheses[0].id)
        if reference is None:
            num_without_reference += 1
            continue
        choices.append(_choose(hypotheses, reference, similarity=similarity, decode=decode))
        if on_progress is not None:
            on_progress(1)
    if not choices:
        raise DataError(
            "The teacher's corpus must hold finished outputs for examples with a reference, but it "
            f"holds none for the {len(references)} references given (and has outputs for "
            f"{num_without_reference} other examples); raise sequences.decoding.max_new_tokens, or "
            "check that the corpus was made of this data and that it has targets."
        )
    summary = _summarize(
        choices,
        similarity,
        num_without_hypothesis=len(references) - len(choices),
        num_without_reference=num_without_reference,
    )
    log_summary(summary)
    if on_progress is not None and summary.num_without_hypothesis:
        on_progress(summary.num_without_hypothesis)
    return Interpolation({choice.output.id: choice.output for choice in choices}, summary)


def _by_example(outputs: Iterable[TeacherOutput]) -> Iterator[list[TeacherOutput]]:
    seen: set[str] = set()
    finished = (output for output in outputs if output.finished)
    for example_id, together in itertools.groupby(finished, key=lambda output: output.id):
        if example_id in seen:
            raise ValueError(
                f"the outputs of an example must stand together, but those of {example_id!r} lie "
                "apart; sort them by id"
            )
        seen.add(example_id)
        yield list(together)


def _choose(
    hypotheses: Sequence[TeacherOutput],
    reference: str,
    *,
    similarity: SentenceSimilarity,
    decode: Callable[[Sequence[int]], str],
) -> _Choice:
    texts = [decode(hypothesis.token_ids) for hypothesis in hypotheses]
    similarities = similarity(texts, reference)
    places = range(len(hypotheses))
    chosen = max(
        places,
        key=lambda place: (
            similarities[place],
            hypotheses[place].log_prob,
            -hypotheses[place].rank,
        ),
    )
    first = min(places, key=lambda place: hypotheses[place].rank)
    return _Choice(
        output=hypotheses[chosen],
        text=texts[chosen],
        reference=reference,
        similarity=similarities[chosen],
        first_similarity=similarities[first],
        num_hypotheses=len(hypotheses),
        last_rank=max(hypothesis.rank for hypothesis in hypotheses),
    )


def _summarize(
    choices: Sequence[_Choice],
    similarity: SentenceSimilarity,
    *,
    num_without_hypothesis: int,
    num_without_reference: int,
) -> InterpolationSummary:
    times_chosen = Counter(choice.output.rank for choice in choices)
    num_ranks = 1 + max(choice.last_rank for choice in choices)
    return InterpolationSummary(
        similarity=similarity.name,
        signature=similarity.signature,
        num_examples=len(choices),
        num_hypotheses=sum(choice.num_hypotheses for choice in choices),
        num_without_hypothesis=num_without_hypothesis,
        num_without_reference=num_without_reference,
        mean_similarity=fmean(choice.similarity for choice in choices),
        mean_first_similarity=fmean(choice.first_similarity for choice in choices),
        mean_rank=fmean(choice.output.rank for choice in choices),
        rank_counts=tuple(times_chosen[rank] for rank in range(num_ranks)),
        exact_match_share=exact_match_share(
            [choice.text for choice in choices], [choice.reference for choice in choices]
        ),
    )


def log_summary(summary: InterpolationSummary) -> None:
    """Tells the log what was chosen, and warns of references that were left out."""
    logger.info(
        "chose 1 of %.1f outputs each for %d examples by %s (%s): mean similarity %.2f, of the "
        "teacher's first %.2f; mean rank %.2f; %.1f%% equal their references",
        summary.num_hypotheses / summary.num_examples,
        summary.num_examples,
        summary.similarity,
        summary.signature,
        summary.mean_similarity,
        summary.mean_first_similarity,
        summary.mean_rank,
        100.0 * summary.exact_match_share,
    )
    if summary.num_without_hypothesis:
        logger.warning(
            "left out %d of %d references for which the teacher's corpus holds no finished output",
            summary.num_without_hypothesis,
            summary.num_examples + summary.num_without_hypothesis,
        )
