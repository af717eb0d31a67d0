"""What a model predicts at every position of the references, by its own forward pass in fp32.

One pass over the hidden states gives all that asks for next-token distributions; logits exist for
a few positions at a time. Averages nothing: see `metrics`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from seqdistill.core.head import Head
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.batching import in_length_order
from seqdistill.data.collating import Collator
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import SequenceModel
from seqdistill.objectives.divergences import NEGLIGIBLE_LOG_PROB
from seqdistill.objectives.fused import nats_of, target_part

CHUNK_LOGITS = 4_000_000
"""Logits at the same time: 16 MB in fp32, so that the passes over them stay in the cache."""


@dataclasses.dataclass(frozen=True, eq=False)
class ReferencePredictions:
    """Per example, in the order given, an array over the positions of its own target.

    The end token is a position like any other.
    """

    target_ids: tuple[tuple[int, ...], ...]
    nats: tuple[Float[np.ndarray, " _"], ...]
    """-log p(target | source, earlier targets)."""
    entropy_nats: tuple[Float[np.ndarray, " _"], ...]
    """-sum p log p of the next-token distribution: 0 for certainty, log vocab_size at most."""
    top_ids: tuple[Int[np.ndarray, " _"], ...]
    """The likeliest next token."""


@torch.no_grad()
def reference_predictions(
    model: SequenceModel,
    examples: Sequence[EncodedExample],
    collator: Collator,
    *,
    batch_tokens: int = 4096,
) -> ReferencePredictions:
    """Likelihood, entropy and likeliest token at each position of every example's target."""
    model.eval()
    device = next(model.parameters()).device
    found: dict[int, tuple[np.ndarray, ...]] = {}
    for indices in in_length_order(examples, model.kind, batch_tokens):
        batch = collator([examples[i] for i in indices]).to(device)
        states, mask = model.states(batch), batch.target_mask
        predicted = _predictions(states.hidden[mask], states.head, batch.target_ids[mask])
        found |= zip(indices, split_by_example(predicted, mask), strict=True)
    nats, entropy, top = zip(*(found[i] for i in range(len(examples))), strict=True)
    return ReferencePredictions(tuple(e.target_ids for e in examples), nats, entropy, top)


def split_by_example(
    values: Sequence[Shaped[Tensor, " positions"]], mask: Bool[Tensor, "batch time"]
) -> Iterator[tuple[np.ndarray, ...]]:
    """For each row of `mask` its part of every tensor over all positions where the mask is True."""
    ends = mask.sum(dim=1).cumsum(dim=0)[:-1].tolist()
    return zip(*(np.split(each.cpu().numpy(), ends) for each in values), strict=True)


def _predictions(
    hidden: Float[Tensor, "positions dim"], head: Head, target_ids: Int[Tensor, " positions"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Nats of the targets and entropies in fp64, and likeliest tokens."""
    nats, entropies, top_ids = [], [], []
    size = max(1, CHUNK_LOGITS // head.vocab_size)
    for rows, targets in zip(torch.split(hidden, size), torch.split(target_ids, size), strict=True):
        logits = head.logits(rows)
        top_ids.append(logits.argmax(dim=-1))
        log_probs = torch.log_softmax(
            logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1
        )
        nats.append(-log_probs.gather(-1, targets[:, None])[:, 0])
        # 0 log 0 = 0, also where a logit is -inf.
        probs = log_probs.exp()
        entropies.append(-probs.mul_(log_probs.clamp_(min=NEGLIGIBLE_LOG_PROB)).sum(dim=-1))
    return (
        torch.cat(nats).double().clamp_(min=0.0),
        torch.cat(entropies).double().clamp_(min=0.0),
        torch.cat(top_ids),
    )


def reference_nats(
    model: SequenceModel,
    examples: Sequence[EncodedExample],
    collator: Collator,
    *,
    batch_tokens: int = 4096,
) -> TokenSum:
    """-log p of the references in nats over their tokens; its mean is the loss on dev.

    The model is in evaluation mode meanwhile and afterwards.
    """
    model.eval()
    device, total = next(model.parameters()).device, TokenSum.zero()
    for indices in in_length_order(examples, model.kind, batch_tokens):
        batch = collator([examples[i] for i in indices]).to(device)
        states, mask = model.states(batch), batch.target_mask
        hidden, targets = states.hidden[mask], batch.target_ids[mask]
        nats = nats_of([target_part(targets)], hidden, states.head).sum()
        total = total + TokenSum(nats, mask.sum().float()).detached()
    return total
