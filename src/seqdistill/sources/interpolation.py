"""Sequence-level interpolation: for each source the teacher's output most like the reference.

Chooses among what a teacher's corpus holds and says what was gained; the choice is kept beside the
corpus, since comparing 35 outputs of every example takes minutes.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from seqdistill.core.errors import DataError
from seqdistill.metrics.similarity import SentenceSimilarity
from seqdistill.records.atomic import write_json
from seqdistill.records.fingerprint import of_file, of_settings
from seqdistill.records.shared_parts import make_parts
from seqdistill.sources.corpus_shards import TeacherOutput, read_shard, write_outputs
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


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """The chosen outputs, read from their file whenever they are asked for, and their summary."""

    path: Path
    summary: InterpolationSummary

    def targets(self) -> Iterator[tuple[str, list[TeacherOutput]]]:
        """Each example's id, in order, with the one output chosen for it, if there was a choice."""
        return read_shard(self.path)


@dataclasses.dataclass(frozen=True)
class _Kept:
    """What is kept of an interpolation beside the chosen outputs."""

    summary: InterpolationSummary
    sha256: str
    """Of the file of the chosen outputs."""


def interpolate(
    corpus: TeacherCorpus,
    references: Sequence[tuple[str, str]],
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
    note = path.with_suffix(".json")

    def make(_: int) -> None:
        tally, report = _Tally(), on_progress or (lambda _: None)
        write_outputs(path, tally.chosen(corpus, references, similarity, decode, report))
        kept = _Kept(tally.summary(similarity), of_file(path))
        write_json(note, dataclasses.asdict(kept))

    if not note.is_file():
        make_parts(
            corpus.folder,
            [note.name],
            is_made=lambda _: note.is_file(),
            make=make,
            is_finished=lambda: False,
            finish=lambda: None,
        )
    found = Interpolation(path, _read(path, note))
    log_summary(found.summary)
    return found


def _read(path: Path, note: Path) -> InterpolationSummary:
    try:
        kept = TypeAdapter(_Kept).validate_json(note.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{note} must describe the outputs that were chosen from the corpus beside it, found: "
            f"{error}; delete this file to choose again"
        ) from error
    if not path.is_file() or of_file(path) != kept.sha256:
        raise DataError(
            f"{path} must hold the outputs that were chosen from the corpus beside it, but does "
            f"not match its checksum: it was damaged or changed; delete {note} to choose again"
        )
    return kept.summary


class _Tally:
    """Adds up what is chosen while it is chosen."""

    def __init__(self) -> None:
        self._ranks: Counter[int] = Counter()
        self._num_ranks = self._num_hypotheses = self._num_equal = 0
        self._num_without_hypothesis = self._num_without_reference = 0
        self._similarity = self._first_similarity = 0.0

    def chosen(
        self,
        corpus: TeacherCorpus,
        references: Sequence[tuple[str, str]],
        similarity: SentenceSimilarity,
        decode: Callable[[Sequence[int]], str],
        report: Callable[[int], None],
    ) -> Iterator[tuple[str, TeacherOutput | None]]:
        """Each reference's id with the output chosen for it. Raises DataError where none is."""
        named = ((name, (name, reference)) for name, reference in references)
        for (name, reference), outputs in in_step(named, corpus.by_example()):
            report(1)
            finished = [output for output in outputs if output.finished]
            if finished:
                yield name, self._choose(finished, reference, similarity, decode)
            else:
                self._num_without_hypothesis += 1
                yield name, None
        self._num_without_reference = corpus.record.num_examples - len(references)
        if not self._ranks:
            raise DataError(
                "The teacher's corpus must hold finished outputs for examples with a reference, "
                f"but it holds none for the {len(references)} references given; raise "
                "sequences.decoding.max_new_tokens."
            )

    def _choose(
        self,
        hypotheses: Sequence[TeacherOutput],
        reference: str,
        similarity: SentenceSimilarity,
        decode: Callable[[Sequence[int]], str],
    ) -> TeacherOutput:
        texts = [decode(hypothesis.token_ids) for hypothesis in hypotheses]
        similarities = similarity(texts, reference)
        chosen = max(
            range(len(hypotheses)),
            key=lambda at: (similarities[at], hypotheses[at].log_prob, -hypotheses[at].rank),
        )
        first = min(range(len(hypotheses)), key=lambda at: hypotheses[at].rank)
        self._ranks[hypotheses[chosen].rank] += 1
        self._num_ranks = max(self._num_ranks, 1 + max(one.rank for one in hypotheses))
        self._num_hypotheses += len(hypotheses)
        self._similarity += similarities[chosen]
        self._first_similarity += similarities[first]
        self._num_equal += texts[chosen].split() == reference.split()
        return hypotheses[chosen]

    def summary(self, similarity: SentenceSimilarity) -> InterpolationSummary:
        """What was chosen."""
        count = self._ranks.total()
        return InterpolationSummary(
            similarity=similarity.name,
            signature=similarity.signature,
            num_examples=count,
            num_hypotheses=self._num_hypotheses,
            num_without_hypothesis=self._num_without_hypothesis,
            num_without_reference=self._num_without_reference,
            mean_similarity=self._similarity / count,
            mean_first_similarity=self._first_similarity / count,
            mean_rank=sum(rank * times for rank, times in self._ranks.items()) / count,
            rank_counts=tuple(self._ranks[rank] for rank in range(self._num_ranks)),
            exact_match_share=self._num_equal / count,
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
