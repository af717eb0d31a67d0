"""Proves that two models are one: by their logits on a few tokens.

A state dict cannot: weights that were tied, or are tied on loading, differ only in what comes out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from seqdistill.models.dropout import evaluation_mode
from seqdistill.models.modalities import modality_of

_NUM_PROBES = 8
EXACT, HALVED = 1e-4, 2e-2
"""Largest difference of logits, as a share of the largest logit. Of the same weights in fp32,
added up in another order; of weights rounded to fp16 (each by 5e-4 of itself at most)."""


@torch.no_grad()
def probe_logits(model: PreTrainedModel) -> Float[Tensor, "1 time vocab"]:
    """What the model says, in eval mode, of tokens spread evenly over its vocabulary."""
    rows = model.get_output_embeddings().weight.shape[0]
    steps = torch.linspace(0, rows - 1, _NUM_PROBES + 1)[1:]
    ids = steps.long().unsqueeze(0).to(model.device)
    named = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        modality = modality_of(model)
        if not modality.reads_text:
            named = modality.arguments(modality.pad([modality.tiny(model)]).to(model.device))
        named["decoder_input_ids"] = ids.flip(1)
    with evaluation_mode(model):
        logits: Tensor = model(**named, use_cache=False).logits
    return logits.float().cpu()


def difference(said: Float[Tensor, "1 time vocab"], other: Float[Tensor, "1 time _vocab"]) -> float:
    """The largest difference as a share of the largest logit; infinite for other shapes or NaN."""
    if said.shape != other.shape:
        return float("inf")
    share = ((said - other).abs().max() / said.abs().max().clamp(min=1e-6)).item()
    return share if share == share else float("inf")
