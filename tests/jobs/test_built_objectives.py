"""Every setting of a recipe's objective reaches what is computed: its value and its gradient.

The built objective is compared with the naive formulas, once with the setting and once without.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from tests.jobs import naive
from tests.objectives.worlds import PARAMETERS
from torch import Tensor

from seqdistill.assembly.preparing import build_objective
from seqdistill.core.families import DIVERGENCES, TOKEN_WEIGHTS
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.objectives.overlap import TOP_K
from seqdistill.recipe.objective_schema import ObjectiveSection
from seqdistill.recipe.resolving import read_recipe
from seqdistill.testing.world import World, rollouts

UPDATE, UPDATES = 3, 5
"""Half of the way is done."""

Settings = Mapping[str, Any]


def logits_of(here: World) -> tuple[Tensor, Tensor]:
    """Both models' logits, built whole."""
    student, teacher = here.states, here.scores
    assert student.head.bias is not None
    return (
        student.hidden @ student.head.weight.T + student.head.bias,
        teacher.hidden @ teacher.head.weight.T,
    )


def here_and_now() -> World:
    """A batch that says all that one may say."""
    columns = {"pass_rate": [0.25, 0.5, 1.0, 0.75], "solved": [0.5, 0.0, 0.25, 0.125]}
    return rollouts().told(extras={name: torch.tensor(of) for name, of in columns.items()})


def scored(here: World) -> list[naive.Scored]:
    told, (student, teacher) = here.batch, logits_of(here)
    assert told.origins and told.sampled_log_probs is not None and told.advantages is not None
    found = []
    for row, length in enumerate(told.target_mask.sum(dim=1).tolist()):
        found.append(
            naive.Scored(
                told.target_ids[row, :length].tolist(),
                student[row, :length],
                teacher[row, :length],
                told.origins[row],
                told.sampled_log_probs[row, :length].tolist(),
                float(told.advantages[row]),
                {name: float(column[row]) for name, column in told.extras.items()},
            )
        )
    return found


def built(objective: Settings) -> WeightedObjective:
    """The objective of a recipe with this section, in the middle of training."""
    given = [f"objective.{key}={json.dumps(value)}" for key, value in objective.items()]
    made = build_objective(read_recipe("baseline", given))
    made.begin_update(UPDATE, UPDATES, logged=True)
    return made


def value_and_gradient(value: Tensor, here: World) -> list[Tensor]:
    head = here.states.head
    assert head.bias is not None
    wanted = (here.states.hidden, head.weight, head.bias)
    gradient = torch.autograd.grad(value, wanted, allow_unused=True)
    return [value.detach(), *(torch.zeros(()) if part is None else part for part in gradient)]


def of_the_recipe(objective: Settings, here: World) -> list[Tensor]:
    total, _ = built(objective)(here.states, here.scores, here.batch)
    return value_and_gradient(total.total / total.count, here)


def of_the_formula(objective: Settings, here: World) -> list[Tensor]:
    return value_and_gradient(naive.loss(scored(here), **objective), here)


def close(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(
        torch.allclose(mine.double(), its.double(), rtol=1e-5, atol=1e-7)
        for mine, its in zip(one, other, strict=True)
    )


def of(name: str, *weights: object, **settings: Any) -> dict[str, Any]:
    """A term by its divergence, or by the token weight that makes a policy gradient of it."""
    if name in TOKEN_WEIGHTS:
        kept = {key: settings.pop(key) for key in list(settings) if key != "weight"}
        weights, name = ({"kind": name, **kept}, *weights), "negative_log_likelihood"
    given: dict[str, Any] = {"token_weights": list(weights)} if weights else {}
    return {"divergence": name, **given, **settings}


def only(*origins: str) -> dict[str, object]:
    return {"kind": "origin", "origins": list(origins)}


def objective_of(*terms: Settings, reduction: str = "sum", **settings: Any) -> dict[str, Any]:
    return {"terms": list(terms), "reduction": reduction, **settings}


@pytest.mark.parametrize("name", [*DIVERGENCES, *(n for n in TOKEN_WEIGHTS if n != "origin")])
def test_every_member_is_the_one_that_its_name_says(name: str) -> None:
    terms = of(name, **PARAMETERS.get(name, {}))
    if name in ("uniform", "importance", "top_tokens"):
        terms = of("reverse_kl", name)
    here, objective = here_and_now(), objective_of(terms)
    assert close(of_the_recipe(objective, here), of_the_formula(objective, here))


def top(**settings: object) -> dict[str, object]:
    return {"kind": "top_tokens", **settings}


LINEAR = {"start": 1.0, "end": 0.2, "shape": "linear"}
EXPONENTIAL = {"start": 0.1, "end": 0.4, "shape": "exponential"}
COMPLEMENT = {"start": 0.0, "end": 0.75, "shape": "complement_exponential"}
CHUNKS = "chunk_likelihood"
LONG_RANGE, SKEWED, MIXED = "sequence_reverse_kl", "skew_reverse_kl", "interpolated_forward_kl"
NLL, KL = of("negative_log_likelihood", weight=0.3), of("forward_kl", weight=0.7)
RELABELLED, REWARDED = of("teacher_mode_likelihood"), of("advantages")
# field, what a term says with it and without, and the same as numbers of this update.
OF_A_TERM: list[tuple[str, Settings, Settings, Settings]] = [
    ("weight", of("forward_kl", weight=0.3), of("forward_kl"), {}),
    ("weight", of("reverse_kl", weight=LINEAR), of("reverse_kl"), {"weight": 0.6}),
    ("weight", of("advantages", weight=EXPONENTIAL), REWARDED, {"weight": 0.2}),
    ("weight", {**NLL, "weight": COMPLEMENT}, of("negative_log_likelihood"), {"weight": 0.5}),
    ("beta", of("jensen_shannon", beta=0.2), of("jensen_shannon", beta=0.5), {}),
    ("beta", of("jensen_shannon", beta=0.0), of("jensen_shannon", beta=1.0), {}),
    ("alpha", of("skew_forward_kl", alpha=0.3), of("skew_forward_kl", alpha=0.1), {}),
    ("alpha", of(SKEWED, alpha=EXPONENTIAL), of(SKEWED, alpha=0.1), {"alpha": 0.2}),
    ("scale", of("jensen_shannon", beta=0.1, scale="gradient"), of("jensen_shannon", beta=0.1), {}),
    ("head_mass", of("adaptive_kl", head_mass=0.9), of("adaptive_kl"), {}),
    (
        *("within", of("adaptive_jensen_shannon", within=[0.1, 0.3])),
        *(of("adaptive_jensen_shannon"), {}),
    ),
    ("of", of(CHUNKS, of="reverse_kl"), of(CHUNKS), {}),
    ("chunk_temperature", of(CHUNKS, chunk_temperature=2.0), of(CHUNKS), {}),
    ("start_fraction", of(MIXED, start_fraction=0.1), of(MIXED), {}),
    ("token_weights", of("reverse_kl", "importance"), of("reverse_kl"), {}),
    (
        *("token_weights", of("forward_kl", only("student"), "importance")),
        *(of("forward_kl", only("student")), {}),
    ),
    ("length_normalized", of(LONG_RANGE, length_normalized=False), of(LONG_RANGE), {}),
    ("estimator", of(LONG_RANGE, estimator="released"), of(LONG_RANGE), {}),
    ("discount", of(LONG_RANGE, discount=0.5), of(LONG_RANGE), {}),
    ("clip", of(LONG_RANGE, clip=0.2), of(LONG_RANGE), {}),
    ("by", of("reverse_kl", top(by="entropy")), of("reverse_kl", top()), {}),
    ("by", of("reverse_kl", top(by="divergence")), of("reverse_kl", top()), {}),
    ("by", of("reverse_kl", top(by="third_quadrant")), of("reverse_kl", top()), {}),
    ("fraction", of("reverse_kl", top(fraction=0.3)), of("reverse_kl", top()), {}),
    ("column", of("pass_rate", column="solved"), of("pass_rate"), {}),
    ("alpha", of("pass_rate", alpha=0.0), of("pass_rate"), {}),
    ("beta", of("pass_rate", beta=2.5), of("pass_rate"), {}),
    ("within", of("pass_rate", within=[0.25, 0.8]), of("pass_rate"), {}),
    ("origins", of("forward_kl", only("teacher")), of("forward_kl"), {}),
    ("origins", of("advantages", only("student", "reference")), REWARDED, {}),
    ("origins", of(LONG_RANGE, only("student")), of(LONG_RANGE), {}),
]
# field, the terms, and what the objective says with it and without.
OF_THE_OBJECTIVE: list[tuple[str, Sequence[Settings], Settings, Settings]] = [
    ("reduction", [KL], {"reduction": "token"}, {}),
    ("reduction", [KL], {"reduction": "sequence"}, {"reduction": "token"}),
    ("reduction", [KL, REWARDED], {"reduction": "sequence"}, {}),
    ("loss_temperature", [KL], {"loss_temperature": 2.0}, {}),
    ("loss_temperature", [NLL, KL], {"loss_temperature": 2.0}, {}),
    ("loss_temperature", [RELABELLED, KL], {"loss_temperature": 0.5}, {}),
    ("loss_temperature", [REWARDED, KL], {"loss_temperature": 2.0}, {}),
    ("loss_temperature", [of(MIXED)], {"loss_temperature": 2.0}, {}),
]
TWICE = objective_of(KL, KL, REWARDED)
CASES: list[tuple[str, Settings, Settings, Settings]] = [
    ("terms", objective_of(NLL, KL), objective_of(NLL), objective_of(NLL, KL)),
    ("terms", TWICE, objective_of(KL, REWARDED), TWICE),
]
for field, given, without, means in OF_A_TERM:
    both = (objective_of(given), objective_of(without))
    CASES.append((field, *both, objective_of({**given, **means})))
for field, terms, given, without in OF_THE_OBJECTIVE:
    whole = objective_of(*terms, **given)
    CASES.append((field, whole, objective_of(*terms, **without), whole))


@pytest.mark.parametrize(("field", "given", "without", "means"), CASES)
def test_a_setting_is_what_its_formula_says(
    field: str, given: Settings, without: Settings, means: Settings
) -> None:
    here = here_and_now()
    expected, plain = of_the_formula(means, here), of_the_formula(without, here)
    assert not close(expected, plain), f"{field} changes nothing here: no test of it"
    assert close(of_the_recipe(given, here), expected)
    assert close(of_the_recipe(without, here), plain)


def test_no_setting_is_without_a_test() -> None:
    families = (DIVERGENCES, TOKEN_WEIGHTS)
    own = {key for f in families for m in f.values() for key in m.parameters.__pydantic_fields__}
    adaptive = {"step", "momentum", "time_constant"}  # of updates to come: tests of what moves
    assert {field for field, *_ in OF_A_TERM} == {"weight", "token_weights", *own} - adaptive
    # The reward is part of what is written: tests of sources. Features have tests of their own.
    whole = {"reward", "monitors", "terms", "features"} | {field for field, *_ in OF_THE_OBJECTIVE}
    assert whole == set(ObjectiveSection.model_fields)


def test_monitors_are_measured_on_the_students_sequences_and_only_when_logged() -> None:
    here = rollouts()
    own = [one for one in scored(here) if one.origin == "student"]
    rows = torch.cat([one.student for one in own]).detach().log_softmax(dim=-1)
    teacher = torch.cat([one.teacher for one in own]).log_softmax(dim=-1)
    entropy = -(rows.exp() * rows).sum(dim=-1).mean()
    distance = (rows.exp() * (rows - teacher)).sum(dim=-1).mean()
    tops = [
        [set(row.argsort(descending=True)[:TOP_K].tolist()) for row in each]
        for each in (rows, teacher)
    ]
    shared = [sorted(own & its) for own, its in zip(*tops, strict=True)]
    masses = [
        torch.stack([row[ids].exp().sum() for row, ids in zip(each, shared, strict=True)]).mean()
        for each in (rows, teacher)
    ]
    for name, expected in (
        ("student_entropy", entropy),
        ("teacher_entropy", -(teacher.exp() * teacher).sum(dim=-1).mean()),
        ("teacher_reverse_kl", distance),
        ("student_topk_overlap", masses[0]),
        ("teacher_topk_overlap", masses[1]),
    ):
        objective = built(objective_of(KL, monitors=[name]))
        _, parts = objective(here.states, here.scores, here.batch)
        assert set(parts) == {"forward_kl", name}
        assert parts[name].mean == pytest.approx(float(expected), rel=1e-5)
        objective.begin_update(UPDATE, UPDATES, logged=False)
        assert set(objective(here.states, here.scores, here.batch)[1]) == {"forward_kl"}


@pytest.mark.parametrize(("step", "momentum"), [(5e-4, 0.99), (0.3, 0.5)])
@pytest.mark.parametrize("updates", [4, 10**6])
def test_a_moving_target_goes_from_start_share_to_the_teacher(
    updates: int, step: float, momentum: float
) -> None:
    """TAID's algorithm 1, with its authors' step and momentum and with others, told four losses."""
    here, name = rollouts(), "interpolated_forward_kl"
    objective = built(objective_of(of(name, start_fraction=0.1, step=step, momentum=momentum)))
    share, trend, before = 0.1, 0.0, None
    for update, nats in enumerate([3.0, 2.0, 40.0, 0.5], start=1):
        objective.begin_update(update, updates, logged=True)
        total, parts = objective(here.states, here.scores, here.batch)
        assert parts["interpolation_share"].mean == pytest.approx(share, rel=1e-12)
        expected = of_the_formula(objective_of(of(name, start_fraction=share)), here)
        assert close(value_and_gradient(total.total / total.count, here), expected)
        objective.end_update({name: TokenSum(torch.tensor(2 * nats), torch.tensor(2.0))})
        adaptive = share
        if before is not None:
            trend = momentum * trend + (1 - momentum) * (before - nats) / before
            adaptive += step / (1 + math.exp(-trend)) * (1 - share)
        linear = 0.1 + 0.9 * update / (updates - 1)
        share, before = min(1.0, max(linear, adaptive)), nats
