"""An update of rollouts is the same however its sequences stand in micro-batches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.jobs.runs import folder_for, losses, recipe_in, student_of, trained

from seqdistill.core.batch import Kind

SAMPLES = "sequences.rollouts.samples_per_prompt=2"


@pytest.mark.parametrize(
    ("kind", "method", "more"),
    [
        ("mbart", "on_policy_kd", ()),
        ("llama", "gkd", ("objective.reduction=sequence", "sequences.mixture.coin=example")),
        ("llama", "tip", ()),
        ("mbart", "minillm", ()),
        ("mbart", "gkd_rl", (SAMPLES, "objective.reward.baseline=leave_one_out")),
    ],
)
def test_an_update_does_not_depend_on_how_its_sequences_are_grouped(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    method: str,
    more: Sequence[str],
) -> None:
    place = folder_for(tmp_path, kind)
    given = ("training.gradient_accumulation_steps=3", "training.dropout=0", *more)
    given = ("training.optimizer=sgd", "training.learning_rate=0.1", *given)
    given = ("training.batch_tokens=60", "sequences.rollouts.engine=transformers", *given)

    def dealt_out(_sources: Any, _targets: Any, _kind: Kind, sizes: Sequence[int]) -> list[Any]:
        return [[*range(sum(sizes))][place :: len(sizes)] for place in range(len(sizes))]

    def kept(_sources: Any, _targets: Any, _kind: Kind, sizes: Sequence[int]) -> list[Any]:
        ends = [*itertools.accumulate(sizes)]
        return [[*range(end - size, end)] for size, end in zip(sizes, ends, strict=True)]

    runs = []
    for grouped in (dealt_out, kept):
        monkeypatch.setattr("seqdistill.sources.rollouts.regrouped", grouped)
        runs.append(trained(recipe_in(place, method, *given, name=grouped.__name__)))
    together, apart = runs
    assert losses(together) == pytest.approx(losses(apart), rel=1e-4, abs=1e-6)
    one, other = student_of(together), student_of(apart)
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], rtol=1e-3, atol=1e-5), name
    assert together.read_rollouts() == apart.read_rollouts()
