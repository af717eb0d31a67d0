"""What every token weight must satisfy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqdistill.core.families import TOKEN_WEIGHTS, TokenWeight
from seqdistill.core.registry import Chosen
from seqdistill.core.terms import Reduction, Term
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.objectives.observation import Observation
from seqdistill.objectives.reduction import reduction_count, reduction_weights
from seqdistill.testing.world import World, rollouts

_READ = (
    "student_log_probs",
    "teacher_log_probs",
    "student_entropy",
    "values",
    "sampled_log_probs",
    "advantages",
)


def check_token_weight(
    name: str,
    *,
    by_sequence: bool = True,
    extras: dict[str, list[float]] | None = None,
    **parameters: Any,
) -> None:
    """Runs the suite of the family on the registered token weight with these parameters.

    The batch has four sequences; `extras` gives numeric columns with a number for each. Say so
    where the weight of a token depends on other sequences of the batch.

    Raises AssertionError for the first property that does not hold.
    """
    chosen = TOKEN_WEIGHTS.choose(name, **parameters)
    here = rollouts()
    if extras:
        here = here.told(extras={k: torch.tensor(v).double() for k, v in extras.items()})
    mask = here.batch.target_mask
    weights, read = _weights(chosen, here)
    assert weights.shape == mask.shape, f"(batch, time) = {tuple(mask.shape)}, not {weights.shape}"
    assert not weights.requires_grad, "a weight has no gradient"
    assert weights[mask].isfinite().all(), "finite at every position that counts"
    assert read <= set(chosen.member.reads), (
        f"it must be registered with reads={tuple(sorted(read))}, so that these are there"
    )
    poisoned, _ = _weights(chosen, here.poisoned(~mask))
    assert torch.equal(poisoned[mask], weights[mask]), "padding is never read"
    if by_sequence:
        for rows in (slice(0, 1), slice(1, 4)):
            alone, _ = _weights(chosen, here.rows(rows))
            torch.testing.assert_close(
                alone[mask[rows]],
                weights[rows][mask[rows]],
                msg="it does not depend on other sequences of the batch",
            )
    if not chosen.member.on_policy:
        _check_objective(chosen, here, weights)


class _Recorder(Observation):
    """Notes which attributes are looked at."""

    def __init__(self, here: World) -> None:
        super().__init__(here.states, here.scores, here.batch)
        self.read: set[str] = set()
        self.depth = 0

    def __getattribute__(self, name: str) -> Any:
        if name not in _READ or self.depth:
            return super().__getattribute__(name)
        self.read.add(name)
        self.depth += 1  # what an attribute looks at itself is its own business
        try:
            return super().__getattribute__(name)
        finally:
            self.depth -= 1


def _weights(chosen: Chosen[TokenWeight], here: World) -> tuple[Tensor, set[str]]:
    seen = _Recorder(here)
    return seen.weights(chosen), seen.read


def _check_objective(chosen: Chosen[TokenWeight], here: World, weights: Tensor) -> None:
    """A term with it is the sum of weight x value over the positions, by the rule of the count."""
    mask, member = here.batch.target_mask, chosen.member
    kept = mask & (weights != 0.0)
    student, teacher = here.log_probs()
    values = (student.exp() * (student - teacher)).sum(-1).detach()
    term = Term.of("reverse_kl", token_weights=[chosen])
    bad = here.poisoned(~kept) if member.selects and not member.reads else here
    reductions: tuple[Reduction, ...] = ("token", "sequence", "sum")
    for reduction in reductions:
        objective = WeightedObjective([term], reduction=reduction)
        total, _ = objective(bad.states, bad.scores, bad.batch)
        counted = kept if member.leaves_count else mask
        count = reduction_count(counted, reduction)
        shares = reduction_weights(counted, reduction, torch.float64)
        expected = (shares * torch.where(kept, weights * values, 0.0)).sum()
        assert total.count == count, (
            f"the count of {reduction} must leave out what has no weight if and only if the weight "
            "is registered with leaves_count=True"
        )
        torch.testing.assert_close(
            total.total.detach().double(),
            expected,
            rtol=1e-5,
            atol=1e-7,
            msg=f"a term with it is the sum of weight x value ({reduction})",
        )
