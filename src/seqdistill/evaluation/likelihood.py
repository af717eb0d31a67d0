"""How likely a model finds the references: nats per sentence, by its own forward pass in fp32."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from seqdistill.data.batching import Collator, in_length_order
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import SequenceModel
from seqdistill.objectives.fused import fused_negative_log_likelihood


@dataclasses.dataclass(frozen=True)
class ReferenceLikelihood:
    """Per example, in the order given: total nats of its target and how many tokens it has."""

    nats: tuple[float, ...]
    num_targets: tuple[int, ...]


@torch.no_grad()
def reference_likelihood(
    model: SequenceModel,
    examples: Sequence[EncodedExample],
    collator: Collator,
    *,
    batch_tokens: int = 4096,
) -> ReferenceLikelihood:
    """-log p(target | source) of every example under the model, end token included."""
    model.eval()
    device = next(model.parameters()).device
    nats, counts = [0.0] * len(examples), [0] * len(examples)
    for indices in in_length_order(examples, model.kind, batch_tokens):
        batch = collator([examples[i] for i in indices]).to(device)
        states, mask = model.states(batch), batch.target_mask
        hidden = states.hidden[mask]
        losses = fused_negative_log_likelihood(
            hidden, states.head, batch.target_ids[mask], weights=hidden.new_ones(hidden.shape[0])
        )
        per_position = torch.zeros(mask.shape, dtype=torch.float64, device=device)
        per_position[mask] = losses.values.double()
        for index, total, count in zip(
            indices, per_position.sum(dim=1).tolist(), mask.sum(dim=1).tolist(), strict=True
        ):
            nats[index], counts[index] = total, count
    return ReferenceLikelihood(tuple(nats), tuple(counts))
