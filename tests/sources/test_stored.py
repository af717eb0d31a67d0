"""Sequences that exist before training: the teacher's targets, those that were cut off included."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from tests.tiny import EOS, character_tokenizer, collator, random_examples, tiny_model

from seqdistill.assembly.teacher_outputs import _encoded
from seqdistill.core.errors import DataError
from seqdistill.data.batching import EpochBatches
from seqdistill.data.collating import Collator
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.schema import Recipe
from seqdistill.sources.completions import Completion
from seqdistill.sources.shards import TeacherOutput
from seqdistill.sources.stored import StoredCompletions, StoredSequences, with_teacher_targets

from .writing import batched

EXAMPLES = random_examples(30)


def test_several_outputs_are_several_examples_and_none_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outputs: list[tuple[str, list[tuple[int, ...]]]] = [
        ("e0", [(9, EOS), (7, EOS)]),
        ("too long", [(5, EOS)]),
        ("e1", []),
        ("e2", [(6, EOS)]),
        ("e3", []),
    ]
    with caplog.at_level(logging.WARNING):
        written = with_teacher_targets(EXAMPLES[:4], outputs)
    assert [(e.id, e.target_ids) for e in written] == [
        ("e0", (9, EOS)),
        ("e0", (7, EOS)),
        ("e2", (6, EOS)),
    ]
    assert "left out 2 examples" in caplog.text


def test_a_corpus_of_other_data_is_refused() -> None:
    with pytest.raises(DataError, match="none 'e0' at its place"):
        with_teacher_targets(EXAMPLES, [("other", [(5, EOS)])])
    with pytest.raises(DataError, match="for none of its 30 examples"):
        with_teacher_targets(EXAMPLES, [(example.id, []) for example in EXAMPLES])


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


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_a_cut_target_is_batched_as_a_cut_rollout_of_the_student(kind: str) -> None:
    """No end token is made up, neither as a target nor in what the decoder reads."""
    prompts = [EncodedExample("a", (5, 6, EOS), ()), EncodedExample("b", (7, EOS), (9, EOS))]
    examples = with_teacher_targets(prompts, [("a", [(8, 9, 10)]), ("b", [(11, EOS)])])
    make: Collator = collator("causal" if kind == "causal" else "seq2seq")
    # Both fit one batch, whatever the order.
    batch = StoredSequences(
        examples, make, EpochBatches(examples, make.kind, batch_tokens=100, seed=1)
    ).next_batch()
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
