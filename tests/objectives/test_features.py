"""Every feature match against loops over tokens in fp64; what their terms weigh and refuse."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.features import ORACLES, PARAMETERS
from tests.objectives.worlds import world
from torch import Tensor

from seqdistill.core.errors import RecipeError
from seqdistill.core.families import FEATURES, FeatureMatch, Stack
from seqdistill.core.features import Features, Layer, LayerFeatures
from seqdistill.core.schedules import Schedule
from seqdistill.core.scores import DenseScores
from seqdistill.core.terms import FeatureTerm, Reduction, Term, feature_findings, layer_pairs
from seqdistill.objectives.features import FeatureLoss
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.testing.features import layer_features

LENGTHS = (5, 1, 3)


def features(
    name: str, *, stack: Stack = "decoder", seed: int = 0, size: int = 12
) -> LayerFeatures:
    return layer_features(FEATURES[name], stack=stack, size=size, seed=seed)


def unpadded(given: LayerFeatures, row: int) -> list[Tensor]:
    length = LENGTHS[row]
    return [
        tensor[row, :, :length, :length] if name == "attention" else tensor[row, :length]
        for name, tensor in given.tensors.items()
    ]


def test_every_member_has_an_oracle() -> None:
    assert set(ORACLES) == set(FEATURES)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
@pytest.mark.parametrize("name", FEATURES)
def test_a_match_is_its_formula_token_by_token_whatever_is_padded(name: str, stack: Stack) -> None:
    size = 12 if FEATURES[name].projects else 24  # a matrix has made the widths equal
    student = features(name, stack=stack, seed=0)
    teacher = features(name, stack=stack, seed=1, size=size)
    parameters = PARAMETERS.get(name, {})
    values = FEATURES[name].function(student, teacher, **parameters)
    expected = []
    for row, length in enumerate(LENGTHS):
        given = (unpadded(student, row), unpadded(teacher, row))
        expected += [ORACLES[name](*given, t, stack == "decoder") for t in range(length)]
    found = values[student.mask]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-12)
    factors = torch.randn(len(found), dtype=torch.float64, generator=torch.Generator())
    inputs = list(student.tensors.values())
    torch.testing.assert_close(
        torch.autograd.grad((found * factors).sum(), inputs, retain_graph=True),
        torch.autograd.grad((torch.stack(expected) * factors).sum(), inputs),
        rtol=1e-9,
        atol=1e-11,
    )
    itself = FEATURES[name].function(student, student, **parameters)[student.mask]
    torch.testing.assert_close(itself, torch.zeros_like(itself), rtol=0.0, atol=1e-12)


def loss_of(term: FeatureTerm, student: Features, teacher: Features, seed: int = 0) -> FeatureLoss:
    pairs = list(zip(student, teacher, strict=True))
    return FeatureLoss(term, pairs, student, teacher, seed=seed)


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
def test_a_term_is_the_mean_over_pairs_of_what_counts(reduction: Reduction) -> None:
    """In the encoder a sequence's mean over its source counts as its targets do."""
    here = world((3, 0, 2))
    term = FeatureTerm.of("hidden_mse", weight=Schedule(0.5, 2.0))
    decoders = [features("hidden_mse", seed=seed) for seed in (0, 1)]
    encoders = [features("hidden_mse", stack="encoder", seed=seed, size=7) for seed in (2, 3)]
    mask = here.batch.target_mask
    decoders = [
        dataclasses.replace(
            each,
            tensors={"hidden": each.hidden[:, : mask.shape[1]]},
            mask=each.mask[:, : mask.shape[1]] | mask,
        )
        for each in decoders
    ]
    layers: tuple[Layer, ...] = (("decoder", 1), ("encoder", 2))
    student: Features = dict(zip(layers, (decoders[0], encoders[0]), strict=True))
    teacher: Features = dict(zip(layers, (decoders[1], encoders[1]), strict=True))
    objective = WeightedObjective(
        [Term.of("forward_kl")],
        reduction=reduction,
        features=[loss_of(term, student, teacher)],
    )
    assert objective.needs_teacher and not list(objective.features.parameters())
    assert objective.student_layers == dict.fromkeys(student, frozenset({"hidden"}))
    objective.begin_update(3, 3, logged=True)
    assert isinstance(here.scores, DenseScores)
    total, parts = objective(
        dataclasses.replace(here.states, features=student),
        dataclasses.replace(here.scores, features=teacher),
        here.batch,
    )
    distance = [(a.hidden - b.hidden).square().mean(-1) for a, b in (decoders, encoders)]
    sums, count = [], 0.0
    for row in (0, 2):
        targets = distance[0][row][mask[row]]
        source = distance[1][row][: LENGTHS[row]].mean()
        weight = 1.0 / len(targets) if reduction == "sequence" else 1.0
        sums.append(weight * (targets.sum() + len(targets) * source) / 2)
        count += len(targets) if reduction == "token" else 1.0
    expected = float(torch.stack(sums).sum().detach()) / count
    assert parts["hidden_mse"].mean == pytest.approx(expected, rel=1e-12)
    assert total.detached().mean == pytest.approx(
        parts["forward_kl"].mean + 2.0 * expected, rel=1e-6
    )


def test_matrices_are_trained_where_widths_differ_and_where_asked_for() -> None:
    narrow, wide, other = (
        features("hidden_mse", seed=n, size=s) for n, s in ((0, 4), (1, 6), (2, 6))
    )
    student: Features = {("decoder", 1): narrow, ("decoder", 2): wide}
    teacher: Features = {("decoder", 1): other, ("decoder", 3): other}
    for asked, trained in ((False, ["0"]), (True, ["0", "1"])):
        term = FeatureTerm.of("hidden_mse", project=asked)
        assert list(loss_of(term, student, teacher).projections) == trained
    state = torch.get_rng_state()
    same, twin, unlike = (loss_of(term, student, teacher, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    matrices = [one.projections["0"].get_parameter("weight") for one in (same, twin, unlike)]
    assert torch.equal(matrices[0], matrices[1]) and not torch.equal(matrices[0], matrices[2])
    assert matrices[0].shape == (6, 4)
    weights = torch.ones(3, 6, dtype=torch.float64) * narrow.mask
    value = same({("decoder", 1): narrow, ("decoder", 2): wide}, teacher, weights, {})
    expected = torch.zeros((), dtype=torch.float64)
    for number, each in enumerate((narrow, wide)):
        matrix = same.projections[str(number)].get_parameter("weight")
        for row, length in enumerate(LENGTHS):
            for token in range(length):
                mapped = matrix @ each.hidden[row, token]
                expected = expected + (mapped - other.hidden[row, token]).square().mean() / 2
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(value, [*same.parameters(), narrow.hidden], retain_graph=True),
        torch.autograd.grad(expected, [*same.parameters(), narrow.hidden]),
    )


def test_what_cannot_be_compared_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one: Features = {("decoder", 1): features("hidden_mse")}
    term, weights = FeatureTerm.of("hidden_mse"), torch.ones(3, 6, dtype=torch.float64)
    with pytest.raises(
        RecipeError, match=r"layer 1 of the teacher's decoder .* got scores without"
    ):
        loss_of(term, one, one)(one, {}, weights, {})
    longer = dataclasses.replace(one["decoder", 1], mask=torch.ones(3, 7, dtype=torch.bool))
    with pytest.raises(RecipeError, match=r"got \(3, 6\) of the student and \(3, 7\)"):
        loss_of(term, one, one)(one, {("decoder", 1): longer}, weights, {})
    wrong = FeatureMatch("hidden_mse", lambda student, teacher: student.hidden.mean())
    monkeypatch.setitem(FEATURES._members, "hidden_mse", wrong)
    with pytest.raises(RecipeError, match=r"\(batch, time\) = \(3, 6\), got Tensor"):
        loss_of(FeatureTerm.of("hidden_mse"), one, one)(one, one, weights, {})


def test_relation_heads_that_do_not_divide_are_refused() -> None:
    one: Features = {("decoder", 1): features("attention_relations")}
    given = FeatureTerm.of("attention_relations", relation_heads=5)
    with pytest.raises(RecipeError, match=r"must divide the width .* got 5 and queries of 12"):
        loss_of(given, one, one)(one, one, torch.ones(3, 6), given.match.arguments())


@pytest.mark.parametrize(
    ("layers", "student", "teacher", "pairs"),
    [
        ("uniform", 4, 12, ((1, 3), (2, 6), (3, 9), (4, 12))),  # TinyBERT's g(m) = 3m
        ("uniform", 2, 3, ((1, 2), (2, 3))),
        ("uniform", 3, 1, ((1, 1), (2, 1), (3, 1))),
        ("uniform", 4, 4, ((1, 1), (2, 2), (3, 3), (4, 4))),
        ("last", 2, 6, ((2, 6),)),
        (((2, 5), (1, 1)), 2, 6, ((2, 5), (1, 1))),
    ],
)
def test_layer_maps(layers: Any, student: int, teacher: int, pairs: Any) -> None:
    assert layer_pairs(layers, student, teacher) == pairs


def test_factors_that_cannot_be_are_found() -> None:
    given = [FeatureTerm.of("hidden_mse", weight=weight) for weight in (1.0, 0.0, -1.0)]
    given.append(FeatureTerm.of("attention_transfer", project=True))
    found = [key for key, _ in feature_findings(given)]
    assert found == ["features.1.weight", "features.2.weight", "features.3.project"]
