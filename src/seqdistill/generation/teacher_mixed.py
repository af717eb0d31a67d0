"""Sequences written token by token by a mixture of teacher and student.

A student that writes alone soon leaves what the teacher knows, and finds outputs that a reward
overrates; a share of the teacher in every token keeps it near. What corrects for that share (the
weights q / mixture) is the objective's work, for which each token's log-probability is told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdistill.core.completions import Completions
from seqdistill.core.errors import ModelError, RecipeError
from seqdistill.core.source import Source
from seqdistill.generation.decoding import Decoding
from seqdistill.generation.model_facts import check_lengths, facts_of
from seqdistill.generation.next_tokens import CachedModel
from seqdistill.generation.sampling import (
    Precision,
    check_rollout_decoding,
    log_probs_of,
    prove_steps,
    writing,
    written_samples,
)
from seqdistill.models.adapters import Kind
from seqdistill.models.dropout import evaluation_mode


class TeacherMixedSampler:
    """A `Sampler` of the mixture teacher_fraction p + (1 - teacher_fraction) q at every token.

    p is the teacher and q the student, each over its first `vocab_size` symbols (the tail beyond
    is padding and is cut off before the softmax) and at the temperature, top_k and top_p of
    `decoding`. Log-probabilities are the mixture's. A share of 0 is the student alone, 1 the
    teacher alone.

    Source: Gu et al. 2023 (MiniLLM), sec. 2.2, teacher-mixed sampling, teacher_fraction 0.2.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        kind: Kind,
        decoding: Decoding,
        vocab_size: int,
        teacher_fraction: float = 0.2,
        precision: Precision = "fp32",
    ) -> None:
        """`tokenizer` is the student's; token ids mean the same to both models.

        Raises RecipeError for a share outside [0, 1] and for greedy decoding, and ModelError for a
        model with fewer symbols than `vocab_size` or without what `TransformersSampler` needs.
        """
        check_rollout_decoding(decoding)
        if decoding.mode != "sample":
            raise RecipeError("A mixture of teacher and student must be sampled; use mode: sample")
        if not 0.0 <= teacher_fraction <= 1.0:
            raise RecipeError(f"teacher_fraction must lie in [0, 1], got {teacher_fraction}")
        self._student_facts = facts_of(student, tokenizer, kind=kind)
        self._teacher_facts = facts_of(teacher, tokenizer, kind=kind)
        for whose, facts in (("student", self._student_facts), ("teacher", self._teacher_facts)):
            if facts.vocab_size < vocab_size:
                raise ModelError(
                    f"The {whose} must score the {vocab_size} symbols shared by both models, but "
                    f"it has {facts.vocab_size}; use the smaller of the two sizes."
                )
        prove_steps(student, self._student_facts)
        prove_steps(teacher, self._teacher_facts)
        self._student, self._teacher = student, teacher
        self._decoding = decoding
        self._vocab_size = vocab_size
        self._teacher_share = teacher_fraction
        self._precision: Precision = precision

    def refresh(self) -> None:
        """Nothing: the models are read as they are at every call."""

    def sample(self, prompts: Sequence[Source], *, seed: int) -> Completions:
        """See `Sampler.sample`."""
        for facts in (self._student_facts, self._teacher_facts):
            check_lengths(prompts, max_new_tokens=self._decoding.max_new_tokens, facts=facts)
        device = self._student.device
        with (
            evaluation_mode(self._student),
            evaluation_mode(self._teacher),
            writing(device, self._precision),
        ):
            mixture = _Mixture(
                CachedModel(self._student, self._student_facts),
                CachedModel(self._teacher, self._teacher_facts),
                self._decoding,
                vocab_size=self._vocab_size,
                teacher_fraction=self._teacher_share,
            )
            return written_samples(
                mixture,
                prompts,
                self._decoding,
                end_ids=self._student_facts.end_ids,
                seed=seed,
                device=device,
            )


class _Mixture:
    """The mixture's log-probabilities, with a cache for each model."""

    def __init__(
        self,
        student: CachedModel,
        teacher: CachedModel,
        decoding: Decoding,
        *,
        vocab_size: int,
        teacher_fraction: float,
    ) -> None:
        self._student, self._teacher = student, teacher
        self._decoding = decoding
        self._vocab_size = vocab_size
        self._log_teacher_share = math.log(teacher_fraction) if teacher_fraction else -math.inf
        self._log_student_share = (
            math.log1p(-teacher_fraction) if teacher_fraction < 1 else -math.inf
        )

    def begin(self, prompts: Sequence[Source]) -> Float[Tensor, "batch vocab"]:
        return self._mixed(self._student.begin(prompts), self._teacher.begin(prompts))

    def advance(self, token_ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        return self._mixed(self._student.advance(token_ids), self._teacher.advance(token_ids))

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        self._student.keep(rows)
        self._teacher.keep(rows)

    def _mixed(
        self,
        student_logits: Float[Tensor, "batch student_vocab"],
        teacher_logits: Float[Tensor, "batch teacher_vocab"],
    ) -> Float[Tensor, "batch vocab"]:
        student = log_probs_of(student_logits[:, : self._vocab_size], self._decoding)
        teacher = log_probs_of(teacher_logits[:, : self._vocab_size], self._decoding)
        return torch.logaddexp(self._log_student_share + student, self._log_teacher_share + teacher)
