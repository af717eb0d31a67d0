"""A shortened model: the right layers, shared weights still shared, and it loads again."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import CAUSAL, SEQ2SEQ, tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdistill.compression.layers import evenly_spaced, keep_layers, parameter_count
from seqdistill.core.errors import ModelError

DEEP = {
    **dict.fromkeys(("encoder_layers", "num_layers", "num_hidden_layers", "n_layer"), 4),
    **{"decoder_layers": 3, "num_decoder_layers": 3, "sliding_window": 8},
}
IDS = torch.tensor([[4, 5, 6, 7, 8, 9, 10, 11, 12, 13]])


def shortened(name: str, model: PreTrainedModel) -> PreTrainedModel:
    encoder_layers = 2 if name in SEQ2SEQ else None
    return keep_layers(model, encoder_layers=encoder_layers, decoder_layers=2)


@torch.no_grad()
def logits_of(model: PreTrainedModel) -> Tensor:
    named = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    logits: Tensor = model(input_ids=IDS, use_cache=False, **named).logits
    return logits


def with_layers_removed(model: PreTrainedModel, side: str, kept: tuple[int, ...]) -> None:
    """The plain way to shorten: drops modules of a live model, found by name here."""
    base: Any = model.base_model
    holder = getattr(base, side) if model.config.is_encoder_decoder else base
    layers: nn.ModuleList = next(
        getattr(holder, name) for name in ("layers", "block", "h") if hasattr(holder, name)
    )
    for index in reversed(range(len(layers))):
        if index not in kept:
            del layers[index]


@pytest.mark.parametrize("name", SEQ2SEQ + CAUSAL)
def test_it_computes_what_the_kept_layers_do_loads_again_and_leaves_the_original_alone(
    name: str, tmp_path: Path
) -> None:
    model = tiny_model(name, **DEEP)
    plain, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    settings, state = model.config.to_dict(), torch.get_rng_state()
    smaller = shortened(name, model)
    assert torch.equal(torch.get_rng_state(), state)
    if name in SEQ2SEQ:
        with_layers_removed(plain, "encoder", (0, 3))
        with_layers_removed(plain, "decoder", (0, 2))
    else:
        with_layers_removed(plain, "decoder", (0, 3))
        plain.config.num_hidden_layers = 2
        if name == "gemma2":  # what a layer attends to goes with it
            assert model.config.layer_types == ["sliding_attention", "full_attention"] * 2
            plain.config.layer_types = ["sliding_attention", "full_attention"]
    assert torch.equal(logits_of(smaller), logits_of(plain))
    assert not torch.allclose(logits_of(smaller), logits_of(model))
    smaller.save_pretrained(tmp_path)
    loaded = type(smaller).from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.equal(logits_of(loaded), logits_of(smaller))
    assert parameter_count(loaded) == parameter_count(smaller) < parameter_count(model)
    tied = [
        m.get_output_embeddings().weight is m.get_input_embeddings().weight
        for m in (model, smaller)
    ]
    assert tied[0] == tied[1]
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.fill_(7.0)
    assert all(torch.equal(before[key], now) for key, now in model.state_dict().items())
    assert model.config.to_dict() == settings


@pytest.mark.parametrize("name", ["mbart", "t5", "gemma2", "gpt2"])
def test_generation_with_a_cache_equals_generation_without(name: str) -> None:
    smaller, ids = shortened(name, tiny_model(name, **DEEP)), IDS[:, :4]
    named: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "decoder_start_token_id": 1}
    cached, plain = (
        smaller.generate(input_ids=ids, max_new_tokens=6, do_sample=False, use_cache=cache, **named)
        for cache in (True, False)
    )
    assert torch.equal(cached, plain)


def test_a_copy_of_every_layer_says_the_same_and_drops_none_at_random() -> None:
    model = tiny_model("mbart", **DEEP)
    for side in (model.config, model.base_model.encoder, model.base_model.decoder):
        for key in ("encoder_layerdrop", "decoder_layerdrop", "layerdrop"):
            if hasattr(side, key):
                setattr(side, key, 0.9)
    same = keep_layers(model, encoder_layers=None, decoder_layers=None)
    assert torch.equal(logits_of(same), logits_of(model))
    assert same.base_model.decoder.layerdrop == same.base_model.encoder.layerdrop == 0.0
    assert model.config.decoder_layerdrop == 0.9


def test_evenly_spaced_keeps_ends_and_leaves_gaps_that_differ_by_one_at_most() -> None:
    for total, keep in itertools.product(range(1, 14), repeat=2):
        if keep > total:
            continue
        chosen = evenly_spaced(total, keep)
        assert len(set(chosen)) == keep and list(chosen) == sorted(chosen) and chosen[0] == 0
        if keep >= 2:
            assert chosen[-1] == total - 1
            gaps = {later - earlier for earlier, later in itertools.pairwise(chosen)}
            assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("name", "encoder", "decoder", "sentence"),
    [
        ("mbart", 5, 1, r"from 1 to 4 .* but 5 were asked for.*encoder_layers"),
        ("mbart", 1, 0, "but 0 were asked for"),
        ("llama", 2, 2, "llama has no encoder"),
    ],
)
def test_layers_that_do_not_exist_are_refused_by_name(
    name: str, encoder: int, decoder: int, sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        keep_layers(tiny_model(name, **DEEP), encoder_layers=encoder, decoder_layers=decoder)
