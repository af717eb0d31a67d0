"""Every member of the families of objectives passes the suite that users run on theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from seqdistill.core.errors import RecipeError
from seqdistill.core.families import DIVERGENCES, FEATURES, TOKEN_WEIGHTS, Divergence, FeatureMatch
from seqdistill.core.terms import Term
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.testing import check_divergence, check_feature_match, check_token_weight
from seqdistill.testing.world import world

DIVERGENCE_CASES: dict[str, list[dict[str, Any]]] = {
    "jensen_shannon": [
        {"beta": 0.1},
        {"beta": 0.5, "scale": "gradient"},
        {"beta": 0.9, "scale": "gradient"},
        {"beta": 0},
        {"beta": 1},
    ],
    "adaptive_jensen_shannon": [{}, {"within": (0.1, 0.3)}],
    "skew_forward_kl": [{"alpha": 0.1}, {"alpha": 0.6}],
    "skew_reverse_kl": [{"alpha": 0.1}, {"alpha": 0.6}],
    "adaptive_kl": [{"head_mass": 0.5}, {"head_mass": 0.9}],
    "chunk_likelihood": [
        {},
        {"of": "reverse_kl"},
        {"of": "total_variation", "chunk_temperature": 2.0},
        {"chunk_temperature": 1.0},
    ],
    "interpolated_forward_kl": [{"start_fraction": 0.4}, {"start_fraction": 1.0}],
}
NOT_ZERO = ("cross_entropy", "teacher_mode_likelihood")
HOLDING = ("adaptive_kl", "interpolated_forward_kl")
WEIGHT_CASES: dict[str, list[dict[str, Any]]] = {
    "origin": [{"origins": ("student",)}, {"origins": ("teacher", "reference")}],
    "top_tokens": [
        {"by": by, "fraction": fraction}
        for by in ("soft_or", "entropy", "divergence", "third_quadrant")
        for fraction in (0.3, 1.0)
    ],
    "pass_rate": [
        {"extras": {"solved": [0.0, 0.25, 0.75, 1.0]}, "column": "solved"},
        {"extras": {"pass_rate": [0.1, 0.5, 0.8, 1.0]}, "alpha": 0, "beta": 2.5},
        {
            "extras": {"pass_rate": [0.2, 0.5, 0.7, 0.8]},
            "alpha": 0,
            "beta": 0,
            "within": (0.2, 0.8),
        },
        {"extras": {"pass_rate": [0.0, 1.0, 1.0, 0.0]}},
    ],
    "sequence_reverse_kl": [{}, {"estimator": "released", "clip": 0.2, "discount": 0.9}],
}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [(name, case) for name in DIVERGENCES for case in DIVERGENCE_CASES.get(name, [{}])],
)
def test_every_divergence(name: str, parameters: dict[str, Any]) -> None:
    check_divergence(
        name, zero_when_equal=name not in NOT_ZERO, holds_constant=name in HOLDING, **parameters
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [(name, case) for name in TOKEN_WEIGHTS for case in WEIGHT_CASES.get(name, [{}])],
)
def test_every_token_weight(name: str, parameters: dict[str, Any]) -> None:
    of_update = TOKEN_WEIGHTS[name].measure is not None
    check_token_weight(name, by_sequence=not of_update, **parameters)


@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_match(name: str) -> None:
    parameters = {"relation_heads": 3} if name == "attention_relations" else {}
    check_feature_match(name, **parameters)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda own, other: (own.hidden - other.hidden).abs(), "a value for every token"),
        (lambda own, other: (own.hidden - other.hidden).mean(-1), "never below 0"),
        (lambda own, other: own.hidden.square().mean((0, 2)).expand(3, -1), "under padding is not"),
        (lambda own, other: own.hidden.detach().square().sum(-1) * own.hidden[..., 0] ** 2, "diff"),
    ],
)
def test_a_match_that_is_none_is_noticed(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Tensor], told: str
) -> None:
    wrong = FeatureMatch("wrong", function, projects=True)
    monkeypatch.setitem(FEATURES._members, "wrong", wrong)
    with pytest.raises(AssertionError, match=told):
        check_feature_match("wrong")


def test_a_gradient_that_is_not_its_values_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = DIVERGENCES["forward_kl"].function
    half = Divergence("half", lambda q, p: (plain(q, p) + plain(q.detach(), p)) / 2)
    monkeypatch.setitem(DIVERGENCES._members, "half", half)
    with pytest.raises(AssertionError, match="finite differences"):
        check_divergence("half")


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda q, p: (p - q).exp(), "must give one value for every position"),
        (lambda q, p: (p - q.detach()).sum(-1), "must depend on the student"),
        (lambda q, p: (p - q).sum(-1).long(), "must depend on the student"),
    ],
    ids=["a value a symbol", "detached", "whole numbers"],
)
def test_a_divergence_that_nothing_can_be_learned_from_is_refused(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Tensor], told: str
) -> None:
    monkeypatch.setitem(DIVERGENCES._members, "wrong", Divergence("wrong", function))
    here = world()
    objective = WeightedObjective([Term.of("wrong")], reduction="token")
    with pytest.raises(RecipeError, match=f"the divergence wrong {told}"):
        objective(here.states, here.scores, here.batch)
