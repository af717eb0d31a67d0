"""What a live model cannot do in a batch, found by asking it and not by its name.

Recurrent layers of some architectures (RWKV, RecurrentGemma) read the padding before a prompt,
whatever the attention mask says, and keep their states where a beam search does not move them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache, GenerationConfig, PreTrainedModel

from seqdistill.core.source import padded_ids
from seqdistill.models.proof import difference

_PADDING = 8
"""Columns of padding that are tried."""
_ROUNDING = {torch.float32: 1e-3}
"""Differences of logits, as a share of the largest, that batches of other shapes may make."""
_COARSE_ROUNDING = 5e-2


def reads_padding(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> bool:
    """Whether a decoder-only model says something else of a prompt when a longer one is beside it.

    Asked of the shortest of `prompts`, in the caller's evaluation mode; False where all are as
    long, since nothing is padded then.
    """
    shortest, longest = min(prompts, key=len), max(prompts, key=len)
    if len(shortest) == len(longest):
        return False
    together = [shortest, longest[: len(shortest) + _PADDING]]
    alone, beside = _next_logits(model, [shortest]), _next_logits(model, together)[:1]
    return difference(alone, beside) > _ROUNDING.get(alone.dtype, _COARSE_ROUNDING)


def _next_logits(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]]
) -> Float[Tensor, "batch 1 vocab"]:
    ids, mask = padded_ids(prompts, side="left")
    # All said out loud: `generate` fills what is left out from the model's own configuration.
    config = GenerationConfig(
        max_new_tokens=1,
        do_sample=False,
        num_beams=1,
        num_return_sequences=1,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    found = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.long().to(model.device),
        generation_config=config,
    )
    logits: Tensor = found.logits[0]
    return logits[:, None]


def moves_with_beams(model: PreTrainedModel, prompt: Sequence[int]) -> bool:
    """Whether a decoder-only model hands on a cache that a beam search can put in another order."""
    ids = torch.tensor([[prompt[0]]], device=model.device)
    output = model(input_ids=ids, use_cache=True)
    return any(isinstance(output.get(key), Cache) for key in ("past_key_values", "cache_params"))
