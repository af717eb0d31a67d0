"""The methods that are compared: a preset each, and what the grid changes in it.

    supervised_ft     the references' likelihood          seq_kd    that of the teacher's outputs
    supervised_kd     forward KL, lambda 0                on_policy_kd    forward KL, lambda 1
    imitkd            forward KL, lambda from 0 to 1      gkd       any divergence, any lambda
    gkd_rl            a reward and reverse KL, lambda 1

Knows no task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from experiments.harness.shapes import Settings

Divergence = Literal["forward_kl", "reverse_kl", "jsd_0.1", "jsd_0.5", "jsd_0.9"]
DIVERGENCES: tuple[Divergence, ...] = ("forward_kl", "jsd_0.1", "jsd_0.5", "jsd_0.9", "reverse_kl")
"""From the one that covers the teacher to the one that seeks its mode."""
SHARES = (0.0, 0.5, 1.0)
"""Lambda: the share of the batches that the student writes."""
BASELINES = ("supervised_ft", "seq_kd", "supervised_kd", "imitkd")
"""What on-policy distillation is held against."""
# The names that the paper gives to two points of the grid.
_NAMED: Mapping[tuple[Divergence, float], str] = {
    ("forward_kl", 0.0): "supervised_kd",
    ("forward_kl", 1.0): "on_policy_kd",
}
_PRESETS = {0.0: "supervised_kd", 1.0: "on_policy_kd"}


@dataclasses.dataclass(frozen=True)
class GridPoint:
    """A divergence and the share of the student."""

    divergence: Divergence
    student_fraction: float


FULL_GRID = tuple(GridPoint(divergence, share) for share in SHARES for divergence in DIVERGENCES)
KEY_GRID = (
    *(GridPoint("forward_kl", share) for share in SHARES),
    GridPoint("jsd_0.1", 1.0),
    GridPoint("jsd_0.9", 1.0),
    GridPoint("reverse_kl", 1.0),
)
"""Every share, and every other divergence that the paper found best somewhere."""


@dataclasses.dataclass(frozen=True)
class Method:
    """How a student is trained, but for rate, updates and seed."""

    name: str
    preset: str
    divergence: str
    student_fraction: float | None
    """None where it changes while training."""
    settings: Settings = dataclasses.field(default_factory=dict)
    """What is set over the preset."""

    @property
    def writes(self) -> bool:
        """Whether the student writes any of its sequences."""
        return self.student_fraction != 0.0

    @property
    def reads_teacher_corpus(self) -> bool:
        """Whether it learns from outputs that the teacher wrote beforehand."""
        return self.preset == "seq_kd"


def grid_name(point: GridPoint) -> str:
    """The paper's name of a point of the grid, or one such as `gkd-jsd_0.1-0.5`."""
    known = _NAMED.get((point.divergence, point.student_fraction))
    return known or f"gkd-{point.divergence}-{point.student_fraction:g}"


def grid_method(point: GridPoint) -> Method:
    """GKD with a divergence and lambda; at 0 and 1 the presets without a coin do the same."""
    settings: dict[str, object] = {"objective.terms": [_term(point.divergence)]}
    preset = _PRESETS.get(point.student_fraction, "gkd")
    if preset == "gkd":
        settings["sequences.mixture.student_fraction"] = point.student_fraction
    return Method(grid_name(point), preset, point.divergence, point.student_fraction, settings)


def _term(divergence: Divergence) -> dict[str, object]:
    if divergence.startswith("jsd_"):
        # The paper's own value, not normalized: each method has its own rate.
        beta = float(divergence.removeprefix("jsd_"))
        return {"divergence": "jensen_shannon", "beta": beta, "scale": "raw"}
    return {"divergence": divergence}


def rewarded_method(teacher_weight: float) -> Method:
    """(1 - alpha) reward - alpha KL(student || teacher), the reward ROUGE-L of the references.

    Alpha is `teacher_weight`; at 1 nothing is rewarded, and everything else stays.
    """
    rewarded = {"divergence": "negative_log_likelihood", "token_weights": "advantages"}
    pulls = ((rewarded, 1.0 - teacher_weight), ({"divergence": "reverse_kl"}, teacher_weight))
    terms = [{**term, "weight": weight} for term, weight in pulls if weight]
    settings: dict[str, object] = {"objective.terms": terms}
    if teacher_weight == 1.0:
        settings["objective.reward.function"] = None
    return Method("gkd_rl", "gkd_rl", "reverse_kl", 1.0, settings)


PLAIN: Mapping[str, Method] = {
    "supervised_ft": Method("supervised_ft", "baseline", "negative_log_likelihood", 0.0),
    "seq_kd": Method("seq_kd", "seq_kd", "negative_log_likelihood", 0.0),
    "imitkd": Method("imitkd", "imitkd", "forward_kl", None),
}
"""The methods that lie on no grid."""


def methods_of(grid: tuple[GridPoint, ...]) -> dict[str, Method]:
    """Every method of a task by its name: the plain ones, then its grid."""
    points = {grid_name(point): grid_method(point) for point in grid}
    return {**PLAIN, **points}
