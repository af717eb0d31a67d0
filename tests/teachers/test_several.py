"""Several teachers as one: what each says of its rows, and adapters over one model in memory."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.tiny import (
    VOCAB,
    character_tokenizer,
    collator,
    random_examples,
    tiny_adapter,
    tiny_model,
)
from torch import Tensor

from seqdistill.core.batch import Kind, SequenceBatch
from seqdistill.core.errors import ModelError
from seqdistill.core.origins import ROUTE
from seqdistill.core.scores import DenseScores, MixedScores
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.loading import LoadedModel, load_pair, with_adapters
from seqdistill.teachers.in_process import InProcessTeacher
from seqdistill.teachers.several import AdapterTeacher, MixtureOfTeachers, RoutedTeachers

KINDS: list[tuple[str, Kind]] = [("mbart", "seq2seq"), ("llama", "causal")]


def batch_of(kind: Kind) -> SequenceBatch:
    batch = collator(kind)(random_examples(5))
    return dataclasses.replace(batch, extras={ROUTE: torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])})


def teachers(name: str) -> list[InProcessTeacher]:
    wide = {"d_model": 32} if name == "mbart" else {"hidden_size": 32}
    models = (tiny_model(name, seed=1), tiny_model(name, seed=2, **wide))
    return [InProcessTeacher(SequenceModel(model), vocab_size=VOCAB - 2) for model in models]


def dense(teacher: InProcessTeacher, batch: SequenceBatch) -> DenseScores:
    scores = teacher.score(batch)
    assert isinstance(scores, DenseScores)
    return scores


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_mixture_holds_what_each_says_of_the_batch(name: str, kind: Kind) -> None:
    batch, each = batch_of(kind), teachers(name)
    scores = MixtureOfTeachers(each, (0.25, 0.75), geometric=True).score(batch)
    assert isinstance(scores, MixedScores)
    assert scores.head.weights == (0.25, 0.75) and scores.head.geometric
    assert scores.head.vocab_size == VOCAB - 2 and scores.head.widths == (16, 32)
    parts = torch.split(scores.hidden, [16, 32], dim=-1)
    for part, teacher in zip(parts, each, strict=True):
        assert torch.equal(part, dense(teacher, batch).hidden)


@pytest.mark.parametrize(("name", "kind"), KINDS)
@pytest.mark.parametrize("own_prompt", [False, True])
def test_a_row_is_asked_of_its_own_teacher(name: str, kind: Kind, own_prompt: bool) -> None:
    batch, each = batch_of(kind), teachers(name)
    if own_prompt:
        prompted = [
            dataclasses.replace(e, source_ids=(5, *e.source_ids)) for e in random_examples(5)
        ]
        batch = dataclasses.replace(batch, teacher=collator(kind)(prompted))
    scores = RoutedTeachers(each).score(batch)
    assert isinstance(scores, MixedScores) and scores.head.weights is None
    for row, place in enumerate(batch.extras[ROUTE].long().tolist()):
        width, counts = scores.head.widths[place], batch.target_mask[row]
        expected = dense(each[place], batch).hidden[row]
        torch.testing.assert_close(
            scores.hidden[row, :, :width][counts], expected[counts], rtol=1e-5, atol=1e-5
        )
        assert (scores.hidden[row, :, -1] == place).all()


def test_a_teacher_without_rows_in_a_batch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    each, batch = teachers("mbart"), batch_of("seq2seq")
    alone = dataclasses.replace(batch, extras={ROUTE: torch.ones(5)})
    monkeypatch.setattr(each[0], "score", lambda _: pytest.fail("it has no row here"))
    RoutedTeachers(each).score(alone)


def saved_adapters(folder: Path, name: str, *, head: bool = False) -> tuple[Path, list[Path]]:
    """A base model and two folders of adapters over it."""
    tiny_model(name).save_pretrained(folder / "base")
    character_tokenizer(closes=name == "mbart").save_pretrained(folder / "base")
    found = []
    for number in (1, 2):
        targets = ["lm_head"] if head else ["q_proj", "v_proj"]
        config = LoraConfig(r=number, lora_alpha=4.0, target_modules=targets)
        adapted = get_peft_model(load_pair(str(folder / "base")).model, config)
        with torch.no_grad():
            for key, weight in adapted.named_parameters():
                if "lora_" in key:
                    weight.copy_(torch.randn(weight.shape) * 0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of adapters of the output layer
            adapted.save_pretrained(str(folder / f"adapter-{number}"))
        found.append(folder / f"adapter-{number}")
    return folder / "base", found


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_adapters_over_one_model_say_what_merged_copies_say(
    tmp_path: Path, name: str, kind: Kind
) -> None:
    base, adapters = saved_adapters(tmp_path, name)
    names = [str(adapters[0]), str(base), str(adapters[1])]
    pairs = with_adapters(load_pair(str(base)), names)
    assert len({id(pair.model) for pair in pairs}) == 1, "one model in memory"
    assert [pair.name for pair in pairs] == names and pairs[0].folders == (adapters[0], base)
    batch, model = batch_of(kind), SequenceModel(pairs[0].model)

    def asked(pair: LoadedModel) -> Tensor:
        assert pair.adapter is not None
        scores = AdapterTeacher(model, pair.adapter, vocab_size=VOCAB).score(batch)
        return scores.head.logits(scores.hidden)[batch.target_mask]

    found = [asked(pair) for pair in (*pairs, *reversed(pairs))]
    for pair, *both in zip(names, found[:3], reversed(found[3:]), strict=True):
        alone = InProcessTeacher(SequenceModel(load_pair(pair).model), vocab_size=VOCAB)
        expected = dense(alone, batch)
        logits = expected.head.logits(expected.hidden)[batch.target_mask]
        for got in both:
            torch.testing.assert_close(got, logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0], found[1], atol=1e-2)
    assert not any(p.requires_grad for p in model.parameters()), "nothing of it is trained"
    # Whoever looks at the model between sees the first one's.
    first = model.states(batch)
    left = first.head.logits(first.hidden)[batch.target_mask]
    torch.testing.assert_close(left, found[0], rtol=1e-5, atol=1e-5)


def test_adapters_of_the_output_layer_and_of_other_models_are_refused(tmp_path: Path) -> None:
    base, adapters = saved_adapters(tmp_path, "llama", head=True)
    with pytest.raises(ModelError, match="must leave its output layer as it is"):
        with_adapters(load_pair(str(base)), [str(base), str(adapters[0])])
    (tmp_path / "other").mkdir()
    _, others = saved_adapters(tmp_path / "other", "llama")
    narrow = tiny_model("llama", hidden_size=8, num_attention_heads=1)
    pair = LoadedModel(narrow, character_tokenizer(closes=False), "narrow")
    with pytest.raises(ModelError, match="must fit their base model"):
        with_adapters(pair, [str(others[0]), str(others[1])])
    assert tiny_adapter("llama").kind == "causal"
