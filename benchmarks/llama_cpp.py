"""Runs exported GGUF files in llama.cpp itself, beside the model that they were made of.

    pip install xllamacpp    # llama.cpp for Python
    python -m benchmarks.llama_cpp docs/results/llama_cpp.json [--models MODEL ...] [--data DATA]

A MODEL is a folder, `bundled:arithmetic`, whose texts then begin with a blank, since no GGUF file
says that its tokenizer adds one, or `random`: a Llama of random weights and a byte-level
vocabulary of DATA. For each form with llama.cpp's defaults, whose attention is computed in f16, and
for the first also with attention in f32: of the first prompts of DATA, as token ids and as texts
(llama.cpp tokenizes), how many greedy outputs are the model's own, by transformers in fp32, token
by token; how far the log-probabilities of the first written token's likeliest five lie apart; and
where outputs part, how far apart the model's own two likeliest tokens are (`gaps`), and how often
llama.cpp took the second.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from seqdistill.assembly.data import encode_for
from seqdistill.assembly.models import model_folder
from seqdistill.data.conversations import PLAIN_CHAT
from seqdistill.data.examples import Example
from seqdistill.data.readers import read_examples
from seqdistill.generation.gguf_file import GGUF_TYPES, GgufType, write_gguf
from seqdistill.models.loading import LoadedModel, load_pair
from seqdistill.records.atomic import write_json
from seqdistill.records.environment import environment_facts
from seqdistill.records.temporary import temporary_folder

NUM_PROMPTS, NUM_TOKENS = 32, 24
BUNDLED = "bundled:arithmetic"
RUNS: tuple[tuple[GgufType, bool], ...] = (("f32", True), *((form, False) for form in GGUF_TYPES))
"""Stored form, and whether attention is computed in f32."""


@dataclasses.dataclass(frozen=True)
class _Expected:
    """By transformers: the greedy tokens behind the prompt, and log-probabilities of the first."""

    tokens: list[int]
    first: torch.Tensor


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--models", nargs="+", default=["random", BUNDLED])
    parser.add_argument("--data", default=BUNDLED)
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    examples = list(read_examples(given.data, split="test"))[:NUM_PROMPTS]
    write_json(
        given.output,
        {
            "data": given.data,
            "prompts": len(examples),
            "tokens": given.tokens,
            "xllamacpp": importlib.metadata.version("xllamacpp"),
            "models": {name: _measured(name, examples, given.tokens) for name in given.models},
            **environment_facts(),
        },
    )


def _measured(name: str, examples: list[Example], num_tokens: int) -> dict[str, dict[str, Any]]:
    pair = _random(examples) if name == "random" else load_pair(model_folder(name))
    pair.model.eval()
    encoded = encode_for(pair, examples, PLAIN_CHAT)
    texts = [example.source or "" for example in examples]
    if name == BUNDLED:
        texts = [f" {text}" for text in texts]
        pair.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=False
        )
    prompts = [(text, list(one.source_ids)) for text, one in zip(texts, encoded, strict=True)]
    for text, ids in prompts:
        assert pair.tokenizer(text, add_special_tokens=False).input_ids == ids, text
    expected = [_by_transformers(pair, ids, num_tokens) for _, ids in prompts]
    found = {}
    with temporary_folder() as folder:
        for form, exact in RUNS:
            key = f"{form}, attention in f32" if exact else form
            found[key] = _compared(pair, folder, form, prompts, expected, num_tokens, exact=exact)
            print(name, key, found[key], flush=True)
    return found


def _random(examples: list[Example]) -> LoadedModel:
    """A Llama of weights with a wide spread, and a vocabulary that cuts as GPT-2 does."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator((example.source or "" for example in examples), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LoadedModel(LlamaForCausalLM(config), tokenizer, "random")


@torch.no_grad()
def _by_transformers(pair: LoadedModel, ids: list[int], num_tokens: int) -> _Expected:
    prompt = torch.tensor([ids])
    written = pair.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=num_tokens,
        suppress_tokens=_partial_letters(pair) or None,
    )[0, len(ids) :]
    return _Expected(written.tolist(), _log_probs(pair, ids))


@torch.no_grad()
def _log_probs(pair: LoadedModel, ids: list[int]) -> torch.Tensor:
    """(vocab,): of the token after these."""
    found: torch.Tensor = pair.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    return found


def _compared(
    pair: LoadedModel,
    folder: Path,
    form: GgufType,
    prompts: list[tuple[str, list[int]]],
    expected: list[_Expected],
    num_tokens: int,
    *,
    exact: bool,
) -> dict[str, Any]:
    import xllamacpp

    path = folder / f"{form}.gguf"
    write_gguf(pair, path, stored=form)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
    params.cpuparams.n_threads = 1
    if exact:
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    equal_texts, nats, partings = 0, 0.0, list[tuple[float, bool]]()
    ends, never = set(_ends(pair)), _partial_letters(pair)
    for (text, ids), own in zip(prompts, expected, strict=True):
        written = [_asked(server, prompt, never, num_tokens) for prompt in (ids, text)]
        from_ids, from_text = ([one["id"] for one in _without(found, ends)] for found in written)
        equal_texts += from_text == from_ids
        tokens = [token for token in own.tokens if token not in ends]
        if from_ids != tokens:
            partings.append(_parting(pair, ids, own.tokens, [*from_ids, *ends]))
        for one in written[0][0]["top_logprobs"] if written[0] else []:
            nats = max(nats, abs(one["logprob"] - float(own.first[one["id"]])))
    return {
        "bytes": path.stat().st_size,
        "equal_outputs": 1 - len(partings) / len(prompts),
        "equal_from_text": equal_texts / len(prompts),
        "max_nats": nats,
        "gaps": sorted(gap for gap, _ in partings),
        "took_the_second": sum(second for _, second in partings),
    }


def _parting(
    pair: LoadedModel, ids: list[int], own: list[int], other: list[int]
) -> tuple[float, bool]:
    """Where the two outputs part: nats between our two likeliest tokens; is theirs the second?"""
    same = next(i for i, both in enumerate(zip(own, other, strict=False)) if len({*both}) > 1)
    log_probs = _log_probs(pair, [*ids, *own[:same]])
    log_probs[_partial_letters(pair)] = -torch.inf
    best = log_probs.topk(2)
    return float(best.values[0] - best.values[1]), other[same] == int(best.indices[1])


def _asked(
    server: Any, prompt: str | list[int], never: list[int], num_tokens: int
) -> list[dict[str, Any]]:
    """What is written greedily: each token's id, and the log-probabilities of the likeliest."""
    question = {
        "prompt": prompt,
        "n_predict": num_tokens,
        "temperature": 0.0,
        "n_probs": 5,
        "cache_prompt": False,
        "logit_bias": [[token, False] for token in never],
    }
    found = server.handle_completions(question)["choices"][0]["logprobs"]  # None of no token
    written: list[dict[str, Any]] = found["content"] if found else []
    return written


def _partial_letters(pair: LoadedModel) -> list[int]:
    """Tokens that are no whole letters: llama.cpp's answers leave them out, so none is written."""
    return [i for i in range(len(pair.tokenizer)) if "\ufffd" in pair.tokenizer.decode([i])]


def _ends(pair: LoadedModel) -> list[int]:
    found = pair.model.generation_config.eos_token_id
    return found if isinstance(found, list) else [found]


def _without(written: list[dict[str, Any]], ends: set[int]) -> list[dict[str, Any]]:
    """What stands before the token that ends, which llama.cpp may leave out."""
    return [one for one in written if one["id"] not in ends]


if __name__ == "__main__":
    main()
