"""What this package is measured against computes what it should."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from benchmarks.peers.page import RECORD, page
from benchmarks.peers.plain_methods import LOSSES, TeacherMixed, left_padded
from tests.jobs import naive
from tests.jobs.test_golden_updates import PAPERS
from tests.tiny import PAD, VOCAB, tiny_model

ROOT = Path(__file__).parents[2]
LENGTHS = (5, 2, 7, 3)


@pytest.mark.parametrize("method", LOSSES)
def test_plain_losses_and_their_gradients_are_the_papers(method: str) -> None:
    generator = torch.Generator().manual_seed(3)
    time = max(LENGTHS)

    def logits() -> torch.Tensor:
        return 2 * torch.randn(len(LENGTHS), time, VOCAB, generator=generator, dtype=torch.float64)

    student, teacher = logits().requires_grad_(), logits()
    targets = torch.randint(VOCAB, (len(LENGTHS), time), generator=generator)
    counts = torch.tensor([[False] * (time - n) + [True] * n for n in LENGTHS])
    is_minillm = method == "minillm"
    sampled = torch.tensor([True, True, False, True] if is_minillm else [True] * len(LENGTHS))
    scored = []
    for row, length in enumerate(LENGTHS):
        own, others = student[row, time - length :], teacher[row, time - length :]
        tokens = targets[row, time - length :].tolist()
        mixed = (0.2 * others.softmax(-1) + 0.8 * own.detach().softmax(-1)).log()
        origin = ("teacher_mixed" if sampled[row] else "reference") if is_minillm else "student"
        drawn = naive.log_probs(mixed, tokens) if origin == "teacher_mixed" else None
        scored.append(naive.Scored(tokens, own, others, origin, drawn))
    terms, reduction, _ = PAPERS[method]
    expected = naive.loss(scored, terms, reduction=reduction)
    found = LOSSES[method](student, teacher, targets, counts, sampled)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(value, student)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_samples_are_drawn_from_the_mixture_of_both_models() -> None:
    student, teacher = tiny_model("llama", seed=1), tiny_model("llama", seed=2)
    prompts = [[7, 8, 9, 10], [11, 12]]
    ids, mask = left_padded(prompts, PAD)
    mixing = TeacherMixed(teacher, 0.2, mask)
    written = torch.empty(2, 0, dtype=torch.long)
    with torch.no_grad():
        for token in (5, 6, 7):  # with the cache of the steps before
            wholes = [[*one, *more] for one, more in zip(prompts, written.tolist(), strict=True)]
            q, p = (
                torch.stack([model(torch.tensor([whole])).logits[0, -1] for whole in wholes])
                for model in (student, teacher)
            )
            found = mixing(torch.cat([ids, written], dim=1), q)
            expected = 0.2 * p.softmax(-1) + 0.8 * q.softmax(-1)
            torch.testing.assert_close(found.exp(), expected, atol=1e-6, rtol=1e-4)
            written = torch.cat([written, torch.full((2, 1), token)], dim=1)
    assert math.isclose(float(found.exp().sum()), 2.0, rel_tol=1e-5)


def test_the_page_says_what_the_record_has() -> None:
    record = json.loads((ROOT / RECORD).read_text("utf-8"))
    written = (ROOT / RECORD).with_suffix(".md").read_text("utf-8")
    assert written == page(record), "run python -m benchmarks.peers.page"
