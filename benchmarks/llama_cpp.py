"""Runs exported GGUF files in llama.cpp itself, beside the model that they were made of.

    pip install xllamacpp    # llama.cpp for Python
    python -m benchmarks.llama_cpp MODEL DATA docs/results/llama_cpp.json

MODEL is a folder, or `random`: a Llama of random weights and a byte-level vocabulary of DATA. For
each of the three forms: of the first prompts of DATA, as token ids and as texts (llama.cpp
tokenizes), how many greedy outputs are the model's own, by transformers in fp32, token by token;
and how far the log-probabilities of the first written token's likeliest five lie apart.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from seqdistill.assembly.data import encode_for
from seqdistill.data.conversations import PLAIN_CHAT
from seqdistill.data.examples import Example
from seqdistill.data.readers import read_examples
from seqdistill.generation.gguf_file import GGUF_TYPES, GgufType, write_gguf
from seqdistill.models.loading import LoadedModel, load_pair
from seqdistill.records.atomic import write_json
from seqdistill.records.environment import environment_facts
from seqdistill.records.temporary import temporary_folder

NUM_PROMPTS, NUM_TOKENS = 32, 24


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    examples = list(read_examples(given.data, split="test"))[:NUM_PROMPTS]
    pair = _random(examples) if given.model == "random" else load_pair(given.model)
    pair.model.eval()
    encoded = encode_for(pair, examples, PLAIN_CHAT)
    prompts = [
        (example.source or "", list(one.source_ids))
        for example, one in zip(examples, encoded, strict=True)
    ]
    expected = [_by_transformers(pair, ids) for _, ids in prompts]
    with temporary_folder() as folder:
        found = {form: _compared(pair, folder, form, prompts, expected) for form in GGUF_TYPES}
    write_json(
        given.output,
        {
            "model": given.model,
            "data": given.data,
            "prompts": len(prompts),
            "tokens": NUM_TOKENS,
            "xllamacpp": importlib.metadata.version("xllamacpp"),
            "forms": found,
            **environment_facts(),
        },
    )


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
def _by_transformers(pair: LoadedModel, ids: list[int]) -> tuple[list[int], torch.Tensor]:
    """The greedy tokens behind the prompt, and the log-probabilities of the first."""
    prompt = torch.tensor([ids])
    written = pair.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=NUM_TOKENS,
        suppress_tokens=_partial_letters(pair) or None,
    )[0, len(ids) :]
    return written.tolist(), pair.model(prompt).logits[0, -1].log_softmax(-1)


def _compared(
    pair: LoadedModel,
    folder: Path,
    form: GgufType,
    prompts: list[tuple[str, list[int]]],
    expected: list[tuple[list[int], torch.Tensor]],
) -> dict[str, float]:
    import xllamacpp

    path = folder / f"{form}.gguf"
    write_gguf(pair, path, stored=form)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    equal_ids = equal_texts = 0
    nats = 0.0
    ends, never = set(_ends(pair)), _partial_letters(pair)
    for (text, ids), (tokens, log_probs) in zip(prompts, expected, strict=True):
        written = [_without(_asked(server, prompt, never), ends) for prompt in (ids, text)]
        equal_ids += [one["id"] for one in written[0]] == [t for t in tokens if t not in ends]
        equal_texts += [one["id"] for one in written[1]] == [one["id"] for one in written[0]]
        for one in written[0][0]["top_logprobs"] if written[0] else []:
            nats = max(nats, abs(one["logprob"] - float(log_probs[one["id"]])))
    return {
        "bytes": path.stat().st_size,
        "equal_outputs": equal_ids / len(prompts),
        "equal_from_text": equal_texts / len(prompts),
        "max_nats": nats,
    }


def _asked(server: Any, prompt: str | list[int], never: list[int]) -> list[dict[str, Any]]:
    """What is written greedily: each token's id, and the log-probabilities of the likeliest."""
    question = {
        "prompt": prompt,
        "n_predict": NUM_TOKENS,
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
