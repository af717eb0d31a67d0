"""Adapters: the student starts as it was, only they are trained, and merging changes nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tests.tiny import collator, random_examples, tiny_model

from seqdistill.core.errors import ModelError, UserError
from seqdistill.models.adapters import adapt
from seqdistill.models.lora import LoraAdapter

EXAMPLES = random_examples(6)


def adapted(name: str, *, seed: int = 1) -> tuple[torch.nn.Module, LoraAdapter]:
    model = tiny_model(name)
    lora = LoraAdapter(model, rank=2, alpha=4.0, dropout=0.0, targets="all-linear", seed=seed)
    return model, lora


def hidden(model: torch.nn.Module, kind: str) -> torch.Tensor:
    batch = collator("seq2seq" if kind == "seq2seq" else "causal")(EXAMPLES)
    with torch.no_grad():
        states = adapt(model.eval()).states(batch)
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
def test_a_student_starts_as_it_was_and_trains_its_adapters_alone(name: str, kind: str) -> None:
    before = hidden(tiny_model(name), kind)
    model, _ = adapted(name)
    torch.testing.assert_close(hidden(model, kind), before, rtol=0, atol=1e-6)
    trained = [key for key, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in key for key in trained)


@pytest.mark.parametrize(
    ("name", "kind"), [("mbart", "seq2seq"), ("t5", "seq2seq"), ("llama", "causal")]
)
def test_merged_students_say_what_adapted_ones_say(name: str, kind: str) -> None:
    model, lora = adapted(name)
    before = hidden(model, kind)
    moved(model)
    said = hidden(model, kind)
    assert not torch.allclose(said, before, atol=1e-2)
    torch.testing.assert_close(hidden(lora.merged_copy(), kind), said, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(hidden(model, kind), said)  # the copy left it alone
    merged = lora.merge()
    torch.testing.assert_close(hidden(merged, kind), said, rtol=1e-4, atol=1e-4)
    plain = tiny_model(name)
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


def test_peft_reads_what_was_saved(tmp_path: Path) -> None:
    model, lora = adapted("llama")
    moved(model)
    said = hidden(model, "causal")
    lora.save(tmp_path / "adapter")
    read = PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "adapter")
    torch.testing.assert_close(
        hidden(read.merge_and_unload(), "causal"), said, rtol=1e-4, atol=1e-4
    )


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(ModelError, match=r"got \['no_such_layer'\].*all-linear"):
        LoraAdapter(
            tiny_model("llama"), rank=2, alpha=4.0, dropout=0.0, targets=["no_such_layer"], seed=1
        )


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"seqdistill\[lora\]"):
        adapted("llama")
