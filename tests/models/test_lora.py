"""Adapters: the student starts as it was, only they are trained, and merging changes nothing."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Literal

import peft
import pytest
import torch
from peft import PeftModel
from tests.tiny import (
    character_tokenizer,
    collator,
    random_examples,
    save_unlisted,
    tiny_model,
)
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from seqdistill.core.errors import ModelError, UserError
from seqdistill.jobs.export import weight_bytes
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.loading import LoadedModel, load_pair
from seqdistill.models.lora import LoraAdapter
from seqdistill.models.proof import difference, probe_logits
from seqdistill.models.saving import save_pair

EXAMPLES = random_examples(6)


def adapted(name: str, *, seed: int = 1) -> tuple[torch.nn.Module, LoraAdapter]:
    model = tiny_model(name)
    lora = LoraAdapter(model, rank=2, alpha=4.0, dropout=0.0, targets="all-linear", seed=seed)
    return model, lora


def hidden(model: torch.nn.Module, kind: str) -> torch.Tensor:
    batch = collator("seq2seq" if kind == "seq2seq" else "causal")(EXAMPLES)
    with torch.no_grad():
        states = SequenceModel(model.eval()).states(batch)
        return states.head.logits(states.hidden)[batch.target_mask]


def moved(model: torch.nn.Module) -> None:
    """Gives the adapters weights as training would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.mark.parametrize(
    ("name", "kind"), [("mbart", "seq2seq"), ("t5", "seq2seq"), ("llama", "causal")]
)
def test_merged_students_say_what_adapted_ones_say(name: str, kind: str, tmp_path: Path) -> None:
    plain = tiny_model(name)
    model, lora = adapted(name)
    before = hidden(model, kind)
    torch.testing.assert_close(before, hidden(plain, kind), rtol=0, atol=1e-6)
    trained = [key for key, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in key for key in trained)
    moved(model)
    said = hidden(model, kind)
    assert not torch.allclose(said, before, atol=1e-2)
    lora.save(tmp_path / "adapter")
    with warnings.catch_warnings(action="ignore"):
        read = PeftModel.from_pretrained(tiny_model(name), tmp_path / "adapter")
    for merged in (lora.merged_copy(), read.merge_and_unload()):
        torch.testing.assert_close(hidden(merged, kind), said, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(hidden(model, kind), said)  # the copies left it alone
    merged = lora.merge()
    torch.testing.assert_close(hidden(merged, kind), said, rtol=1e-4, atol=1e-4)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    assert all(parameter.requires_grad for parameter in merged.parameters())


def test_equal_seeds_begin_alike_and_torchs_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    one, other = adapted("llama")[0], adapted("llama")[0]
    assert torch.equal(torch.get_rng_state(), state)
    first, second = one.state_dict(), other.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    third = adapted("llama", seed=2)[0].state_dict()
    assert any(not torch.equal(first[key], third[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "targets", "words"),
    [
        ("llama", ["no_such_layer"], r"got \['no_such_layer'\]"),
        ("llama", ["lm_head"], "lm_head, the output layer"),
        ("llama-tied", ["q_proj", "lm_head"], "lm_head, the output layer"),
        ("llama-tied", ["embed_tokens"], "embed_tokens, shared with lm_head"),
        ("t5", ["shared"], "shared with .*encoder.embed_tokens"),
        ("mbart", ["q_proj", "embed_tokens"], "embed_tokens, shared with"),
    ],
)
def test_layers_that_cannot_be_merged_into_exactly_are_refused(
    name: str, targets: list[str], words: str
) -> None:
    with pytest.raises(ModelError, match=rf"student\.lora\.targets must .*{words}"):
        LoraAdapter(tiny_model(name), rank=2, alpha=4.0, dropout=0.0, targets=targets, seed=1)


@pytest.mark.parametrize(
    ("name", "targets", "save_dtype"),
    [
        ("llama", ["q_proj", "embed_tokens"], "fp32"),
        ("llama-tied", "all-linear", "fp16"),
        ("gpt2", "all-linear", "fp32"),
        ("t5", "all-linear", "fp16"),
        ("marian-untied", ["embed_tokens"], "fp32"),
    ],
)
def test_a_stored_student_says_what_the_adapted_one_said(
    name: str, targets: str | list[str], save_dtype: Literal["fp32", "fp16"], tmp_path: Path
) -> None:
    model = tiny_model(name)
    lora = LoraAdapter(model, rank=2, alpha=4.0, dropout=0.5, targets=targets, seed=1)
    moved(model)
    said = probe_logits(model)
    merged = LoadedModel(lora.merge(), character_tokenizer(), "tiny")
    save_pair(merged, tmp_path / "student", save_dtype=save_dtype, said=said)
    auto = AutoModelForCausalLM if merged.kind == "causal" else AutoModelForSeq2SeqLM
    read = auto.from_pretrained(tmp_path / "student", dtype=torch.float32)
    assert difference(said, probe_logits(read)) <= (1e-4 if save_dtype == "fp32" else 2e-2)


def test_a_student_that_was_merged_wrongly_is_not_stored(tmp_path: Path) -> None:
    model, lora = adapted("llama")
    moved(model)
    said = probe_logits(model)
    merged = lora.merge()
    with torch.no_grad():
        merged.get_input_embeddings().weight += 0.01
    pair = LoadedModel(merged, character_tokenizer(), "tiny")
    with pytest.raises(ModelError, match=r"must say what it said .* checkpoints stay"):
        save_pair(pair, tmp_path / "student", said=said)
    assert list(tmp_path.iterdir()) == []


def adapters_in(folder: Path, name: str, *, base: str, targets: list[str]) -> torch.Tensor:
    """Writes adapters for peft to `folder`. What the adapted model says."""
    with warnings.catch_warnings(action="ignore"):  # of a base that is nowhere and of tied layers
        model = peft.get_peft_model(tiny_model(name), peft.LoraConfig(r=2, target_modules=targets))
        moved(model)
        model.peft_config["default"].base_model_name_or_path = base
        model.save_pretrained(folder)
    return probe_logits(model.get_base_model())


@pytest.mark.parametrize("name", ["llama", "llama-tied", "mbart"])
@pytest.mark.parametrize("where", ["alone", "beside their base", "alone, base beside them"])
def test_adapters_load_merged_and_say_what_transformers_says(
    name: str, where: str, tmp_path: Path
) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapters"
    save_pair(LoadedModel(tiny_model(name), character_tokenizer(), "tiny"), base)
    if where == "beside their base":
        base.rename(folder)
    named = {"alone": str(base), "alone, base beside them": "../base"}.get(where, "no/where")
    said = adapters_in(folder, name, base=named, targets=["q_proj"])
    pair = load_pair(str(folder))
    assert pair.model.state_dict().keys() == tiny_model(name).state_dict().keys()
    assert difference(said, probe_logits(pair.model)) <= 1e-4
    if where != "alone, base beside them":
        auto = AutoModelForCausalLM if pair.kind == "causal" else AutoModelForSeq2SeqLM
        theirs = auto.from_pretrained(folder, dtype=torch.float32)
        assert difference(probe_logits(theirs), probe_logits(pair.model)) <= 1e-4
    save_pair(pair, tmp_path / "again")
    assert weight_bytes(str(folder)) > weight_bytes(str(tmp_path / "again"))


def test_adapters_that_lack_their_base_peft_or_a_matrix_of_their_own_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters_in(tmp_path / "alone", "llama", base="no/where", targets=["q_proj"])
    with pytest.raises(ModelError, match=r"holds adapters alone, of the base model 'no/where'"):
        load_pair(str(tmp_path / "alone"))
    tied = tmp_path / "tied"
    adapters_in(tied, "llama-tied", base=str(tied), targets=["embed_tokens"])
    save_unlisted(tiny_model("llama-tied"), character_tokenizer(), tied)
    with pytest.raises(ModelError, match="tied to another"):
        load_pair(str(tied))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    for use in (lambda: load_pair(str(tied)), lambda: adapted("llama")):
        with pytest.raises(UserError, match=r"seqdistill\[lora\]"):
            use()
