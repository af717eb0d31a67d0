"""The reward of an entailment classifier: tiny random classifiers of two architectures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tiny import PAD, character_tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from seqdistill.core.errors import ModelError
from seqdistill.generation import entailment
from seqdistill.generation.entailment import EntailmentReward
from seqdistill.metrics.rewards import Reward

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.4,
    "pad_token_id": PAD,
    "hidden_dropout_prob": 0.5,
    "attention_probs_dropout_prob": 0.5,
}
LABELS = {0: "CONTRADICTION", 1: "neutral", 2: "Entailment"}
PROMPTS = ["a cat sat there.", "dogs bark at night", "x"]
COMPLETIONS = ["a cat", "the dogs are very loud", "y z"]
NOTHING: list[str | None] = [None, None, None]


def classifier(kind: str, labels: dict[int, str] = LABELS) -> PreTrainedModel:
    torch.manual_seed(5)
    if kind == "bert":
        config = BertConfig(**SIZES, max_position_embeddings=64, id2label=labels)
        return BertForSequenceClassification(config).eval()
    config = RobertaConfig(**SIZES, max_position_embeddings=66, type_vocab_size=1, id2label=LABELS)
    return RobertaForSequenceClassification(config).eval()


@pytest.fixture(params=["bert", "roberta"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A saved classifier with its tokenizer."""
    classifier(request.param).save_pretrained(tmp_path)
    character_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def plain(folder: Path, premise: str, hypothesis: str) -> float:
    """One pair at a time through the model."""
    kind = "bert" if "Bert" in (folder / "config.json").read_text() else "roberta"
    inputs = character_tokenizer()(premise, hypothesis, return_tensors="pt")
    with torch.no_grad():
        logits = classifier(kind)(**inputs).logits[0]
    return float(logits.softmax(dim=-1)[2])


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_rewards_are_the_models_own_probabilities_however_batched(
    folder: Path, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entailment, "_BATCH_TOKENS", batch_tokens)
    reward: Reward = EntailmentReward(folder)
    expected = [plain(folder, *pair) for pair in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert reward(PROMPTS, COMPLETIONS, NOTHING) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 3


def test_silence_entails_nothing(folder: Path) -> None:
    reward = EntailmentReward(folder)
    assert reward(PROMPTS, ["", "  ", "a"], NOTHING)[:2] == [0.0, 0.0]
    assert reward(PROMPTS[:1], [""], [None]) == [0.0]
    assert reward([], [], []) == []


def test_long_prompts_are_cut_at_their_end_and_that_is_told_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reward = EntailmentReward(folder)
    long = "a cat sat there. " * 10
    first = reward([long], ["a cat"], [None])
    assert "1 of 1 prompts are longer than the 64 tokens" in caplog.text
    caplog.clear()
    assert reward([long + "and more"], ["a cat"], [None]) == first
    assert not caplog.records
    assert reward([long], ["two cats"], [None]) != first


def test_folders_without_a_whole_classifier_are_refused(folder: Path) -> None:
    tokenizer = character_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="tokenizer that can pad"):
        EntailmentReward(folder)
    character_tokenizer().save_pretrained(folder)
    BertModel(BertConfig(**SIZES, id2label=LABELS)).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"every weight.*'classifier\.bias' \(2 are missing\)"):
        EntailmentReward(folder)
    classifier("bert", {0: "no", 1: "perhaps", 2: "yes"}).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"must have a label entailment.* no, perhaps, yes"):
        EntailmentReward(folder)
    (folder / "model.safetensors").unlink()
    torch.save(classifier("bert").state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="The classifier must load from the folder"):
        EntailmentReward(folder)
