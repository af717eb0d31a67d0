"""A teacher in this process: frozen, in eval mode, apart from the student, cut where it is told."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import VOCAB, collator, random_examples, tiny_adapter, tiny_model

from seqdistill.core.scores import DenseScores
from seqdistill.core.terms import Term
from seqdistill.models.adapters import SequenceModel
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.teachers.in_process import InProcessTeacher, Teacher

BATCH = collator("seq2seq")(random_examples(4))


def dense(teacher: Teacher) -> DenseScores:
    scores = teacher.score(BATCH)
    assert isinstance(scores, DenseScores)
    return scores


@pytest.mark.parametrize(("student_rows", "teacher_rows"), [(VOCAB, 44), (44, VOCAB), (44, 48)])
def test_padded_tails_of_either_side_are_left_out_of_the_divergence(
    student_rows: int, teacher_rows: int
) -> None:
    student = SequenceModel(tiny_model("mbart", vocab_size=student_rows))
    teacher_model = SequenceModel(tiny_model("mbart", seed=1, vocab_size=teacher_rows))
    size = min(student_rows, teacher_rows)
    scores = dense(InProcessTeacher(teacher_model, vocab_size=size))
    states, mask = student.states(BATCH), BATCH.target_mask
    objective = WeightedObjective([Term.of("forward_kl")], reduction="token")
    loss, _ = objective(states, scores, BATCH)
    log_q = states.head.logits(states.hidden[mask])[:, :size].double().log_softmax(-1)
    whole = teacher_model.states(BATCH)
    log_p = whole.head.logits(whole.hidden[mask])[:, :size].double().log_softmax(-1)
    expected = (log_p.exp() * (log_p - log_q)).sum()
    torch.testing.assert_close(loss.total.detach().double(), expected.detach(), rtol=1e-5, atol=0)


def test_no_gradient_mode_or_update_of_the_student_reaches_the_teacher() -> None:
    student, teacher_model = tiny_adapter("mbart", dropout=0.5), tiny_model("mbart", dropout=0.5)
    teacher = InProcessTeacher(SequenceModel(teacher_model.train()), vocab_size=VOCAB)
    before = dense(teacher)
    assert not before.head.logits(before.hidden).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher_model.parameters())
    student.train()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    after = dense(teacher)
    assert not teacher_model.training
    assert torch.equal(after.hidden, before.hidden), "dropout must be off in a teacher"
    assert torch.equal(after.head.weight, before.head.weight)
