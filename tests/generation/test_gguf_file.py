"""GGUF files: another reader rebuilds what was written, and what is not known is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.byte_level import TEMPLATE, TEXTS, byte_level, pair_of
from tests.tiny import character_tokenizer, tiny_model
from tokenizers import pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from seqdistill.core.errors import ModelError
from seqdistill.generation.gguf_file import (
    GGUF,
    GgufType,
    check_tokenizer,
    read_gguf,
    write_gguf,
)
from seqdistill.models.loading import LoadedModel

gguf = pytest.importorskip("gguf")


def logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**tokenizer(TEXTS[1], return_tensors="pt")).logits
    return found


FAMILIES = [
    ("llama", "llama-bpe"),
    ("llama-tied", "smollm"),
    ("mistral", "gpt-2"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen2"),
]


@pytest.mark.parametrize(("name", "cut"), FAMILIES)
def test_another_reader_finds_the_same_model_and_tokenizer(
    name: str, cut: str, tmp_path: Path
) -> None:
    pair = pair_of(name, cut)
    write_gguf(pair, tmp_path / GGUF, stored="f32")
    again = read_gguf(tmp_path / GGUF, name)
    said, found = (logits(one.model, pair.tokenizer) for one in (pair, again))
    assert torch.allclose(said, found, atol=1e-4), (said - found).abs().max()
    check_tokenizer(pair.tokenizer, again.tokenizer)
    assert again.tokenizer.chat_template == TEMPLATE
    assert again.tokenizer.eos_token_id == pair.tokenizer.eos_token_id
    fields = gguf.GGUFReader(tmp_path / GGUF).fields
    assert fields["tokenizer.ggml.pre"].contents() == cut
    assert fields["tokenizer.ggml.add_bos_token"].contents() == (cut == "llama-bpe")
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert kinds[:2] == [3, 3] and kinds[-6:] == [4, 5, 5, 5, 5, 5]
    assert len(fields["tokenizer.ggml.tokens"].contents()) == len(pair.tokenizer) + 5


def test_no_end_is_put_behind_a_prompt_by_a_tokenizer_that_closes_texts(tmp_path: Path) -> None:
    pair = pair_of("llama", "gpt-2")
    end = (pair.tokenizer.eos_token, pair.tokenizer.eos_token_id)
    closing = TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    pair.tokenizer.backend_tokenizer.post_processor = closing
    assert pair.tokenizer("a").input_ids[-1] == end[1]
    write_gguf(pair, tmp_path / GGUF, stored="f32")
    fields = gguf.GGUFReader(tmp_path / GGUF).fields
    assert not fields["tokenizer.ggml.add_eos_token"].contents()


@pytest.mark.parametrize(("stored", "most"), [("f16", 0.1), ("q8_0", 2.0)])
def test_matrices_are_rounded_as_asked_and_vectors_never(
    stored: GgufType, most: float, tmp_path: Path
) -> None:
    pair = pair_of("llama", "llama-bpe")
    write_gguf(pair, tmp_path / GGUF, stored=stored)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / GGUF).tensors}
    assert kinds["output_norm.weight"] == "F32"
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == stored.upper()
    again = read_gguf(tmp_path / GGUF, "llama")
    both = [logits(one.model, pair.tokenizer) for one in (pair, again)]
    apart = (both[0] - both[1]).abs().max()
    assert most / 20 < apart < most, "rounded, and no more than that"


def refused(pair: LoadedModel, path: Path) -> str:
    with pytest.raises(ModelError) as error:
        write_gguf(pair, path / GGUF, stored="f32")
    assert not (path / GGUF).exists()
    return str(error.value)


def test_what_is_not_known_to_be_the_same_is_refused(tmp_path: Path) -> None:
    pair = pair_of("llama", "llama-bpe")
    pair.model.config.rope_parameters = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    assert "rope_type 'linear'" in refused(pair, tmp_path)
    gemma = LoadedModel(tiny_model("gemma"), pair.tokenizer, "gemma")
    assert "got a gemma" in refused(gemma, tmp_path)
    windows = pair_of("mistral", "gpt-2")
    windows.model.config.sliding_window = 16
    assert "attention windows" in refused(windows, tmp_path)
    spaced = LoadedModel(pair_of("llama", "gpt-2").model, byte_level("gpt-2", prefix=True), "x")
    assert "cut texts as GPT-2" in refused(spaced, tmp_path)
    spaced.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    assert "cut texts as GPT-2" in refused(spaced, tmp_path)
    unmerged = LoadedModel(tiny_model("llama"), character_tokenizer(closes=False), "letters")
    assert "cut texts as GPT-2" in refused(unmerged, tmp_path)


def test_a_tokenizer_that_cuts_otherwise_is_found() -> None:
    with pytest.raises(ModelError, match="must cut texts as the model's"):
        check_tokenizer(byte_level("gpt-2"), byte_level("llama-bpe"))
