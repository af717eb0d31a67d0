"""Recurrent models whose states take in padding, or do not move with beams, write as they do alone.

The oracle is the whole sequence read again at every step: no cache, no batch, no padding.
"""

from __future__ import annotations

import pytest
import torch
from tests.tiny import character_tokenizer
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from seqdistill.generation.decoding import Decoding
from seqdistill.generation.transformers_engine import TransformersGenerator

TOKENIZER = character_tokenizer()
VOCAB, END, LONGEST = len(TOKENIZER), int(TOKENIZER.eos_token_id or 0), 6
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [9, 4, 8], [12]]
BUILD = {
    "rwkv": lambda: RwkvForCausalLM(
        RwkvConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, context_length=32)
    ),
    "recurrent_gemma": lambda: RecurrentGemmaForCausalLM(
        RecurrentGemmaConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            lru_width=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            attention_window_size=16,
            block_types=["recurrent", "attention"],
        )
    ),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, state_size=4)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    ),
}
every_model = pytest.mark.parametrize("name", BUILD)


def built(name: str) -> PreTrainedModel:
    torch.manual_seed(3)
    model: PreTrainedModel = BUILD[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)  # random weights say nearly the same of everything
    return model


def written(name: str, beam_size: int) -> list[tuple[int, ...]]:
    generator = TransformersGenerator(built(name), TOKENIZER, kind="causal")
    decoding = Decoding(mode="beam", beam_size=beam_size, max_new_tokens=LONGEST)
    return [found[0].token_ids for found in generator.generate(PROMPTS, decoding)]


@torch.no_grad()
def read_again(model: PreTrainedModel, prompt: list[int]) -> tuple[int, ...]:
    ids = list(prompt)
    while len(ids) < len(prompt) + LONGEST and ids[-1] != END:
        logits: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


@every_model
def test_a_batch_is_greedy_as_each_prompt_alone(name: str) -> None:
    model = built(name)
    assert written(name, 1) == [read_again(model, prompt) for prompt in PROMPTS]


@every_model
def test_beams_are_those_without_a_cache(name: str) -> None:
    model = built(name)
    found = [
        model.generate(
            input_ids=torch.tensor([prompt]),
            num_beams=3,
            max_new_tokens=LONGEST,
            do_sample=False,
            use_cache=False,
            early_stopping=True,
            eos_token_id=END,
            pad_token_id=END,
        )[0, len(prompt) :].tolist()
        for prompt in PROMPTS
    ]
    assert written(name, 3) == [tuple(ids) for ids in found]
