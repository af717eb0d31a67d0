"""Which kernels a model uses where it runs."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def use_fast_attention(model: PreTrainedModel, device: torch.device) -> None:
    """Chooses the attention that trains fastest on the device, in place; the function is the same.

    On CPUs the backward pass of torch's fused attention is slow for sequences of a sentence's
    length.
    """
    if device.type == "cpu" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation("eager")
