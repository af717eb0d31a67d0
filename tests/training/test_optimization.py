"""Learning rates by update, and what decays."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from torch import nn

from seqdistill.core.errors import UserError
from seqdistill.recipe.schema import TrainingSection
from seqdistill.training.optimization import check_optimizer, learning_rate, make_optimizer

SHAPES = get_args(TrainingSection.model_fields["schedule"].annotation)


def rates(steps: int, warmup: int, shape: str, final: float = 0.0) -> list[float]:
    settings = TrainingSection.model_validate(
        {
            "steps": steps,
            "learning_rate": 0.4,
            "warmup_steps": warmup,
            "schedule": shape,
            "final_rate_fraction": final,
        }
    )
    return [learning_rate(settings, update) for update in range(1, steps + 1)]


@pytest.mark.parametrize("warmup", [0, 1, 10, 50])
@pytest.mark.parametrize("shape", SHAPES)
def test_rates_rise_in_a_line_to_the_peak_and_never_rise_again(shape: str, warmup: int) -> None:
    found = rates(50, warmup, shape, 0.1)
    assert found[:warmup] == pytest.approx([0.4 * (u + 1) / warmup for u in range(warmup)])
    after = found[max(warmup - 1, 0) :]
    assert all(later <= earlier for earlier, later in itertools.pairwise(after))
    assert all(0.0 < rate <= 0.4 for rate in found)
    if warmup:
        assert found[warmup - 1] == 0.4


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_linear_and_cosine_end_at_their_share_of_the_peak(shape: str, share: float) -> None:
    found = rates(50, 10, shape, share)
    assert found[-1] == pytest.approx(0.4 * share, abs=1e-12)
    assert found[29] == pytest.approx(0.4 * (1 + share) / 2), "halfway is half the way"


def test_the_shapes_differ_as_their_names_say() -> None:
    line, cosine = rates(100, 0, "linear"), rates(100, 0, "cosine")
    assert cosine[24] > line[24] and cosine[74] < line[74]
    assert rates(1000, 20, "inverse_sqrt")[79] == pytest.approx(0.2), "4 times the warm-up: half"
    assert rates(10, 0, "inverse_sqrt")[3] == pytest.approx(0.2)
    assert set(rates(20, 5, "constant")[4:]) == {0.4}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_only_matrices_decay(optimizer: str) -> None:
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    model.register_parameter("frozen", frozen)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    settings = TrainingSection.model_validate({"weight_decay": 0.1, "optimizer": optimizer})
    made = make_optimizer(model, settings)
    for group in made.param_groups:
        group["lr"] = 0.5
    made.step()
    for name, parameter in model.named_parameters():
        # Without a gradient both only multiply by 1 - rate * decay.
        decays = parameter.ndim == 2 and name != "frozen"
        torch.testing.assert_close(
            parameter.data, torch.full_like(parameter, 0.95 if decays else 1)
        )


def test_sgd_follows_the_gradient_and_remembers_nothing() -> None:
    model = nn.Linear(2, 2, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.ones_like(before)
    optimizer = make_optimizer(model, TrainingSection(optimizer="sgd"))
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before - 0.5)
    assert not any(v is not None for slots in optimizer.state.values() for v in slots.values())


def test_the_8_bit_optimizer_asks_for_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"seqdistill\[8bit\]"):
        check_optimizer(TrainingSection(optimizer="adamw_8bit"))
