"""Sequence-level interpolation: for each source the teacher's output most like the reference.

Chooses among what a teacher's corpus holds and says what was gained; the choice is kept beside the
corpus, since comparing 35 outputs of every example takes minutes.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from pydantic import TypeAdapter, ValidationError

from seqdistill.core.errors import DataError
from seqdistill.metrics.similarity import SentenceSimilarity
from seqdistill.records.fingerprint import of_settings
from seqdistill.records.shared_parts import Parts, make_parts
from seqdistill.sources.shards import TeacherOutput, facts_of, read_shard, write_outputs
from seqdistill.sources.teacher_corpus import TeacherCorpus, in_step

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


def interpolate(
    corpus: TeacherCorpus,
    references: Sequence[tuple[str, str]],
    *,
    similarity: SentenceSimilarity,
    decode: Callable[[Sequence[int]], str],
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Iterator[tuple[str, list[TeacherOutput]]], InterpolationSummary]:
    """Each example's id, in order, with the one output most like its reference; and a summary.

        chosen(x) = argmax over t in outputs(x) of similarity(decode(t), reference(x))

    Ties go to the higher log_prob, which a corpus stores as the plain sum in nats, not divided by
    length; then to the lower rank, which is the decoder's own order, length penalty included.
    Several outputs with one text are such a tie. `decode` makes of token ids, end token included,
    the text that is compared; the labelling's own makes the texts that the corpus stores.

    Outputs that are not finished (cut samples) take no part. References stand in the corpus' order;
    one without output is left out, counted and logged; an example without reference is left out
    and counted. `on_progress` receives numbers of references that are done.

    The choices are kept beside the corpus, under a name of all that decides them, and are read
    from there the next time; of several processes one makes them. Raises DataError when nothing
    can be chosen and for kept choices that are damaged.

    Source: Kim and Rush 2016, sec. 3.3, with the 35 best of beam search. Their released code
    compares what is in the beam at its end and closes what is unfinished; here only outputs that
    the teacher finished take part.
    """
    how = [similarity.name, similarity.signature]
    digest = of_settings([sorted(corpus.record.checksums.items()), list(references), how])
    path = corpus.folder / f"choices-{digest[:16]}.parquet"

    sums, ranks = defaultdict[str, float](float), Counter[int]()

    def chosen() -> Iterator[tuple[str, TeacherOutput | None]]:
        named = ((name, (name, reference)) for name, reference in references)
        for (name, reference), outputs in in_step(named, corpus.by_example()):
            finished = [output for output in outputs if output.finished]
            if finished:
                output, told = _choice(finished, reference, similarity, decode)
                ranks.update(dict.fromkeys((one.rank for one in finished), 0))
                ranks[output.rank] += 1
                for key, value in told.items():
                    sums[key] += value
            if on_progress is not None:
                on_progress(1)
            yield name, output if finished else None

    def facts() -> str:
        summary = _summary(sums, ranks, corpus, len(references), similarity)
        return json.dumps(dataclasses.asdict(summary))

    if not path.is_file():
        make_parts(
            Parts(
                corpus.folder,
                [path.name],
                begin=lambda: None,
                is_made=lambda _: path.is_file(),
                make=lambda _: write_outputs(path, chosen(), facts),
                is_finished=lambda: False,
                finish=lambda: None,
            )
        )
    try:
        summary = TypeAdapter(InterpolationSummary).validate_json(facts_of(path))
    except (DataError, ValidationError) as error:
        raise DataError(
            f"{path} must hold the outputs that were chosen from the corpus beside it, found: "
            f"{error}; delete this file to choose again"
        ) from error
    _log(summary)
    return read_shard(path), summary


def _choice(
    hypotheses: Sequence[TeacherOutput],
    reference: str,
    similarity: SentenceSimilarity,
    decode: Callable[[Sequence[int]], str],
) -> tuple[TeacherOutput, dict[str, float]]:
    """The output to take, and what is added up of it."""
    texts = [decode(hypothesis.token_ids) for hypothesis in hypotheses]
    found = list(zip(similarity(texts, reference), hypotheses, texts, strict=True))
    value, chosen, text = max(found, key=lambda one: (one[0], one[1].log_prob, -one[1].rank))
    first, *_ = min(found, key=lambda one: one[1].rank)
    return chosen, {
        "hypotheses": float(len(hypotheses)),
        "similarity": value,
        "first": first,
        "equal": float(text.split() == reference.split()),
    }


def _summary(
    sums: Mapping[str, float],
    ranks: Counter[int],
    corpus: TeacherCorpus,
    num_references: int,
    similarity: SentenceSimilarity,
) -> InterpolationSummary:
    if not ranks:
        raise DataError(
            "The teacher's corpus must hold finished outputs for examples with a reference, "
            f"but it holds none for the {num_references} references given; raise "
            "sequences.decoding.max_new_tokens."
        )
    count = ranks.total()
    return InterpolationSummary(
        similarity=similarity.name,
        signature=similarity.signature,
        num_examples=count,
        num_hypotheses=int(sums["hypotheses"]),
        num_without_hypothesis=num_references - count,
        num_without_reference=corpus.record.num_examples - num_references,
        mean_similarity=sums["similarity"] / count,
        mean_first_similarity=sums["first"] / count,
        mean_rank=sum(rank * times for rank, times in ranks.items()) / count,
        rank_counts=tuple(ranks[rank] for rank in range(1 + max(ranks))),
        exact_match_share=sums["equal"] / count,
    )


def _log(summary: InterpolationSummary) -> None:
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
