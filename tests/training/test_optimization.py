"""Learning rates by update, and what decays."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from seqdistill.training.optimization import RateSchedule, Schedule, make_optimizer

SHAPES: tuple[Schedule, ...] = ("inverse_sqrt", "linear", "cosine", "constant")


def rates(schedule: RateSchedule) -> list[float]:
    return [schedule.rate(update) for update in range(1, schedule.updates + 1)]


@pytest.mark.parametrize("warmup", [0, 1, 10, 50])
@pytest.mark.parametrize("shape", SHAPES)
def test_rates_rise_in_a_line_to_the_peak_and_never_rise_again(
    shape: Schedule, warmup: int
) -> None:
    found = rates(RateSchedule(0.4, 50, warmup, shape, final_share=0.1))
    assert found[:warmup] == pytest.approx([0.4 * (u + 1) / warmup for u in range(warmup)])
    after = found[max(warmup - 1, 0) :]
    assert all(later <= earlier for earlier, later in itertools.pairwise(after))
    assert all(0.0 < rate <= 0.4 for rate in found)
    if warmup:
        assert found[warmup - 1] == 0.4


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_linear_and_cosine_end_at_their_share_of_the_peak(shape: Schedule, share: float) -> None:
    schedule = RateSchedule(0.4, 50, 10, shape, final_share=share)
    assert schedule.rate(50) == pytest.approx(0.4 * share, abs=1e-12)
    assert schedule.rate(30) == pytest.approx(0.4 * (1 + share) / 2), "halfway is half the way"


def test_cosine_is_above_the_line_at_first_and_below_it_at_last() -> None:
    line, cosine = (RateSchedule(1.0, 100, 0, shape) for shape in ("linear", "cosine"))
    assert cosine.rate(25) > line.rate(25)
    assert cosine.rate(75) < line.rate(75)


def test_inverse_sqrt_halves_at_four_times_the_warm_up() -> None:
    schedule = RateSchedule(0.4, 1000, 20, "inverse_sqrt")
    assert schedule.rate(80) == pytest.approx(0.2)
    assert RateSchedule(0.4, 10, 0, "inverse_sqrt").rate(4) == pytest.approx(0.2)


def test_constant_stays_at_the_peak() -> None:
    assert set(rates(RateSchedule(0.4, 20, 5, "constant"))[4:]) == {0.4}


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    model.register_parameter("frozen", frozen)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    optimizer = make_optimizer(model, beta1=0.9, beta2=0.98, weight_decay=0.1)
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    optimizer.step()
    for name, parameter in model.named_parameters():
        # Without a gradient AdamW only multiplies by 1 - rate * decay.
        decays = parameter.ndim == 2 and name != "frozen"
        torch.testing.assert_close(
            parameter.data, torch.full_like(parameter, 0.95 if decays else 1)
        )


def test_a_model_without_vectors_has_an_optimizer_too() -> None:
    optimizer = make_optimizer(nn.Linear(2, 2, bias=False), beta1=0.9, beta2=0.98, weight_decay=0.0)
    assert len(optimizer.param_groups) == 1
