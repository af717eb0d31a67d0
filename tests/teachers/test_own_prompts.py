"""A teacher with a prompt of its own, and the student as its own teacher: exact in both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from tests.jobs import naive
from tests.tiny import EOS, VOCAB, collator, random_examples, tiny_adapter, tiny_model
from torch import Tensor

from seqdistill.core.batch import Kind, SequenceBatch
from seqdistill.core.completions import Completions
from seqdistill.core.scores import DenseScores
from seqdistill.core.terms import Term
from seqdistill.data.collating import Collator
from seqdistill.data.encoding import EncodedExample
from seqdistill.models.adapters import SequenceModel, kind_of
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.teachers.in_process import AveragedTeacher, InProcessTeacher, LiveTeacher, Teacher

MODELS = ["mbart", "t5", "llama", "gpt2"]
BOTH = ["mbart", "llama"]


def hinted(count: int = 5) -> list[EncodedExample]:
    """Rows of many lengths whose teacher reads a prompt longer or shorter than theirs."""
    prompts = random_examples(count, seed=9)
    return [
        dataclasses.replace(one, teacher_source_ids=(5,) * (3 * (place % 3)) + other.source_ids)
        for place, (one, other) in enumerate(zip(random_examples(count), prompts, strict=True))
    ]


def same_prompts(examples: Sequence[EncodedExample]) -> list[EncodedExample]:
    return [dataclasses.replace(one, teacher_source_ids=one.source_ids) for one in examples]


def scores_of(teacher: Teacher, batch: SequenceBatch) -> DenseScores:
    scores = teacher.score(batch)
    assert isinstance(scores, DenseScores)
    return scores


def loss_and_gradient(
    student: SequenceModel, teacher: Teacher, batch: SequenceBatch, divergence: str
) -> tuple[Tensor, list[Tensor]]:
    objective = WeightedObjective([Term.of(divergence)], reduction="token")
    loss, _ = objective(student.states(batch), teacher.score(batch), batch)
    found = torch.autograd.grad(loss.total, [*student.parameters()], allow_unused=True)
    return loss.total.detach(), [one for one in found if one is not None]


def test_a_student_has_no_prompt_to_give_its_teacher_unless_the_data_do() -> None:
    batch = collator("causal")(random_examples(3))
    assert batch.teacher is None and batch.for_teacher is batch
    hidden = torch.zeros(*batch.target_mask.shape, 2)
    assert batch.aligned(hidden) is hidden


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_the_teacher_alone_after_its_own_prompt(name: str) -> None:
    model = tiny_model(name, seed=3)
    kind, examples = kind_of(model), hinted()
    batch = collator(kind)(examples)
    assert batch.teacher is not None
    if kind == "causal":
        assert batch.teacher.decoder_mask.shape != batch.decoder_mask.shape
    scores = scores_of(InProcessTeacher(SequenceModel(model), vocab_size=VOCAB), batch)
    model.config.decoder_start_token_id = EOS  # as these batches begin, whatever T5 says
    for row, one in enumerate(examples):
        found = scores.head.logits(scores.hidden[row][batch.target_mask[row]])
        assert one.teacher_source_ids is not None
        alone = naive.plain_logits(model, one.teacher_source_ids, one.target_ids)
        torch.testing.assert_close(found, alone.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_completions_of_any_lengths_keep_their_places_behind_prefixes_and_cuts(kind: Kind) -> None:
    start = EOS if kind == "seq2seq" else None
    collate = Collator(kind, pad_id=1, start_id=start, prefix_ids=(7, 8) if start else ())
    prompts = [one.answered(()) for one in hinted(4)]
    rows = [(9,), (10, 11, 12), (13, 14), (15, 16, 17, 18, EOS)]
    batch = collate.joined(prompts, Completions.of_rows(rows, finished=[False] * 3 + [True]))
    assert batch.teacher is not None
    for row, ids in enumerate(rows):
        for one in (batch, batch.teacher):
            assert one.target_ids[row][one.target_mask[row]].tolist() == [*ids]
    numbers = torch.arange(batch.teacher.target_mask.numel()).view(*batch.teacher.target_mask.shape)
    moved = batch.aligned(numbers[..., None].float())[..., 0]
    assert torch.equal(moved[batch.target_mask], numbers[batch.teacher.target_mask].float())
    assert not moved[~batch.target_mask].any()


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "total_variation"])
@pytest.mark.parametrize("name", BOTH)
def test_the_students_prompt_as_the_teachers_is_ordinary_distillation(
    name: str, divergence: str
) -> None:
    student, examples = tiny_adapter(name), random_examples(6)
    teacher = InProcessTeacher(tiny_adapter(name, seed=1), vocab_size=VOCAB)
    collate = collator(student.kind)
    plain, own = (
        loss_and_gradient(student, teacher, collate(rows), divergence)
        for rows in (examples, same_prompts(examples))
    )
    assert plain[0] > 0.1 and torch.equal(plain[0], own[0])
    assert all(torch.equal(one, other) for one, other in zip(plain[1], own[1], strict=True))


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
@pytest.mark.parametrize("name", BOTH)
def test_a_student_that_teaches_itself_without_a_context_has_nothing_to_learn(
    name: str, divergence: str
) -> None:
    student = tiny_adapter(name, dropout=0.0).train()
    teacher = LiveTeacher(student, vocab_size=VOCAB)
    collate = collator(student.kind)
    loss, gradient = loss_and_gradient(
        student, teacher, collate(same_prompts(random_examples(4))), divergence
    )
    assert student.training and float(loss) == pytest.approx(0.0, abs=1e-5)
    assert max(float(one.abs().max()) for one in gradient) < 1e-4
    loss, gradient = loss_and_gradient(student, teacher, collate(hinted()), divergence)
    assert loss > 0.1 and max(float(one.abs().max()) for one in gradient) > 1e-2


def test_a_live_teacher_is_the_student_of_this_moment_without_its_dropout_or_a_gradient() -> None:
    student = tiny_adapter("mbart", dropout=0.5).train()
    batch, teacher = collator("seq2seq")(hinted()), LiveTeacher(student, vocab_size=VOCAB)
    before = scores_of(teacher, batch)
    assert torch.equal(before.hidden, scores_of(teacher, batch).hidden)
    assert not before.head.logits(before.hidden).requires_grad
    assert all(parameter.requires_grad for parameter in student.parameters())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.1)
    assert not torch.allclose(before.hidden, scores_of(teacher, batch).hidden)


@pytest.mark.parametrize("decay", [0.9, 0.3])
def test_an_average_of_three_updates_is_the_formulas(decay: float) -> None:
    student, model = tiny_adapter("mbart"), tiny_adapter("mbart")
    teacher = AveragedTeacher(model, student, decay=decay, vocab_size=VOCAB)
    teacher.student_updated(1)
    assert all(
        torch.equal(own, one)
        for own, one in zip(model.parameters(), student.parameters(), strict=True)
    ), "what is equal stays so to the last bit"
    expected = [one.detach().double() for one in student.parameters()]
    for update in range(3):
        with torch.no_grad():
            for number, one in enumerate(student.parameters()):
                one.add_(0.1 * (number % 5 + update))
        teacher.student_updated(1)
        expected = [
            decay * before + (1.0 - decay) * one.detach().double()
            for before, one in zip(expected, student.parameters(), strict=True)
        ]
    for found, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    again = AveragedTeacher(tiny_adapter("mbart", seed=5), student, decay=decay, vocab_size=VOCAB)
    again.load_state_dict(teacher.state_dict())
    batch = collator("seq2seq")(hinted())
    assert torch.equal(scores_of(again, batch).hidden, scores_of(teacher, batch).hidden)
