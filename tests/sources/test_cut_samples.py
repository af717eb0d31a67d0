"""Samples that the length limit cut off: kept, counted, and learned from as far as they go.

Without them a teacher's samples would be those of another distribution, one that stops early.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import chisquare
from tests.jobs.runs import QUICK, folder_for, texts
from tests.tiny import EOS, character_tokenizer, collator, tiny_model

from seqdistill.assembly.corpus import _encoded
from seqdistill.assembly.preparing import prepare
from seqdistill.assembly.sequences import training_sequences
from seqdistill.core.errors import DataError, ModelError
from seqdistill.core.progress import NoProgress
from seqdistill.data.collating import Collator
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.generation.decoding import Decoding, Hypothesis, SequenceGenerator
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.metrics.similarity import smoothed_bleu
from seqdistill.models.adapters import adapt
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.sources.completions import Completion
from seqdistill.sources.corpus_shards import TeacherOutput
from seqdistill.sources.interpolation import interpolate
from seqdistill.sources.stored import StoredCompletions, StoredSequences, with_teacher_targets
from seqdistill.sources.teacher_corpus import TeacherCorpus

from .test_teacher_corpus import (
    END,
    EXAMPLES,
    SAMPLE,
    FakeGenerator,
    label_with,
    outputs_of,
    spell,
)
from .writing import batched


def rarely_finished(source: Sequence[int], rank: int) -> bool:
    """Source 10 finishes nothing, every third source its second output alone."""
    return source[0] != 10 and (source[1] != 20 or rank == 1)


def rare(calls_left: int = 1000) -> FakeGenerator:
    return FakeGenerator(calls_left, is_finished=rarely_finished)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [
        row
        for path in sorted(folder.glob("shard-*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def test_cut_samples_are_kept_without_an_end_token_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        corpus = label_with(rare(), tmp_path, decoding=SAMPLE)
    num_cut = 2 + len(range(3, 23, 3))
    manifest = corpus.record.counts
    assert (manifest.num_hypotheses, manifest.num_cut, manifest.num_dropped) == (46, num_cut, 0)
    assert manifest.num_unfinished == 0, "no prompt is lost"
    assert f"{num_cut} of the teacher's 46 samples were cut off at 128 tokens" in caplog.text
    assert [len(outputs) for _, outputs in corpus.by_example()] == [2] * 23
    for output in corpus:
        assert output.finished == (output.token_ids[-1] == END)
    cut = [output for output in corpus if not output.finished]
    assert {output.log_prob for output in cut} == {-9.5}
    assert [o.id for o in cut[:2]] == ["doc/0"] * 2
    rows = rows_of(tmp_path)
    assert sum(not row["finished"] for row in rows) == num_cut
    assert manifest.num_tokens == sum(len(row["token_ids"]) for row in rows)


def test_an_answer_without_a_token_is_no_sample(tmp_path: Path) -> None:
    answered = [tuple(source) for _, source in EXAMPLES[:2]]

    class Mute(FakeGenerator):
        def hypothesis(self, source: Sequence[int], rank: int, shift: int) -> Hypothesis:
            if tuple(source) not in answered:
                return Hypothesis((), 0.0, False)
            return super().hypothesis(source, rank, shift)

    corpus = label_with(Mute(), tmp_path, decoding=SAMPLE)
    assert {output.id for output in corpus} == {EXAMPLES[0][0], EXAMPLES[1][0]}
    counts = corpus.record.counts
    assert (counts.num_unfinished, counts.num_cut, counts.num_dropped) == (21, 0, 42)


@pytest.mark.parametrize("decoding", [SAMPLE, Decoding(max_new_tokens=7)])
def test_a_teacher_that_never_ends_is_refused_and_leaves_no_corpus(
    tmp_path: Path, decoding: Decoding
) -> None:
    class Endless(FakeGenerator):
        def hypothesis(self, source: Sequence[int], rank: int, shift: int) -> Hypothesis:
            return Hypothesis((9,) * (7 if decoding.mode == "beam" else 0), -1.0, False)

    with pytest.raises(ModelError, match="for 0 of 23 examples, and no corpus is written"):
        label_with(Endless(), tmp_path, decoding=decoding)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".parquet", ".json")]


def test_cut_samples_are_encoded_for_another_tokenizer_without_an_end() -> None:
    student = LoadedModel(tiny_model("mbart"), character_tokenizer(), "student")
    cut = TeacherOutput("a", 0, (9, 9), "abc", -1.0, finished=False)
    whole = dataclasses.replace(cut, rank=1, finished=True)
    asked = [Example("a", "x", None)]

    def encoded(*outputs: TeacherOutput) -> list[tuple[int, ...]]:
        ((name, ids),) = _encoded([("a", outputs)], Recipe(), student, student, asked)
        assert name == "a"
        return list(ids)

    first, second = encoded(cut, whole)
    assert second == (*first, EOS) and EOS not in first
    inside = dataclasses.replace(cut, text="abc\N{REPLACEMENT CHARACTER}")  # of a character
    assert encoded(inside) == [first]


MakeGenerator = Callable[[str], SequenceGenerator]
LIMIT = 2


def with_transformers(name: str) -> SequenceGenerator:
    model = tiny_model(name)
    return TransformersGenerator(model, character_tokenizer(closes=False), kind=adapt(model).kind)


def with_ctranslate2(name: str) -> SequenceGenerator:
    model = tiny_model(name)
    return CTranslate2Generator(
        model,
        character_tokenizer(closes=False),
        kind=adapt(model).kind,
        verify_on=[((5, 6, 7, EOS), (4, 7, EOS))],
        threads=1,
    )


def probabilities_of_starts(name: str, source: tuple[int, ...]) -> torch.Tensor:
    """log p of the first symbol, then of the second after each first: (1 + vocab, vocab)."""
    student = adapt(tiny_model(name))
    firsts = [EncodedExample("", source, (first, EOS)) for first in range(40)]
    batch = collator(student.kind)(firsts)
    with torch.no_grad():
        states = student.states(batch)
        log_probs = states.head.logits(states.hidden).double().log_softmax(-1)
    first, second = log_probs[batch.target_mask].view(40, 2, 40).unbind(1)
    return torch.cat([first[:1], second])


@pytest.mark.parametrize(
    ("make", "name"), [(with_transformers, "mbart"), (with_ctranslate2, "llama")]
)
def test_targets_from_samples_follow_the_teachers_distribution_cut_ones_included(
    tmp_path: Path, make: MakeGenerator, name: str
) -> None:
    """Against the exact distribution of what two tokens can say. A corpus without its cut samples
    has only what ends at once or in the second place."""
    source = (5, 6, 7, 8, EOS)
    ids = [f"e{number}" for number in range(1500)]
    decoding = Decoding(mode="sample", sampling_temperature=2.0, max_new_tokens=LIMIT)
    corpus = label_with(
        make(name), tmp_path, examples=[(i, source) for i in ids], decoding=decoding, shard_size=500
    )
    prompts = [EncodedExample(i, source, ()) for i in ids]
    targets = [e.target_ids for e in with_teacher_targets(prompts, outputs_of(corpus).items())]
    assert len(targets) == len(ids), "every prompt has its target"
    tables = (probabilities_of_starts(name, source) / 2.0).log_softmax(-1).exp()
    expected = {(EOS,): float(tables[0, EOS])} | {
        (first, second): float(tables[0, first] * tables[1 + first, second])
        for first in range(40)
        if first != EOS
        for second in range(40)
    }
    assert sum(expected.values()) == pytest.approx(1.0)
    counts = collections.Counter(targets)
    assert set(counts) <= set(expected)
    often = [key for key, share in expected.items() if share * len(ids) >= 5.0]
    observed = [counts[key] for key in often] + [len(ids) - sum(counts[key] for key in often)]
    wanted = [expected[key] * len(ids) for key in often]
    wanted.append(len(ids) - sum(wanted))
    assert len(often) > 20 and sum(key[-1] != EOS for key in often) > 10
    assert chisquare(observed, wanted).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_a_cut_target_is_batched_as_a_cut_rollout_of_the_student(kind: str) -> None:
    """No end token is made up, neither as a target nor in what the decoder reads."""
    prompts = [EncodedExample("a", (5, 6, EOS), ()), EncodedExample("b", (7, EOS), (9, EOS))]
    outputs: list[tuple[str, list[tuple[int, ...]]]] = [("a", [(8, 9, 10)]), ("b", [(11, EOS)])]
    examples = with_teacher_targets(prompts, outputs)
    make: Collator = collator("causal" if kind == "causal" else "seq2seq")
    # Both fit one batch, whatever the order.
    batch = StoredSequences(examples, make, batch_tokens=100, seed=1).next_batch()
    rows = {name: row for row, name in enumerate(batch.example_ids)}
    cut = batch.target_ids[rows["a"]][batch.target_mask[rows["a"]]]
    assert cut.tolist() == [8, 9, 10]
    assert int(batch.target_mask.sum()) == 5
    rollouts = [
        Completion(
            EncodedExample(e.id, e.source_ids, e.target_ids), "student", finished=e.id == "b"
        )
        for e in sorted(examples, key=lambda e: rows[e.id])
    ]
    same = batched(rollouts).collated(make)
    for field in ("decoder_input_ids", "decoder_mask", "target_ids", "target_mask"):
        assert torch.equal(getattr(batch, field), getattr(same, field)), field


def test_a_writer_of_the_teachers_samples_tells_which_were_cut() -> None:
    prompts = [EncodedExample("a", (5, EOS), (8, 9, 10)), EncodedExample("b", (7, EOS), (11, EOS))]
    written = StoredCompletions("teacher", end_ids=(EOS,)).complete(prompts).listed()
    assert [one.finished for one in written] == [False, True]
    assert [one.example for one in written] == prompts


def test_interpolation_chooses_among_finished_outputs(tmp_path: Path) -> None:
    references = [(example_id, spell(source)) for example_id, source in EXAMPLES]

    def chosen(corpus: TeacherCorpus) -> dict[str, list[TeacherOutput]]:
        found = interpolate(corpus, references, similarity=smoothed_bleu(), decode=spell)
        return {name: outputs for name, outputs in found.targets() if outputs}

    found = chosen(label_with(rare(), tmp_path / "some", decoding=SAMPLE))
    assert "doc/0" not in found and len(found) == 22
    assert all(output.finished for (output,) in found.values())
    never = FakeGenerator(is_finished=lambda source, rank: False)
    with pytest.raises(DataError, match="must hold finished outputs"):
        chosen(label_with(never, tmp_path / "none", decoding=SAMPLE))


@pytest.mark.parametrize(("method", "name"), [("f_distill", "mbart"), ("distillm_2", "llama")])
def test_a_recipe_whose_teacher_samples_learns_from_every_prompt(
    tmp_path: Path, method: str, name: str
) -> None:
    place = folder_for(tmp_path, name)
    given = {
        **QUICK,
        "data.train": str(place / "train.tsv"),
        "teacher.model": str(place / "teacher"),
        "student.model": str(place / "student"),
        "sequences.decoding.engine": "transformers",
        "sequences.decoding.max_new_tokens": 3,
        "sequences.rollouts.max_new_tokens": 8,
        "output_dir": str(place / "runs" / "run"),
    }
    prepared = prepare(load_recipe(method, texts(given)))
    examples, _ = training_sequences(prepared, NoProgress())
    assert [e.id for e in examples] == [e.id for e in prepared.train]
    cut = [e for e in examples if EOS not in e.target_ids]
    assert cut and all(len(e.target_ids) == 3 for e in cut)
