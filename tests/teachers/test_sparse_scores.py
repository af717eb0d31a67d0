"""Kept top-k and sampled scores: what they are of a distribution, and what they take on disk."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
from pathlib import Path

import pytest
import torch
from tests.tiny import VOCAB, collator, random_examples, tiny_model
from torch import Tensor

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.errors import StaleCorpusError
from seqdistill.core.families import SparseForm
from seqdistill.core.progress import NoProgress
from seqdistill.core.scores import SparseScores
from seqdistill.models.adapters import SequenceModel
from seqdistill.teachers import kept_scores
from seqdistill.teachers.forms import Form, Samples, TopK
from seqdistill.teachers.in_process import InProcessTeacher
from seqdistill.teachers.keeping_scores import Keeping, make_scores
from seqdistill.teachers.kept_scores import KeptScoresTeacher, ScoresSettings

EXAMPLES = random_examples(30, seed=4)
HALF = VOCAB - 3  # the teacher's last symbols are padding


def kept(
    folder: Path, form: Form, name: str = "mbart", sparse_form: SparseForm = "bucket"
) -> KeptScoresTeacher:
    """Made, where it is not there, and opened."""
    teacher = SequenceModel(tiny_model(name))
    settings = ScoresSettings("teacher", "vocabulary", teacher.kind, 2, form)
    make_scores(
        Keeping(
            teacher,
            EXAMPLES,
            collator(teacher.kind),
            folder,
            settings=settings,
            batch_tokens=60,
            device=torch.device("cpu"),
            progress=NoProgress(),
        )
    )
    return KeptScoresTeacher(folder, EXAMPLES, settings=settings, sparse_form=sparse_form)


def scores_of(teacher: KeptScoresTeacher, batch: SequenceBatch) -> SparseScores:
    scores = teacher.score(batch)
    assert isinstance(scores, SparseScores)
    return scores.at(batch.target_mask)


def dense(batch: SequenceBatch, name: str = "mbart", temperature: float = 1.0) -> Tensor:
    """The live teacher's log-probabilities at the positions that count."""
    live = InProcessTeacher(SequenceModel(tiny_model(name)), vocab_size=HALF)
    scores = live.score(batch)
    logits = scores.head.logits(scores.hidden[batch.target_mask])
    return (logits / temperature).log_softmax(-1)


@pytest.mark.parametrize("name", ["mbart", "llama"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_top_k_of_all_is_the_live_distribution_but_for_fp16(
    tmp_path: Path, name: str, temperature: float
) -> None:
    stored = kept(tmp_path / "kept", TopK(HALF, HALF, temperature=temperature), name)
    batch = collator(stored.record.settings.kind)(EXAMPLES[::-2])
    found, expected = scores_of(stored, batch), dense(batch, name, temperature)
    whole = torch.zeros_like(expected).scatter(-1, found.ids, found.log_probs)
    torch.testing.assert_close(whole, expected, rtol=2**-11, atol=1e-3)
    assert found.tail_log_mass.isneginf().all() and found.vocab_size == HALF


def test_top_k_has_the_likeliest_and_the_mass_of_all_others(tmp_path: Path) -> None:
    batch = collator("seq2seq")(EXAMPLES[3:9])
    expected = dense(batch)
    found = scores_of(kept(tmp_path / "kept", TopK(5, HALF)), batch)
    likeliest, ids = expected.topk(5)
    assert torch.equal(found.ids, ids)
    torch.testing.assert_close(found.log_probs, likeliest, rtol=2**-11, atol=1e-3)
    rest = expected.scatter(-1, ids, -math.inf).logsumexp(-1)
    torch.testing.assert_close(found.tail_log_mass, rest, rtol=0, atol=1e-3)
    total = torch.cat([found.log_probs, found.tail_log_mass[:, None]], -1).logsumexp(-1)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-6)
    alone = scores_of(kept(tmp_path / "kept", TopK(5, HALF), sparse_form="renormalized"), batch)
    assert alone.tail_log_mass.isneginf().all() and alone.form == "renormalized"
    torch.testing.assert_close(alone.log_probs, found.log_probs.log_softmax(-1))


def test_top_k_by_mass_keeps_the_fewest_that_have_it(tmp_path: Path) -> None:
    batch = collator("seq2seq")(EXAMPLES[3:9])
    probs = dense(batch).exp().sort(descending=True).values
    found = scores_of(kept(tmp_path / "kept", TopK(9, HALF, mass=0.8)), batch)
    for row, sizes in zip(probs.tolist(), (~found.log_probs.isneginf()).sum(-1), strict=True):
        fewest = next(n for n in range(1, HALF + 1) if sum(row[:n]) >= 0.8)
        assert int(sizes) == min(9, fewest)


def test_draws_are_the_teachers_and_the_same_whoever_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = Samples(20_000, HALF)
    batch = collator("seq2seq")(EXAMPLES[3:9])
    expected = dense(batch).exp()
    stored = kept(tmp_path / "one", form, sparse_form="sampled")
    found = scores_of(stored, batch)
    whole = torch.zeros_like(expected).scatter_add(-1, found.ids, found.log_probs.exp())
    spread = (expected * (1 - expected) / form.num).sqrt()
    assert ((whole - expected).abs() <= 5 * spread + 1e-6).all()
    monkeypatch.setattr(kept_scores, "PART_EXAMPLES", 7)
    other = scores_of(kept(tmp_path / "parts", form, sparse_form="sampled"), batch)
    assert len(list((tmp_path / "parts").glob("*.arrow"))) == 5
    assert torch.equal(found.ids, other.ids) and torch.equal(found.log_probs, other.log_probs)


def kept_alone(folder: Path, form: Form) -> None:
    torch.set_num_threads(1)  # a forked process has none of the threads of before
    kept(folder, form)


@pytest.mark.parametrize("form", [TopK(5, HALF), Samples(12, HALF)])
def test_processes_that_score_together_write_what_one_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Form
) -> None:
    monkeypatch.setattr(kept_scores, "PART_EXAMPLES", 3)
    kept(tmp_path / "one", form)
    fork = multiprocessing.get_context("fork")
    others = [fork.Process(target=kept_alone, args=(tmp_path / "two", form)) for _ in range(2)]
    for process in others:
        process.start()
    for process in others:
        process.join(timeout=120)
    assert [process.exitcode for process in others] == [0, 0]
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert one == two and len(one) == 11


def test_a_symbol_is_drawn_as_often_as_it_is_likely() -> None:
    """Enumerated: numbers evenly from 0 to 1 stand for all that a generator may give."""
    log_probs = torch.tensor([[0.5, 0.0, 0.3, 0.2, 0.0]]).log()
    even = (torch.arange(1000).double() + 0.5)[None] / 1000
    sizes, ids, counts = Samples(1000, 5).of(log_probs, even)
    assert (sizes.tolist(), ids.tolist(), counts.tolist()) == ([3], [0, 2, 3], [500, 300, 200])


def test_64_symbols_of_a_large_vocabulary_take_less_than_300_bytes_a_token(tmp_path: Path) -> None:
    vocab_size = 151_936
    examples = [
        dataclasses.replace(e, target_ids=e.target_ids * 5)
        for e in random_examples(40, vocab_size=vocab_size)
    ]
    teacher = SequenceModel(tiny_model("llama", vocab_size=vocab_size, max_position_embeddings=80))
    form = TopK(64, vocab_size)
    make_scores(
        Keeping(
            teacher,
            examples,
            collator("causal"),
            tmp_path / "kept",
            settings=ScoresSettings("teacher", "vocabulary", "causal", None, form),
            batch_tokens=2000,
            device=torch.device("cpu"),
            progress=NoProgress(),
        )
    )
    (part,) = (tmp_path / "kept").glob("*.arrow")
    num_tokens = sum(e.num_counted for e in examples)
    assert form.num_bytes(16) == 278
    assert part.stat().st_size / num_tokens < 300


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (TopK(8, HALF), "form is top 9 of .* and this run's is top 8 of"),
        (TopK(9, HALF, temperature=2.0), "temperature 1 and this run's is .* temperature 2"),
        (TopK(9, HALF, mass=0.9), "this run's is top 9 of 37 or mass 0.9"),
        (Samples(9, HALF), "this run's is 9 draws from 37"),
    ],
)
def test_scores_in_another_form_are_refused(tmp_path: Path, form: Form, told: str) -> None:
    kept(tmp_path / "kept", TopK(9, HALF))
    with pytest.raises(StaleCorpusError, match=told):
        kept(tmp_path / "kept", form)
