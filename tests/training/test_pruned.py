"""A pruned student trains like any other, and what is pruned is exactly zero at every update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.small import (
    SETTINGS,
    PlainObjective,
    Recorder,
    make_loop,
    same,
    scripted,
    stored,
    student,
    weights,
)
from torch import Tensor, nn

from seqdistill.compression.pruning import PruningMask, bit_patterns, prune
from seqdistill.core.batch import StudentStates
from seqdistill.core.errors import UserError
from seqdistill.core.scores import NoScores
from seqdistill.models.adapters import SequenceModel, hidden_states
from seqdistill.teachers.in_process import NoTeacher
from seqdistill.training.checkpoint import load_state, saved_states
from seqdistill.training.optimization import make_optimizer

UPDATES = 6


def pruned(model: SequenceModel, *, share: float = 0.7) -> PruningMask:
    return prune(model.module, pruned_share=share, scheme="class_blind")


def assert_zero(model: SequenceModel, kept: dict[str, Tensor]) -> None:
    for name, mask in kept.items():
        values = bit_patterns(model.module.get_parameter(name))[~mask]
        assert not values.any(), f"{name} was filled"


def test_pruned_weights_are_zero_at_every_update_and_the_others_train(tmp_path: Path) -> None:
    model = student(dropout=0.3)
    mask = pruned(model)
    before, seen = weights(model), list[int]()

    def look(module: Any) -> None:
        assert_zero(model, mask.kept())
        seen.append(sum(int(p.count_nonzero()) for p in module.parameters()))

    make_loop(
        tmp_path, model, mask=mask, score_dev=scripted([1.0] * UPDATES, look), eval_every=1
    ).run(resume=False)
    assert len(seen) == UPDATES
    after = weights(model)
    for name, kept in mask.kept().items():
        moved = (after[f"module.{name}"] != before[f"module.{name}"])[kept]
        assert moved.any(), f"nothing of {name} was trained"


def test_updates_are_those_of_a_plain_loop_that_multiplies_by_the_mask(tmp_path: Path) -> None:
    model, plain = student(dtype=torch.float64), student(dtype=torch.float64)
    mask = pruned(model)
    metrics = Recorder()
    make_loop(tmp_path, model, mask=mask, metrics=metrics, max_grad_norm=0.5).run(resume=False)

    kept = {plain.module.get_parameter(name): part for name, part in pruned(plain).kept().items()}
    optimizer = make_optimizer(plain, SETTINGS)
    source, norms = stored(), []
    for row in metrics.rows:
        batch = source.next_batch()
        plain.train()
        states = StudentStates(hidden_states(plain, batch), plain.head)
        loss, _ = PlainObjective()(states, NoScores(), batch)
        torch.autograd.backward(loss.total / loss.count)
        for parameter, part in kept.items():
            assert parameter.grad is not None
            parameter.grad *= part
        gradients = [p.grad for p in plain.parameters() if p.grad is not None]
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        norms.append(float(norm))
        for gradient in gradients:
            gradient *= min(1.0, 0.5 / float(norm))
        for group in optimizer.param_groups:
            group["lr"] = row["learning_rate"]
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for parameter, part in kept.items():
                parameter *= part
    assert [row["gradient_norm"] for row in metrics.rows] == pytest.approx(norms, rel=1e-5)
    for name, value in plain.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), value, rtol=1e-5, atol=1e-7)


def train(
    folder: Path, metrics: Recorder, *, share: float | None = 0.7, resume: bool = False
) -> tuple[SequenceModel, PruningMask]:
    """Six updates with dropout, one kept weight made zero by hand, a state every second."""
    # A student that is put back from a state may have started from, and lost, anything.
    model = student(dropout=0.3, seed=1 if saved_states(folder) else 0)
    mask = PruningMask.of_nothing() if share is None else pruned(model, share=share)

    def accident(_model: object) -> None:
        name, kept = next(iter(mask.kept().items()))
        with torch.no_grad():
            model.module.get_parameter(name)[tuple(kept.nonzero()[0])] = 0.0

    make_loop(
        folder,
        model,
        mask=mask,
        metrics=metrics,
        score_dev=scripted([1.0] * UPDATES, lambda m: None if share is None else accident(m)),
        checkpoint_every=2,
        eval_every=2,
    ).run(resume=resume)
    return model, mask


@pytest.mark.parametrize("killed_at", [3, 5])
def test_resumed_equals_uninterrupted_whatever_was_zero(killed_at: int, tmp_path: Path) -> None:
    expected, mask = train(tmp_path / "whole", Recorder())
    metrics = Recorder(stop_at=killed_at)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", metrics)
    metrics.stop_at = None
    model, again = train(tmp_path / "killed", metrics, resume=True)
    assert same(weights(model), weights(expected))
    assert all(torch.equal(again.kept()[name], kept) for name, kept in mask.kept().items())
    # The last state holds the mask, and moments that are zero where it is.
    path, model = tmp_path / "whole" / f"checkpoint-{UPDATES}", student(seed=1)
    assert load_file(path / "pruning.safetensors").keys() == mask.kept().keys()
    again, optimizer = pruned(model, share=0.0), make_optimizer(model, SETTINGS)
    assert again.density > 0.99
    load_state(
        path,
        model=model,
        mask=again,
        features=nn.ModuleList(),
        teacher=NoTeacher(),
        optimizer=optimizer,
        device=torch.device("cpu"),
    )
    assert again.density == mask.density
    for name, kept in mask.kept().items():
        for slot in ("exp_avg", "exp_avg_sq"):
            moment = optimizer.state[model.module.get_parameter(name)][slot]
            assert not moment[~kept].any() and moment[kept].any(), f"{slot} of {name}"


@pytest.mark.parametrize(("first", "second"), [(0.7, None), (None, 0.7)])
def test_a_state_of_a_student_pruned_otherwise_is_refused(
    first: float | None, second: float | None, tmp_path: Path
) -> None:
    train(tmp_path, Recorder(), share=first)
    assert (first is None) == (not list(tmp_path.rglob("pruning.safetensors")))
    with pytest.raises(UserError, match="stored pruning mask must be of this model's own weights"):
        train(tmp_path, Recorder(), share=second, resume=True)
