"""Faults between text and tokens that users of other tools reported, and that would fail here."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.tiny import BOS, EOS, character_tokenizer

from seqdistill.core.batch import Kind
from seqdistill.data.collating import Collator
from seqdistill.data.dataset import leave_out_long
from seqdistill.data.examples import Example, Turn
from seqdistill.data.readers import read_examples
from seqdistill.data.text_encoding import encode

WORDS = ["null", "NA", "N/A", "NaN", "None", "nan", "true", "1e5"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
TURNS = (Turn("user", "hello"),)
MESSAGES = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "meow"}]


def write_words(form: str, folder: Path) -> str:
    """Rows whose source and target are a word that is a value elsewhere; returns where they are."""
    path = folder / f"words.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"source": WORDS, "target": WORDS}), path)
        return str(path)
    lines = {
        "tsv": ["source\ttarget", *(f"{word}\t{word}" for word in WORDS)],
        "jsonl": [json.dumps({"source": word, "target": word}) for word in WORDS],
        "lines": WORDS,
    }
    path.write_text("\n".join(lines[form]) + "\n", encoding="utf-8")
    return f"{path},{path}" if form == "lines" else str(path)


@pytest.mark.parametrize("form", ["tsv", "jsonl", "parquet", "lines"])
def test_a_word_that_is_a_value_elsewhere_is_a_word(form: str, tmp_path: Path) -> None:
    """datasets #4467, pandas #24681 and #32084: "null" and "NA" are read as nothing."""
    found = read_examples(write_words(form, tmp_path))
    assert [(example.source, example.target) for example in found] == [(w, w) for w in WORDS]


def test_a_template_that_writes_the_start_gets_no_second_one() -> None:
    """vLLM #27486, llama-cpp-python #1501: <s> by the template and once more by the tokenizer."""
    tokenizer = character_tokenizer(closes=False)  # it puts <s> before every text
    tokenizer.chat_template = CHAT
    (found,) = encode([Example("c", "", "meow", TURNS)], tokenizer, "causal")
    whole = tokenizer.apply_chat_template(MESSAGES, tokenize=True, return_dict=False)
    assert [*found.source_ids, *found.target_ids] == whole
    assert whole.count(BOS) == 1 and found.target_ids.count(EOS) == 1


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_the_end_is_learned_once_and_the_prompt_never(kind: Kind, closes: bool) -> None:
    """transformers #23530, TRL #976 and #1623: the end masked where it pads, or never added;
    TRL #1282: the prompt learned, too."""
    tokenizer = character_tokenizer(closes=closes, pad="</s>")  # one token ends and pads
    examples = [Example("1", "a cat", "eine katze"), Example("2", "dog", "ja")]
    batch = Collator(kind, pad_id=EOS)(encode(examples, tokenizer, kind))
    for row, example in enumerate(examples):
        learned = batch.target_ids[row][batch.target_mask[row]].tolist()
        start = [BOS] if kind == "seq2seq" and not closes else []
        letters = tokenizer(example.target, add_special_tokens=False).input_ids
        assert learned == [*start, *letters, EOS]


def test_a_long_answer_is_left_out_and_not_learned_without_its_end() -> None:
    """open-instruct PR 1876: cut at the limit, an answer teaches never to stop; transformers
    #19742: cut and closed, it teaches to stop anywhere."""
    examples = [Example("1", "a", "short"), Example("2", "a", "a much longer answer")]
    encoded = encode(examples, character_tokenizer(), "causal")
    kept = leave_out_long(encoded, max_source_tokens=10, max_target_tokens=8)
    assert [example.id for example in kept.examples] == ["1"] and kept.num_too_long == 1
