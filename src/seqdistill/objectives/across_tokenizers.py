"""Divergences from a teacher whose tokens are not the student's, and their sums over chunks.

Student first, teacher second, as in `divergences`. Which tokens make a chunk is not known here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqdistill.core.families import ChunkLikelihood, Divergence
from seqdistill.core.head import Head, TeacherHead
from seqdistill.objectives import divergences
from seqdistill.objectives.chunked import FusedSum, Part
from seqdistill.objectives.fused import checked_values, fused_sum, nats_of, target_part


def uld(
    student_log_probs: Float[Tensor, "*batch vocab"],
    teacher_log_probs: Float[Tensor, "*batch teacher_vocab"],
) -> Float[Tensor, "*batch"]:
    """Universal logit distillation: sum_i |P_(i) - Q_(i)|, both sorted, between 0 and 2.

    P_(i) is the i-th largest probability, 0 beyond the smaller vocabulary. It is the Wasserstein
    distance where moving mass from any symbol to any other costs the same, and says nothing of
    which symbols they are: a student that is as sure of a wrong word as its teacher is of the right
    one is at 0. It is a probability, not nats. The gradient goes through the student's sort, and is
    0 where two probabilities of one rank are equal.

    Source: Boizard et al. 2024 (ULD), eq. 5.
    """
    student, teacher = divergences.checked_pair(student_log_probs, teacher_log_probs)
    own, others = (each.exp().sort(dim=-1, descending=True).values for each in (student, teacher))
    shared = min(own.shape[-1], others.shape[-1])
    apart = (own[..., :shared] - others[..., :shared]).abs().sum(dim=-1)
    beyond = own[..., shared:].sum(dim=-1) + others[..., shared:].sum(dim=-1)
    return divergences.within(apart + beyond, 2.0)


def chunk_likelihood(
    student_log_probs: Float[Tensor, "*chunks"],
    teacher_log_probs: Float[Tensor, "*chunks"],
    of: Literal["forward_kl", "reverse_kl", "total_variation"] = "forward_kl",
    chunk_temperature: float = 100.0,
) -> Float[Tensor, "*chunks"]:
    """The divergence `of` between (p, 1 - p) and (q, 1 - q), in nats for every chunk.

    p = P(chunk)^(1 / T) and q = Q(chunk)^(1 / T), of the chunk's log-probabilities: the sums of
    those of its tokens; T is `chunk_temperature`. Zero exactly where both models find the chunk
    equally likely. A log-probability is held below 0 by the rounding of its dtype, so that a model
    that is sure of a chunk does not make the divergence infinite; the gradient passes through.

    Raises ValueError for parameters out of range.

    Source: Minixhofer et al. 2025 (ALM), sec. 3. Their threshold, which leaves out chunks whose end
    is a likelier place for a token's end in one tokenizer than in the other, is not applied.
    """
    ChunkLikelihood(of=of, chunk_temperature=chunk_temperature)
    student, teacher = (
        _two_outcomes(divergences.at_least_fp32(each), chunk_temperature)
        for each in (student_log_probs, teacher_log_probs)
    )
    function = getattr(divergences, of)
    values: Tensor = function(student, teacher)
    return values


def _two_outcomes(log_probs: Tensor, temperature: float) -> Tensor:
    """(..., 2): the log-probability at that temperature, and that of anything else."""
    with torch.no_grad():
        held = log_probs.clamp(max=-torch.finfo(log_probs.dtype).eps) - log_probs
        held = torch.where(held.isfinite(), held, 0.0)
    chunk = (log_probs + held) / temperature
    return torch.stack([chunk, (-torch.expm1(chunk)).log()], dim=-1)


def chunk_nats(
    hidden: Float[Tensor, "positions dim"],
    head: TeacherHead,
    target_ids: Int[Tensor, " positions"],
    chunk_of: Int[Tensor, " positions"],
    num_chunks: int,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, " chunks"]:
    """-log of each chunk's probability: the sum over its positions, without a gradient."""
    nats = nats_of([_targets(target_ids, temperature)], hidden, head)[0]
    return nats.new_zeros(num_chunks).index_add(0, chunk_of, nats)


def _targets(target_ids: Tensor, temperature: float) -> Part:
    return dataclasses.replace(target_part(target_ids), temperature=temperature)


def chunk_sum(
    member: Divergence,
    arguments: Mapping[str, Any],
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    target_ids: Int[Tensor, " positions"],
    chunk_of: Int[Tensor, " positions"],
    teacher_log_probs: Float[Tensor, " chunks"],
    *,
    weights: Float[Tensor, " chunks"],
    factor: float = 1.0,
    temperature: float = 1.0,
) -> FusedSum:
    """The sum over chunks of factor x weight x divergence, as `fused_sum` gives one over positions.

    The head is walked twice: for the chunks' likelihoods, and for the gradient, in which every
    token of a chunk has the weight that the divergence's slope at that likelihood gives it. Both
    walks hold the logits of a few positions at a time.
    """
    nats = chunk_nats(
        hidden, head, target_ids, chunk_of, len(teacher_log_probs), temperature=temperature
    )
    with torch.enable_grad():
        log_probs = (-nats).requires_grad_()
        teacher = teacher_log_probs.to(log_probs.dtype)
        values = checked_values(member, log_probs, teacher, arguments)
        (slope,) = torch.autograd.grad(values.sum(), log_probs)
    values, weights = values.detach(), factor * weights.to(values.dtype)
    pulled = fused_sum(
        hidden, head, [_targets(target_ids, temperature)], weights=-(weights * slope)[chunk_of]
    ).total
    return FusedSum(pulled - pulled.detach() + (weights * values).sum(), values.unsqueeze(0))
