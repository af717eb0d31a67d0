"""What layers compute by transformers' own account, and matches of them as loops over tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tests.tiny import EOS
from torch import Tensor
from transformers import PreTrainedModel

from seqdistill.core.families import Stack
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.features import layers_of


def alone(model: PreTrainedModel, example: EncodedExample) -> dict[Stack, Any]:
    """What transformers gives of one example without padding, by stack."""
    asked = {"output_hidden_states": True, "output_attentions": True, "use_cache": False}
    if not model.config.is_encoder_decoder:
        ids = torch.tensor([[*example.source_ids, *example.target_ids[:-1]]])
        found = model(input_ids=ids, **asked)
        return {"decoder": (found.hidden_states, found.attentions)}
    ids = torch.tensor([[EOS, *example.target_ids[:-1]]])
    found = model(input_ids=torch.tensor([example.source_ids]), decoder_input_ids=ids, **asked)
    return {
        "encoder": (found.encoder_hidden_states, found.encoder_attentions),
        "decoder": (found.decoder_hidden_states, found.decoder_attentions),
    }


PROJECTED: dict[str, Callable[[Any, Tensor], Sequence[Tensor]]] = {
    "t5": lambda layer, h: of_t5(layer.layer[0], h),
    "mbart": lambda layer, h: of_three(layer.self_attn, layer.self_attn_layer_norm(h)),
    "marian": lambda layer, h: of_three(layer.self_attn, h),
    "llama": lambda layer, h: of_three(layer.self_attn, layer.input_layernorm(h)),
    "gpt2": lambda layer, h: layer.attn.c_attn(layer.ln_1(h)).split(16, dim=-1),
}
"""Queries, keys and values from what goes into a layer."""


def of_three(attention: Any, h: Tensor) -> Sequence[Tensor]:
    return [getattr(attention, name)(h) for name in ("q_proj", "k_proj", "v_proj")]


def of_t5(block: Any, h: Tensor) -> Sequence[Tensor]:
    return [getattr(block.SelfAttention, name)(block.layer_norm(h)) for name in "qkv"]


def of_layer(
    model: PreTrainedModel, name: str, whole: Any, number: int, stack: Stack
) -> dict[str, Tensor]:
    """By name what the layer computes, of the `whole` that `alone` gives of its stack."""
    hidden, weights = whole
    found = {"hidden": hidden[number][0], "attention": weights[number - 1][0]}
    if name in PROJECTED:
        layer = layers_of(model, stack)[number - 1]
        projected = (each[0] for each in PROJECTED[name](layer, hidden[number - 1]))
        found |= zip(("queries", "keys", "values"), projected, strict=True)
    return found


def hidden_mse(student: list[Tensor], teacher: list[Tensor], token: int, causal: bool) -> Tensor:
    (own,), (other,) = student, teacher
    squares = [(own[token, k] - other[token, k]) ** 2 for k in range(own.shape[1])]
    return torch.stack(squares).sum() / len(squares)


def hidden_cosine(student: list[Tensor], teacher: list[Tensor], token: int, causal: bool) -> Tensor:
    own, other = student[0][token], teacher[0][token]
    return 1.0 - own @ other / (own @ own).sqrt() / (other @ other).sqrt()


def attention_transfer(
    student: list[Tensor], teacher: list[Tensor], token: int, causal: bool
) -> Tensor:
    maps = []
    for (weights,) in (student, teacher):
        mean = torch.stack([head[token] for head in weights]).sum(dim=0) / len(weights)
        maps.append(mean / (mean @ mean).sqrt())
    difference = maps[0] - maps[1]
    return difference @ difference


def attention_relations(
    student: list[Tensor], teacher: list[Tensor], token: int, causal: bool
) -> Tensor:
    """With three relation heads."""
    divergences = []
    for own, other in zip(student, teacher, strict=True):
        for head in range(3):
            q, p = (
                torch.stack(
                    [
                        part[token] @ part[at] / math.sqrt(part.shape[1])
                        for at in range(token + 1 if causal else len(part))
                    ]
                ).softmax(dim=0)
                for vectors in (own, other)
                for size in [vectors.shape[1] // 3]
                for part in [vectors[:, head * size : (head + 1) * size]]
            )
            divergences.append((p * (p / q).log()).sum())
    return torch.stack(divergences).sum() / 3


ORACLES: dict[str, Callable[[list[Tensor], list[Tensor], int, bool], Tensor]] = {
    "hidden_mse": hidden_mse,
    "hidden_cosine": hidden_cosine,
    "attention_transfer": attention_transfer,
    "attention_relations": attention_relations,
}
"""The features of one sequence without padding -> the value at a token."""
PARAMETERS: dict[str, dict[str, Any]] = {"attention_relations": {"relation_heads": 3}}
