"""One update: the division, the split, the clip, and what stops it before the optimizer moves."""

from __future__ import annotations

import copy
import itertools
import math
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import collator, random_examples
from tests.training.small import (
    SETTINGS,
    ListedBatches,
    PlainObjective,
    Recorder,
    make_loop,
    same,
    student,
    weights,
)

from seqdistill.core.batch import SequenceBatch, StudentStates
from seqdistill.core.errors import NonFiniteLossError
from seqdistill.core.scores import TeacherScores
from seqdistill.core.terms import Reduction
from seqdistill.core.token_sum import TokenSum
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.placement import Precision
from seqdistill.training.optimization import learning_rate

EIGHT = random_examples(8, seed=3)
ONE_UPDATE = {"steps": 1, "gradient_accumulation_steps": 1}


def split(micro_batches: int) -> ListedBatches:
    size = len(EIGHT) // micro_batches
    return ListedBatches([EIGHT[i : i + size] for i in range(0, len(EIGHT), size)])


def naive_mean(model: SequenceModel, reduction: Reduction) -> torch.Tensor:
    """The loss by a loop over sentences, each alone and unpadded."""
    per_sentence = []
    for example in EIGHT:
        batch = collator("seq2seq")([example])
        states = model.states(batch)
        log_probs = states.head.logits(states.hidden)[0].log_softmax(-1)
        targets = torch.tensor(example.target_ids)
        per_sentence.append(-log_probs[torch.arange(len(targets)), targets])
    if reduction == "sequence":
        return torch.stack([values.mean() for values in per_sentence]).mean()
    return torch.cat(per_sentence).mean()


def naive_update(model: SequenceModel, reduction: Reduction, max_grad_norm: float) -> float:
    """One step of torch's own AdamW; its gradient's norm before clipping."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=learning_rate(SETTINGS, 1),
        betas=(SETTINGS.adam_beta1, SETTINGS.adam_beta2),
        weight_decay=SETTINGS.weight_decay,
        fused=False,
    )
    torch.autograd.backward(naive_mean(model, reduction))
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float(g.pow(2).sum()) for g in gradients))
    for gradient in gradients:
        gradient.mul_(min(1.0, max_grad_norm / norm))
    optimizer.step()
    return norm


@pytest.mark.parametrize(
    ("micro_batches", "reduction", "max_grad_norm"),
    [
        *itertools.product([1, 2, 4, 8], ["token", "sequence"], [1e9]),
        # About Adam's epsilon, where an update does depend on the gradient's size.
        (2, "token", 1e-7),
    ],
)
def test_any_split_gives_the_update_of_the_mean_over_all(
    micro_batches: int, reduction: Reduction, max_grad_norm: float, tmp_path: Path
) -> None:
    model = student(dtype=torch.float64)
    expected = copy.deepcopy(model)
    norm = naive_update(expected, reduction, max_grad_norm)
    metrics = Recorder()
    make_loop(
        tmp_path,
        model,
        source=split(micro_batches),
        objective=PlainObjective(reduction),
        metrics=metrics,
        steps=1,
        gradient_accumulation_steps=micro_batches,
        max_grad_norm=max_grad_norm,
    ).run(resume=False)
    for name, parameter in model.named_parameters():
        difference = (parameter - expected.get_parameter(name)).detach().abs().max()
        assert float(difference) < 1e-6 * learning_rate(SETTINGS, 1), name
    (row,) = metrics.rows
    assert row["gradient_norm"] == pytest.approx(norm, rel=1e-9)
    assert row["loss_nats"] == pytest.approx(naive_mean(student(), reduction).item(), rel=1e-5)
    assert row["loss_nats"] == row["nll"]
    assert row["tokens"] == sum(len(example.target_ids) for example in EIGHT)
    assert row["learning_rate"] == learning_rate(SETTINGS, 1)


class Poisoned(PlainObjective):
    """The plain objective until a micro-batch, whose total or gradient is then not finite."""

    def __init__(self, at: int, *, gradient: bool) -> None:
        super().__init__()
        self._left = at
        self._gradient = gradient

    def __call__(
        self,
        states: StudentStates,
        scores: TeacherScores,
        batch: SequenceBatch,
        eval_states: StudentStates | None = None,
    ) -> tuple[TokenSum, dict[str, TokenSum]]:
        loss, parts = super().__call__(states, scores, batch)
        self._left -= 1
        if self._left:
            return loss, {**parts, "other": loss}
        if self._gradient:  # sqrt(0) is finite, and its derivative is not
            zero = torch.sqrt((states.hidden - states.hidden.detach()).sum().abs())
            return TokenSum(loss.total + zero, loss.count), parts
        nan = TokenSum(loss.total * float("nan"), loss.count)
        return nan, {"good": loss.detached(), "bad": nan.detached()}


def train_poisoned(folder: Path, *, at: int, gradient: bool) -> tuple[Any, str, Recorder]:
    model, metrics = student(), Recorder()
    loop = make_loop(
        folder,
        model,
        source=ListedBatches([EIGHT[:2], EIGHT[2:4], EIGHT[4:6], EIGHT[6:]]),
        objective=Poisoned(at, gradient=gradient),
        metrics=metrics,
        gradient_accumulation_steps=2,
    )
    with pytest.raises(NonFiniteLossError) as stopped:
        loop.run(resume=False)
    return model, str(stopped.value), metrics


@pytest.fixture
def after_one_update(tmp_path: Path) -> dict[str, torch.Tensor]:
    model = student()
    source = ListedBatches([EIGHT[:2], EIGHT[2:4]])
    make_loop(tmp_path / "one", model, source=source, gradient_accumulation_steps=2, steps=1).run(
        resume=False
    )
    return weights(model)


def test_a_loss_that_is_not_finite_stops_before_the_optimizer_moves(
    tmp_path: Path, after_one_update: dict[str, torch.Tensor]
) -> None:
    model, message, metrics = train_poisoned(tmp_path / "run", at=4, gradient=False)
    for named in ("update 2", "the term bad is nan", "e6, e7", "first of 2"):
        assert named in message
    assert same(weights(model), after_one_update)
    assert [row["step"] for row in metrics.rows] == [1]


def test_a_gradient_that_is_not_finite_stops_before_the_optimizer_moves(
    tmp_path: Path, after_one_update: dict[str, torch.Tensor]
) -> None:
    model, message, _ = train_poisoned(tmp_path / "run", at=4, gradient=True)
    assert "at update 2 its norm is" in message
    assert same(weights(model), after_one_update)


def test_bf16_computes_in_bf16_and_keeps_fp32_weights(tmp_path: Path) -> None:
    seen = set()

    class Watching(PlainObjective):
        def __call__(
            self,
            states: StudentStates,
            scores: TeacherScores,
            batch: SequenceBatch,
            eval_states: StudentStates | None = None,
        ) -> tuple[TokenSum, dict[str, TokenSum]]:
            seen.add((states.hidden @ states.head.weight.T).dtype)
            return super().__call__(states, scores, batch)

    model = student()
    make_loop(tmp_path, model, objective=Watching(), steps=1, precision="bf16").run(resume=False)
    assert seen == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


class AsWriter(PlainObjective):
    """The plain objective, which notes whether it was given the student's states as it writes.

    And whether it was in training mode when the loss was taken.
    """

    def __init__(self, model: SequenceModel, *, needs_eval_states: bool) -> None:
        super().__init__()
        self.needs_eval_states = needs_eval_states
        self._model = model
        self.seen: list[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]] = []

    def __call__(
        self,
        states: StudentStates,
        scores: TeacherScores,
        batch: SequenceBatch,
        eval_states: StudentStates | None = None,
    ) -> tuple[TokenSum, dict[str, TokenSum]]:
        assert self._model.training, "the loss is taken in training mode, whoever was asked before"
        with torch.random.fork_rng(), torch.no_grad():
            self._model.eval()
            written = self._model.states(batch).hidden
            self._model.train()
        own = None if eval_states is None else eval_states.hidden
        self.seen.append((states.hidden.detach(), own, written))
        return super().__call__(states, scores, batch)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_objective_that_reads_the_writer_gets_its_states_with_dropout_off(
    tmp_path: Path, precision: Precision
) -> None:
    model = student(dropout=0.3)
    objective = AsWriter(model, needs_eval_states=True)
    make_loop(tmp_path, model, objective=objective, steps=2, precision=precision).run(resume=False)
    assert len(objective.seen) == 2
    for trained, eval_states, written in objective.seen:
        assert eval_states is not None
        assert not eval_states.requires_grad
        assert torch.equal(eval_states, written)
        assert not torch.allclose(trained, written, atol=1e-3), "dropout must matter here"


@pytest.mark.parametrize(("dropout", "needs_eval_states"), [(0.0, True), (0.3, False)])
def test_the_student_is_not_asked_twice_for_nothing(
    tmp_path: Path, dropout: float, needs_eval_states: bool
) -> None:
    model = student(dropout=dropout)
    objective = AsWriter(model, needs_eval_states=needs_eval_states)
    make_loop(tmp_path, model, objective=objective, steps=1).run(resume=False)
    ((_, eval_states, _),) = objective.seen
    assert eval_states is None


def test_the_mean_of_nothing_is_no_number_in_the_log(tmp_path: Path) -> None:
    class OfNobody(PlainObjective):
        def __call__(
            self,
            states: StudentStates,
            scores: TeacherScores,
            batch: SequenceBatch,
            eval_states: StudentStates | None = None,
        ) -> tuple[TokenSum, dict[str, TokenSum]]:
            loss, parts = super().__call__(states, scores, batch)
            return loss, parts | {"of_nobody": TokenSum.zero()}

    metrics = Recorder()
    make_loop(tmp_path, student(), objective=OfNobody(), metrics=metrics, steps=1).run(resume=False)
    (row,) = metrics.rows
    assert row["of_nobody"] is None
    assert row["nll"] == row["loss_nats"]


@pytest.fixture
def quarters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's clock moves on by a quarter of a second whenever it is read."""
    ticks = itertools.count()
    clock = types.SimpleNamespace(perf_counter=lambda: next(ticks) / 4)
    monkeypatch.setattr("seqdistill.training.loop.time", clock)


@pytest.mark.usefixtures("quarters")
def test_speed_is_of_the_training_since_the_row_before(tmp_path: Path) -> None:
    metrics = Recorder()
    make_loop(tmp_path, student(), metrics=metrics, steps=7, log_every=3).run(resume=False)
    before = 0
    for row, updates in zip(metrics.rows, (3, 3, 1), strict=True):
        assert row["tokens_per_second"] == (row["tokens"] - before) / (updates / 4)
        before = row["tokens"]


@pytest.mark.usefixtures("quarters")
def test_the_first_speed_after_a_resumption_is_of_what_was_trained_since(tmp_path: Path) -> None:
    every = Recorder()
    make_loop(tmp_path / "whole", student(), metrics=every).run(resume=False)
    metrics = Recorder(stop_at=6)

    def train(*, resume: bool) -> None:
        make_loop(
            tmp_path / "part", student(), metrics=metrics, log_every=3, checkpoint_every=4
        ).run(resume=resume)

    with pytest.raises(KeyboardInterrupt):
        train(resume=False)
    metrics.stop_at = None
    train(resume=True)
    tokens = [row["tokens"] for row in every.rows]
    assert [(row["step"], row["tokens_per_second"]) for row in metrics.rows] == [
        (3, tokens[2] / 0.75),
        (6, (tokens[5] - tokens[3]) / 0.5),
    ]


def test_training_learns_a_batch_by_heart_and_ends_in_evaluation_mode(tmp_path: Path) -> None:
    metrics, model = Recorder(), student(dropout=0.01)
    loop = make_loop(
        tmp_path,
        model,
        source=ListedBatches([EIGHT] * 40),
        metrics=metrics,
        steps=40,
        log_every=15,
        warmup_steps=5,
    )
    result = loop.run(resume=False)
    losses = [row["loss_nats"] for row in metrics.rows]
    assert [row["step"] for row in metrics.rows] == [15, 30, 40], "and always the last"
    assert losses[-1] < 0.5 * losses[0]
    assert not model.training
    assert (result.updates, result.stopped_early, result.best) == (40, False, ())
