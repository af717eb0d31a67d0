"""One update: the division, the split, the clip, and what stops it before the optimizer moves."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import types
from collections.abc import Sequence
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
from seqdistill.core.families import TOKEN_WEIGHTS
from seqdistill.core.terms import Reduction, Term
from seqdistill.core.token_sum import TokenSum
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.placement import Precision
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.teachers.in_process import InProcessTeacher
from seqdistill.training.optimization import learning_rate
from seqdistill.training.processes import StepStats
from seqdistill.training.telling import Note

EIGHT = random_examples(8, seed=3)


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
        (1, "token", 1e9),
        (4, "token", 1e9),
        (2, "sequence", 1e9),
        (8, "sequence", 1e9),
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
    assert not model.training
    (row,) = metrics.rows
    assert row["gradient_norm"] == pytest.approx(norm, rel=1e-9)
    assert row["loss_nats"] == pytest.approx(naive_mean(student(), reduction).item(), rel=1e-5)
    assert row["loss_nats"] == row["nll"]
    assert row["tokens"] == sum(len(example.target_ids) for example in EIGHT)
    assert row["learning_rate"] == learning_rate(SETTINGS, 1)


def selecting(fraction: float, by: str = "soft_or") -> WeightedObjective:
    weight = TOKEN_WEIGHTS.choose("top_tokens", by=by, fraction=fraction)
    return WeightedObjective([Term.of("reverse_kl", token_weights=[weight])], reduction="token")


@pytest.mark.parametrize("by", ["soft_or", "third_quadrant"])
def test_any_split_of_an_update_selects_the_same_tokens(by: str, tmp_path: Path) -> None:
    found, rows = [], []
    for micro_batches in (1, 4, 8):
        model, metrics = student(dtype=torch.float64), Recorder()
        make_loop(
            tmp_path / str(micro_batches),
            model,
            source=split(micro_batches),
            objective=selecting(0.4, by),
            teacher=InProcessTeacher(student(seed=3, dtype=torch.float64), vocab_size=40),
            metrics=metrics,
            optimizer="sgd",
            steps=1,
            gradient_accumulation_steps=micro_batches,
        ).run(resume=False)
        found.append(torch.cat([value.flatten() for value in weights(model).values()]))
        rows.append(metrics.without_timings[0])
        del rows[-1]["padded_fraction"]  # the one thing that a split changes
    selected = sum(int(0.4 * len(example.target_ids)) for example in EIGHT)
    for updated, row in zip(found, rows, strict=True):
        torch.testing.assert_close(updated, found[0], rtol=0.0, atol=1e-12)
        assert row == pytest.approx(rows[0], rel=1e-9)
        assert row["selected_fraction"] * row["tokens"] == pytest.approx(selected)


RATES = (0.25, 0.0, 0.5, 1.0, 0.875, 0.125, 0.0, 0.75)
FILTER = {"alpha": 0.0, "beta": 0.0, "within": (0.2, 0.8)}


def paced(**settings: Any) -> WeightedObjective:
    weight = TOKEN_WEIGHTS.choose("pass_rate", **settings)
    return WeightedObjective([Term.of("reverse_kl", token_weights=[weight])], reduction="sequence")


def rated(rates: Sequence[float], micro_batches: int) -> ListedBatches:
    """The eight examples with a pass rate each, as often as there are eight rates."""
    told = [
        dataclasses.replace(EIGHT[number % 8], extras={"pass_rate": rate})
        for number, rate in enumerate(rates)
    ]
    size = len(EIGHT) // micro_batches
    return ListedBatches([told[i : i + size] for i in range(0, len(told), size)])


@pytest.mark.parametrize(
    ("settings", "kernels"),
    [
        ({}, [p * (1 - p) for p in RATES]),
        ({"alpha": 2.0, "beta": 0.5}, [p**2 * math.sqrt(1 - p) for p in RATES]),
        (FILTER, [0.2 < p < 0.8 for p in RATES]),
    ],
)
def test_any_split_of_an_update_weighs_its_examples_by_pass_rates_of_mean_one(
    settings: dict[str, Any], kernels: list[float], tmp_path: Path
) -> None:
    """By torch's own SGD of the weighted mean of sentences, each alone and unpadded."""
    model, teacher = (student(seed=seed, dtype=torch.float64) for seed in (0, 3))
    losses = []
    for example in EIGHT:
        batch = collator("seq2seq")([example])
        states, other = model.states(batch), teacher.states(batch)
        own = states.head.logits(states.hidden)[0].log_softmax(-1)
        wanted = other.head.logits(other.hidden)[0].log_softmax(-1).detach()
        losses.append((own.exp() * (own - wanted)).sum(-1).mean())
    each = [kernel * loss for kernel, loss in zip(kernels, losses, strict=True)]
    expected = torch.stack(each).sum() / sum(kernels)
    torch.autograd.backward(expected)
    torch.optim.SGD(model.parameters(), lr=learning_rate(SETTINGS, 1)).step()
    for micro_batches in (1, 2, 8):
        trained, metrics = student(dtype=torch.float64), Recorder()
        make_loop(
            tmp_path / str(micro_batches),
            trained,
            source=rated(RATES, micro_batches),
            objective=paced(**settings),
            teacher=InProcessTeacher(student(seed=3, dtype=torch.float64), vocab_size=40),
            metrics=metrics,
            optimizer="sgd",
            weight_decay=0.0,
            steps=1,
            gradient_accumulation_steps=micro_batches,
        ).run(resume=False)
        for name, parameter in trained.named_parameters():
            torch.testing.assert_close(parameter, model.get_parameter(name), rtol=0.0, atol=1e-9)
        (row,) = metrics.rows
        assert row["loss_nats"] == pytest.approx(float(expected.detach()), rel=1e-6)
        assert "skipped_updates" not in row


def test_updates_in_which_nothing_has_a_weight_are_skipped_and_counted(tmp_path: Path) -> None:
    """With the momentum and decay of AdamW, a step would move; after a resumption, too."""
    rates = [*RATES, *[0.0, 1.0] * 4, *[1.0] * 8, *RATES]
    ends = {}
    for name, steps in (("whole", (4,)), ("resumed", (3, 4))):
        metrics = Recorder()
        for until in steps:
            model = student(dtype=torch.float64, seed=7 * (until - steps[0]))
            seen: list[dict[str, torch.Tensor]] = []
            loop = make_loop(
                tmp_path / name,
                model,
                source=rated(rates, 2),
                objective=paced(),
                teacher=InProcessTeacher(student(seed=3, dtype=torch.float64), vocab_size=40),
                metrics=metrics,
                steps=4,
                schedule="constant",
                weight_decay=0.5,
                checkpoint_every=1,
                gradient_accumulation_steps=2,
            )
            step = loop._step

            def stepped(step: Any = step, model: Any = model, seen: list[Any] = seen) -> None:
                step()
                seen.append(weights(model))

            loop._step = stepped  # type: ignore[method-assign]
            result = loop.run(resume=until != steps[0], until=until)
        assert (result.updates, result.skipped_updates) == (4, 2)
        assert [row.get("skipped_updates") for row in metrics.rows] == [None, 1, 2, 2]
        assert [row["loss_nats"] is None for row in metrics.rows] == [False, True, True, False]
        assert [row["gradient_norm"] is None for row in metrics.rows] == [False, True, True, False]
        if name == "whole":
            assert same(seen[0], seen[1]) and same(seen[0], seen[2]) and not same(*seen[2:])
        ends[name] = weights(model)
    assert same(ends["whole"], ends["resumed"])


def poisoned(at: int, *, gradient: bool) -> PlainObjective:
    """The plain objective until a micro-batch, whose total or gradient is then not finite."""
    calls = itertools.count(1)

    def then(
        states: StudentStates, _: StudentStates | None, batch: SequenceBatch, loss: TokenSum
    ) -> tuple[TokenSum, dict[str, TokenSum]]:
        if next(calls) != at:
            return loss, {"nll": loss, "other": loss}
        if gradient:  # sqrt(0) is finite, and its derivative is not
            zero = torch.sqrt((states.hidden - states.hidden.detach()).sum().abs())
            return TokenSum(loss.total + zero, loss.count), {"nll": loss}
        nan = TokenSum(loss.total * float("nan"), loss.count)
        return nan, {"good": loss.detached(), "bad": nan.detached()}

    return PlainObjective(then=then)


@pytest.mark.parametrize(
    ("gradient", "words"),
    [
        (False, ("update 2", "the term bad is nan", "e6, e7", "first of 2")),
        (True, ("at update 2 its norm is",)),
    ],
)
def test_what_is_not_finite_stops_before_the_optimizer_moves(
    gradient: bool, words: tuple[str, ...], tmp_path: Path
) -> None:
    expected = student()
    source = ListedBatches([EIGHT[:2], EIGHT[2:4]])
    first = make_loop(
        tmp_path / "one", expected, source=source, gradient_accumulation_steps=2, steps=1
    )
    first.run(resume=False)
    model, metrics = student(), Recorder()
    loop = make_loop(
        tmp_path / "run",
        model,
        source=ListedBatches([EIGHT[:2], EIGHT[2:4], EIGHT[4:6], EIGHT[6:]]),
        objective=poisoned(4, gradient=gradient),
        metrics=metrics,
        gradient_accumulation_steps=2,
    )
    with pytest.raises(NonFiniteLossError) as stopped:
        loop.run(resume=False)
    assert all(named in str(stopped.value) for named in words)
    assert same(weights(model), weights(expected))
    assert [row["step"] for row in metrics.rows] == [1]


def test_an_update_of_nan_that_no_tokens_can_be_chosen_from_stops(tmp_path: Path) -> None:
    model = student()
    model.register_forward_hook(lambda _module, _inputs, hidden: hidden * float("nan"))
    before = weights(model)
    loop = make_loop(
        tmp_path,
        model,
        source=split(4),
        objective=selecting(0.5),
        teacher=InProcessTeacher(student(seed=3), vocab_size=40),
        steps=1,
    )
    words = "update 1 the term top_tokens is nan for the examples e0, e1"
    with pytest.raises(NonFiniteLossError, match=words):
        loop.run(resume=False)
    assert same(weights(model), before)


def test_an_update_of_sequences_too_short_for_a_top_token_is_skipped(tmp_path: Path) -> None:
    model = student()
    before = weights(model)
    loop = make_loop(
        tmp_path,
        model,
        source=split(4),
        objective=selecting(0.01),
        teacher=InProcessTeacher(student(seed=3), vocab_size=40),
        steps=1,
    )
    assert loop.run(resume=False).skipped_updates == 1
    assert same(weights(model), before)


def test_bf16_computes_in_bf16_and_keeps_fp32_weights(tmp_path: Path) -> None:
    seen = set()

    def then(
        states: StudentStates, _: StudentStates | None, batch: SequenceBatch, loss: TokenSum
    ) -> tuple[TokenSum, dict[str, TokenSum]]:
        seen.add((states.hidden @ states.head.weight.T).dtype)
        return loss, {"of_nobody": TokenSum.zero()}

    model, metrics, objective = student(), Recorder(), PlainObjective(then=then)
    make_loop(tmp_path, model, objective=objective, metrics=metrics, steps=1, precision="bf16").run(
        resume=False
    )
    assert seen == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    (row,) = metrics.rows
    assert row["of_nobody"] is None, "the mean of nothing is no number"


@pytest.mark.parametrize(
    ("precision", "dropout", "needed"),
    [("fp32", 0.3, True), ("bf16", 0.3, True), ("fp32", 0.0, True), ("fp32", 0.3, False)],
)
def test_an_objective_that_reads_eval_states_gets_them_with_dropout_off(
    tmp_path: Path, precision: Precision, dropout: float, needed: bool
) -> None:
    model, calls = student(dropout=dropout), []

    def then(
        states: StudentStates, own: StudentStates | None, batch: SequenceBatch, loss: TokenSum
    ) -> tuple[TokenSum, dict[str, TokenSum]]:
        assert model.training, "the loss is taken in training mode, whatever was asked before"
        with torch.random.fork_rng(), torch.no_grad():
            model.eval()
            expected = model.states(batch).hidden
            model.train()
        calls.append(own)
        if own is not None:
            assert not own.hidden.requires_grad and torch.equal(own.hidden, expected)
            assert not torch.allclose(states.hidden, expected, atol=1e-3), "dropout must matter"
        return loss, {"nll": loss}

    objective = PlainObjective(then=then)
    objective.needs_eval_states = needed
    make_loop(tmp_path, model, objective=objective, steps=2, precision=precision).run(resume=False)
    assert [own is not None for own in calls] == [needed and dropout > 0.0] * 2


def test_the_note_on_screen_is_the_mean_of_the_last_updates_and_of_their_rewards() -> None:
    def seen(loss: float, **source: float) -> StepStats:
        two = torch.tensor(2.0)
        means = {name: TokenSum(2.0 * torch.tensor(mean), two) for name, mean in source.items()}
        nothing = TokenSum.zero()
        return StepStats(TokenSum(torch.tensor(2.0 * loss), two), {}, means, two, nothing)

    note = Note()
    note.add(seen(4.0, finished=1.0))
    assert note.text == "loss 4.000"
    note.add(seen(2.0))
    assert note.text == f"loss {(0.95 * 4 + 2) / 1.95:.3f}"
    for _ in range(200):
        note.add(seen(1.0, reward=0.25))
    assert note.text == "loss 1.000, reward 0.250"


def test_speed_is_of_what_this_process_trained_since_the_row_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop's clock moves on by a quarter of a second whenever it is read."""
    ticks = itertools.count()
    clock = types.SimpleNamespace(perf_counter=lambda: next(ticks) / 4)
    monkeypatch.setattr("seqdistill.training.loop.time", clock)
    every, metrics = Recorder(), Recorder(stop_at=6)
    make_loop(tmp_path / "whole", student(), metrics=every, steps=8).run(resume=False)
    rarely: dict[str, Any] = {"steps": 8, "log_every": 3, "checkpoint_every": 4}

    def train(*, resume: bool) -> None:
        make_loop(tmp_path / "part", student(), metrics=metrics, **rarely).run(resume=resume)

    with pytest.raises(KeyboardInterrupt):
        train(resume=False)
    metrics.stop_at = None
    train(resume=True)
    tokens = [row["tokens"] for row in every.rows]
    assert [(row["step"], row["tokens_per_second"]) for row in metrics.rows] == [
        (3, tokens[2] / 0.75),
        (6, (tokens[5] - tokens[3]) / 0.5),
        (8, (tokens[7] - tokens[5]) / 0.5),
    ]
