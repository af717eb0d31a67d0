"""Finds a transformers model's output head as data, and proves that it is the right one.

Architectures hide a scale, a bias or a soft cap in their forward pass. What is read here is
compared once, at load time, with the model's own logits; an architecture that does something else
is refused rather than trained on a wrong distribution.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdistill.core.errors import ModelError
from seqdistill.core.head import Head

# fp32 rounding over a few thousand-term dot products stays well below the first; in shorter dtypes
# the logits themselves are rounded, and the steps that lead to them.
_TOLERANCE, _ROUNDINGS = 1e-3, 4
# Gemma caps at 30, others at 15 or 50.
_WIDE_LOGIT = 200.0


def head_of(model: PreTrainedModel) -> Head:
    """The head that turns the model's last hidden states into logits, sharing its live parameters.

    Raises ModelError for a model without an output layer.
    """
    projection = model.get_output_embeddings()
    if not isinstance(projection, nn.Linear):
        raise ModelError(
            "A model must end in a linear output layer over its vocabulary, but "
            f"{type(model).__name__} has {type(projection).__name__}; use a model for conditional "
            "generation or causal language modelling."
        )
    return Head(projection.weight, _bias(model, projection), _scale(model), _soft_cap(model))


def _bias(model: PreTrainedModel, projection: nn.Linear) -> Tensor | None:
    final = getattr(model, "final_logits_bias", None)  # BART, Marian, mBART, Pegasus: a buffer
    if isinstance(final, Tensor) and bool(final.any()):
        return final.reshape(-1)
    return projection.bias


def _scale(model: PreTrainedModel) -> float:
    config = model.config
    if config.model_type in {"t5", "umt5", "longt5", "switch_transformers"}:  # but not mt5
        scaled = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
        return float(config.d_model) ** -0.5 if scaled else 1.0
    if config.model_type in {"cohere", "cohere2"}:
        return float(config.logit_scale)
    if config.model_type.startswith("granite"):
        return 1.0 / float(config.logits_scaling)
    return 1.0


def _soft_cap(model: PreTrainedModel) -> float | None:
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return None if cap is None else float(cap)


def check_head(head: Head, hidden: Tensor, logits: Tensor, architecture: str) -> None:
    """Nothing, when `head.logits(hidden)` equals the model's own `logits`; else a ModelError.

    The tolerance is relative to the largest logit: a random model's are small, and a forgotten
    scale must show there too.
    """
    difference = (head.logits(hidden.float()) - logits.float()).abs().max().item()
    largest = logits.abs().max().item()
    tolerance = max(_TOLERANCE, _ROUNDINGS * torch.finfo(logits.dtype).eps)
    if not difference <= tolerance * largest:
        raise ModelError(
            f"The output head read from {architecture} must give the model's own logits, but they "
            f"differ by {difference:.3g} where the largest is {largest:.3g}: its forward pass does "
            "something that seqdistill does not know (a scale, cap or extra layer). Use another "
            "architecture."
        )


def widening(head: Head, hidden: Tensor) -> float:
    """By what to multiply `hidden` so that its largest logit is far beyond any usual soft cap.

    Near zero a cap is the identity: a random model hides that it has one.
    """
    uncapped = dataclasses.replace(head, soft_cap=None).logits(hidden.float())
    return max(1.0, _WIDE_LOGIT / max(uncapped.abs().max().item(), 1e-6))


@contextlib.contextmanager
def widened_head_input(model: PreTrainedModel, factor: float) -> Iterator[None]:
    """While open, the model's own output layer reads `factor` times its input."""
    projection = model.get_output_embeddings()
    handle = projection.register_forward_pre_hook(lambda _layer, inputs: (inputs[0] * factor,))
    try:
        yield
    finally:
        handle.remove()


def tiny_ids(model: PreTrainedModel) -> Tensor:
    """Three token ids that every vocabulary has, as a batch of one: enough to compare logits."""
    num_rows: int = model.get_input_embeddings().weight.shape[0]
    return torch.tensor([[3, 1, 2]], device=model.device) % num_rows
