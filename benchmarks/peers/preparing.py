"""Models and rows that all who are measured share, made once in a folder.

<folder>/<pair>/student, teacher   transformers folders; random weights but for smollm2's
                tokenizer          the tokenizer as peers read it: it closes no prompt
                train.jsonl        what this package reads
                rows.jsonl         the same rows with their token ids, as this package has them
                facts.json         what was made; written last
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from seqdistill.assembly.preparing import prepare
from seqdistill.compression.layers import keep_layers, parameter_count
from seqdistill.models.scratch import configuration, random_model
from seqdistill.recipe.loading import load_recipe
from seqdistill.records import atomic

NUM_ROWS = 600


def prepare_pair(place: Path, pair: dict[str, Any], source: Path) -> dict[str, Any]:
    """The facts of the pair in that folder, made where it is not there yet.

    `source` holds the folder of weights that the pair may name.
    """
    facts_path = place / "facts.json"
    if facts_path.is_file():
        return dict(json.loads(facts_path.read_text("utf-8")))
    weights = source / pair["folder"] if "folder" in pair else None
    has_weights = weights is not None and weights.is_dir()
    sizes = {}
    if has_weights:
        tokenizer = AutoTokenizer.from_pretrained(weights)
    else:
        tokenizer = _words(pair["vocab_size"])
    for who in ("teacher", "student"):
        if has_weights:
            model = AutoModelForCausalLM.from_pretrained(weights, dtype="float32")
            if who == "student":
                model = keep_layers(
                    model,
                    encoder_layers=None,
                    decoder_layers=pair["student"]["num_hidden_layers"],
                )
        else:
            architecture = {"model_type": "llama", "tie_word_embeddings": True, **pair[who]}
            model = random_model(configuration(architecture, tokenizer), seed=1)
        sizes[who] = parameter_count(model)
        model.save_pretrained(place / who)
        tokenizer.save_pretrained(place / who)
    write_rows(place / "train.jsonl", _rows(tokenizer, pair))
    write_ids(place, [f"data.train={place / 'train.jsonl'}"])
    facts = {"parameters": sizes, "trained_weights": has_weights, "vocab_size": len(tokenizer)}
    atomic.write_text(facts_path, json.dumps(facts))
    return facts


def write_ids(place: Path, settings: list[str]) -> None:
    """rows.jsonl, the token ids of what a training of these settings reads, and the tokenizer that
    makes the same of its prompts elsewhere."""
    models = [f"{who}.model={place / who}" for who in ("student", "teacher")]
    prepared = prepare(load_recipe("supervised_kd", [*models, *settings]))
    texts = {example.id: example.source for example in prepared.train_examples}
    rows = [
        {
            "prompt": texts[one.id],
            "prompt_ids": [*one.prompt_ids],
            "target_ids": [*one.target_ids],
        }
        for one in prepared.train
    ]
    write_rows(place / "rows.jsonl", rows)
    tokenizer = prepared.student.tokenizer
    tokenizer.save_pretrained(place / "tokenizer")
    path = place / "tokenizer" / "tokenizer.json"
    backend = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**backend, "post_processor": None}), encoding="utf-8")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A line of JSON each."""
    atomic.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _words(vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of words `w4` to the last."""
    specials = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocab = specials | {f"w{number}": number for number in range(len(specials), vocab_size)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def _rows(tokenizer: PreTrainedTokenizerBase, pair: dict[str, Any]) -> list[dict[str, Any]]:
    """Prompts and completions of random words, each a token, of the pair's very lengths."""
    words = [
        word.removeprefix("Ġ")
        for word in tokenizer.get_vocab()
        if (word.startswith("Ġ") and word[1:].isascii() and word[1:].isalpha() and len(word) > 3)
        or (word[:1] == "w" and word[1:].isdigit())
    ]
    words.sort()
    drawn, rows = random.Random(1), list[dict[str, Any]]()
    counts = pair["prompt_tokens"], pair["completion_tokens"] - 1
    while len(rows) < NUM_ROWS:
        prompt, completion = ("".join(f" {drawn.choice(words)}" for _ in range(n)) for n in counts)
        if [len(tokenizer(text).input_ids) for text in (prompt, completion)] == [*counts]:
            rows.append({"prompt": prompt, "completion": completion})
    return rows
