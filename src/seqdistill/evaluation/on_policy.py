"""What a student meets on its own outputs: how far the teacher is there, and its recovery rate.

Training on given sequences shows a student none of its own mistakes; these numbers say what that
costs. KL and overlap are of the model's own forward pass; samples come from the system's engine.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from seqdistill.core.errors import ModelError
from seqdistill.core.generators import derived_seed, named_generator
from seqdistill.core.head import Head
from seqdistill.data.batching import in_length_order
from seqdistill.data.collating import Collator
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.encoding import EncodedExample
from seqdistill.evaluation.likelihood import CHUNK_LOGITS, split_by_example
from seqdistill.evaluation.settings import EvaluationSettings, measured, scored
from seqdistill.generation.decoding import Hypothesis, SequenceGenerator
from seqdistill.generation.sampling import TransformersSampler
from seqdistill.metrics.score import SummedStatistics, mean_statistics
from seqdistill.metrics.soundness import fraction_kept
from seqdistill.models.adapters import SequenceModel
from seqdistill.objectives.divergences import (
    at_least_fp32,
    forward_kl,
    reverse_kl,
    total_variation,
)
from seqdistill.objectives.overlap import shared_top_mass
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records.results import Forced, Value

_LOG = logging.getLogger(__name__)


class ToTeacher(TypedDict, total=False):
    """How far a student is from its teacher on samples of its own; means over their tokens.

    Empty where that was not measured.
    """

    kl_student_teacher_own: Value
    kl_teacher_student_own: Value
    topk_overlap_own: Value
    acceptance_own: Value


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Per example, in the order given, an array over the positions of its target."""

    kl_student_teacher: tuple[Float[np.ndarray, " _"], ...]
    """The reverse divergence KL(student || teacher) in nats, over the whole vocabulary."""
    kl_teacher_student: tuple[Float[np.ndarray, " _"], ...]
    """The forward divergence KL(teacher || student)."""
    topk_overlap: tuple[Float[np.ndarray, " _"], ...]
    """`shared_top_mass` of the student."""
    acceptance: tuple[Float[np.ndarray, " _"], ...]
    """sum min(student, teacher) = 1 - TVD: the chance that the teacher accepts a token which the
    student drafts there, in speculative sampling at temperature 1."""


def compared_on_own_samples(
    generator: SequenceGenerator,
    model: SequenceModel,
    teacher: SequenceModel,
    examples: Sequence[EncodedExample],
    collator: Collator,
    settings: EvaluationSettings,
    *,
    vocab_size: int,
) -> ToTeacher:
    """KL in both directions, overlap and acceptance on one sample of each source, with intervals
    over sources.

    Samples are of temperature 1, from the whole distribution; every token of theirs counts, the end
    too. Both models know the ids below `vocab_size`: softmaxes are over these, and a sample is read
    up to the first id beyond. Empty where nothing was sampled.

    Source: Agarwal et al. 2024 (GKD), sec. 3, for the samples.
    """
    decoding = Decoding(mode="sample", max_new_tokens=settings.section.max_new_tokens)
    seed = derived_seed(settings.seed, "evaluation/own samples")
    found = generator.generate([e.prompt for e in examples], decoding, seed=seed)
    samples = [
        example.answered(tuple(itertools.takewhile(lambda i: i < vocab_size, best.token_ids)))
        for example, (best,) in zip(examples, found, strict=True)
    ]
    counts = [len(sample.target_ids) for sample in samples]
    if not any(counts):
        return {}
    written = [sample for sample in samples if sample.target_ids]
    comparison = compared_with_teacher(model, teacher, written, collator, vocab_size=vocab_size)

    def mean(name: str, values: Sequence[Float[np.ndarray, " _"]]) -> Value:
        sums = (float(of_one.sum()) for of_one in values)
        totals = [next(sums) if count else 0.0 for count in counts]
        signature = "own samples|temperature 1|eos:scored"
        return measured(mean_statistics(name, signature, totals, counts), settings)

    return {
        "kl_student_teacher_own": mean("KL(student || teacher)", comparison.kl_student_teacher),
        "kl_teacher_student_own": mean("KL(teacher || student)", comparison.kl_teacher_student),
        "topk_overlap_own": mean("top-k overlap", comparison.topk_overlap),
        "acceptance_own": mean("acceptance", comparison.acceptance),
    }


@torch.no_grad()
def compared_with_teacher(
    model: SequenceModel,
    teacher: SequenceModel,
    examples: Sequence[EncodedExample],
    collator: Collator,
    *,
    vocab_size: int,
    batch_tokens: int = 4096,
) -> Comparison:
    """Student and teacher at each position of every example's target, over their first ids.

    Both read the batches of the student's `collator`. They are in evaluation mode afterwards.
    """
    model.eval()
    teacher.eval()
    device = next(model.parameters()).device
    found: dict[int, tuple[np.ndarray, ...]] = {}
    for indices in in_length_order(examples, model.kind, batch_tokens):
        batch = collator([examples[i] for i in indices]).to(device)
        own, its, mask = model.states(batch), teacher.states(batch), batch.target_mask
        values = _compared(
            own.hidden[mask],
            own.head.cut(vocab_size),
            its.hidden[mask],
            its.head.cut(vocab_size),
        )
        found |= zip(indices, split_by_example(values, mask), strict=True)
    return Comparison(*zip(*(found[i] for i in range(len(examples))), strict=True))


def _compared(
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    teacher_hidden: Float[Tensor, "positions teacher_dim"],
    teacher_head: Head,
) -> tuple[Tensor, ...]:
    """What a `Comparison` has, in its order, in fp64, chunk by chunk."""
    size = max(1, CHUNK_LOGITS // head.vocab_size)
    chunks = []
    for rows, its_rows in zip(
        torch.split(hidden, size), torch.split(teacher_hidden, size), strict=True
    ):
        own, its = (
            at_least_fp32(of.logits(states)).log_softmax(dim=-1)
            for of, states in ((head, rows), (teacher_head, its_rows))
        )
        accepted = 1.0 - total_variation(own, its)
        values = (reverse_kl(own, its), forward_kl(own, its), shared_top_mass(own, its), accepted)
        chunks.append(torch.stack(values).double())
    return tuple(torch.cat(chunks, dim=1))


def texts_after_wrong_token(
    model: SequenceModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[EncodedExample],
    greedy: Sequence[Hypothesis | None],
    settings: EvaluationSettings,
) -> tuple[str, ...] | None:
    """Greedy outputs in which one token is forced to be the second likeliest; the rest follows it.

    Its place is drawn evenly from those of the system's `greedy` output but the end, by a number
    that depends on the seed and the example's place alone; an empty output stays as it is. An end
    is not forced: nothing follows it. The live model writes, whatever the engine. None, with a
    warning, for a model that cannot write token by token.

    Source: ours, after Ross et al. 2011 (DAgger), whose bound is linear in the length where what
    one wrong step costs is bounded.
    """
    try:
        writer = TransformersSampler(
            model.module, tokenizer, kind=model.kind, decoding=settings.greedy
        )
    except ModelError as error:
        _LOG.warning("no token is forced into the outputs: %s", error)
        return None
    generator = named_generator(settings.seed, "evaluation/wrong token")
    draws = torch.rand(len(examples), dtype=torch.float64, generator=generator).tolist()
    lengths = [0 if hypothesis is None else len(hypothesis.content_ids) for hypothesis in greedy]
    places = [int(u * n) if n else -1 for u, n in zip(draws, lengths, strict=True)]
    written = writer.greedy_after_wrong_token([e.prompt for e in examples], places)
    ends = written.finished.tolist()
    ids = [row[: len(row) - end] for row, end in zip(written.rows(), ends, strict=True)]
    return tuple(text.strip() for text in TextDecoder(tokenizer).texts(ids))


def forced(
    texts: Sequence[str],
    greedy: SummedStatistics,
    references: Sequence[str],
    settings: EvaluationSettings,
) -> Forced:
    """Every metric of outputs in which a token was forced, and what is kept of the main metric.

    `greedy` is the main metric of the same system's plain greedy outputs.
    """
    found = {name: settings.metric(name).statistics(texts, references) for name in settings.metrics}
    main = settings.main_metric
    after, before = (of.score().value for of in (found[main.name], greedy))
    return Forced(
        scores={name: scored(statistics, settings) for name, statistics in found.items()},
        kept=fraction_kept(after, before, higher_is_better=main.higher_is_better),
    )
