"""Divergences from a teacher of which some symbols are known, as a part of `fused_sum`.

Both distributions are compared over the known symbols and one more, all others together: the rest
of the student's mass against the rest of the teacher's. Where the teacher is known at every symbol
that is the divergence itself; else, of any that never rises where symbols are put together, a lower
bound of it. Of the student a chunk has its logits, and no copy of them.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seqdistill.core.errors import RecipeError
from seqdistill.core.families import Divergence
from seqdistill.core.registry import Chosen
from seqdistill.core.scores import SparseScores
from seqdistill.objectives.chunked import Blocking, Part, RowLoss
from seqdistill.objectives.fused import called_with, checked_values


def sparse_part(
    divergence: str | Chosen[Divergence],
    scores: SparseScores,
    *,
    factor: float = 1.0,
    temperature: float = 1.0,
    weights: Float[Tensor, " positions"] | None = None,
    **parameters: Any,
) -> Part:
    """The divergence from the scores of a row of positions, as `fused.teacher_part` is from all.

    `temperature` is that at which the scores are: it divides the student's logits alone. The
    gradient of the few compared numbers is autograd's, chunk by chunk; from there to the logits, of
    which the others' mass is a log-sum-exp, it is written out.

    Raises RecipeError for a divergence that has no use for the scores' form.
    """
    member, arguments = called_with(divergence, parameters)
    if scores.form not in member.sparse:
        raise RecipeError(
            f"the divergence {member.name} must compare with scores that are "
            f"{' or '.join(member.sparse) or 'dense'}, got {scores.form} ones; use forward_kl, or "
            "a teacher's whole distribution"
        )
    has_mass = ~scores.log_probs.isneginf()
    # What fills a position repeats its first symbol: written twice, with one value.
    ids = torch.where(has_mass, scores.ids, scores.ids[:, :1])

    def open_loss(_blocking: Blocking, dtype: torch.dtype) -> RowLoss:
        teacher = torch.cat([scores.log_probs, scores.tail_log_mass[:, None]], dim=-1).to(dtype)

        def rows(start: int, stop: int, logits: Tensor) -> Tensor:
            own, there = ids[start:stop], has_mass[start:stop]
            known = logits.gather(-1, own).masked_fill_(~there, -torch.inf)
            rest = _soft_rest(logits.scatter_(-1, own, -torch.inf))
            with torch.enable_grad():
                merged = torch.cat([known, rest], dim=-1).requires_grad_()
                log_probs = merged.log_softmax(dim=-1)
                values = checked_values(member, log_probs, teacher[start:stop], arguments)
                (gradient,) = torch.autograd.grad(values.sum(), merged)
            logits.mul_(gradient[:, -1:])
            of_known = torch.where(there, gradient[:, :-1], gradient[:, :1])
            logits.scatter_(-1, own, of_known)
            broken = log_probs[:, :1].isnan()
            return values.detach().unsqueeze(-1).masked_fill(broken, torch.nan)

        return rows

    return Part(open_loss, factor, temperature, scores.vocab_size, weights)


def _soft_rest(logits: Tensor) -> Tensor:
    """The log-sum-exp of every row, (rows, 1); the logits become their softmax, its gradient.

    -inf where all of them are, with a gradient of 0 for all that is no longer there.
    """
    largest = logits.amax(dim=-1, keepdim=True)
    nothing = largest.isneginf()
    torch.softmax(logits.masked_fill_(nothing, 0.0), dim=-1, out=logits)
    rest = largest - logits.amax(dim=-1, keepdim=True).log()
    return rest.masked_fill_(nothing, -torch.inf)
