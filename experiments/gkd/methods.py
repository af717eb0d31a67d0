"""The methods that are compared: a preset each, and what the grid changes in it.

    supervised_ft     the references' likelihood          seq_kd    that of the teacher's outputs
    supervised_kd     forward KL, lambda 0                on_policy_kd    forward KL, lambda 1
    imitkd            forward KL, lambda from 0 to 1      gkd       any divergence, any lambda
    gkd_rl            a reward and reverse KL, lambda 1

Lambda is the fraction of the batches that the student generates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from experiments.shapes import Settings

DIVERGENCES = ("forward_kl", "jsd_0.1", "jsd_0.5", "jsd_0.9", "reverse_kl")
"""From the one that covers the teacher to the one that seeks its mode."""
SHARES = (0.0, 0.5, 1.0)
"""Values of lambda."""
BASELINES = ("supervised_ft", "seq_kd", "supervised_kd", "imitkd")
"""What on-policy distillation is held against."""
THRIFTY = ("supervised_kd", "imitkd", "on_policy_kd")
"""Methods that are trained on parts of the inputs, too; the last of them reads no references."""
LENGTHENED = ("supervised_kd", "seq_kd")
"""Methods that get as many updates as the seconds of on-policy KD buy."""
FOLLOWED = ("supervised_ft", "seq_kd", "supervised_kd", "imitkd", "on_policy_kd")
"""Methods that are trained for longer, too: whether gains last, or are made sooner only."""
GRIDS: Mapping[str, Sequence[tuple[str, float]]] = {
    "full": [(divergence, share) for share in SHARES for divergence in DIVERGENCES],
    # Every lambda, and every other divergence that the paper found best somewhere.
    "key": [
        *(("forward_kl", share) for share in SHARES),
        *((divergence, 1.0) for divergence in ("jsd_0.1", "jsd_0.9", "reverse_kl")),
    ],
    "ends": [("forward_kl", 0.0), ("forward_kl", 1.0)],
}
_PRESETS = {0.0: "supervised_kd", 1.0: "on_policy_kd"}


@dataclasses.dataclass(frozen=True)
class Method:
    """How a student is trained, but for rate, updates and seed."""

    name: str
    preset: str
    divergence: str
    student_fraction: float | None
    """Lambda; None where it changes while training."""
    settings: Settings = dataclasses.field(default_factory=dict)
    """What is set over the preset."""


def grid_name(divergence: str, share: float) -> str:
    """The paper's name of a point of the grid, or one such as `gkd-jsd_0.1-0.5`."""
    named = divergence == "forward_kl" and share in _PRESETS
    return _PRESETS[share] if named else f"gkd-{divergence}-{share:g}"


def _grid_method(divergence: str, share: float) -> Method:
    """GKD with a divergence and lambda; at 0 and 1 the presets without a coin do the same."""
    term: dict[str, object] = {"divergence": divergence}
    if divergence.startswith("jsd_"):
        # The paper's own value, not normalized: each method has its own rate.
        beta = float(divergence.removeprefix("jsd_"))
        term = {"divergence": "jensen_shannon", "beta": beta, "scale": "raw"}
    settings: dict[str, object] = {"objective.terms": [term]}
    if share not in _PRESETS:
        settings["sequences.mixture.student_fraction"] = share
    preset = _PRESETS.get(share, "gkd")
    return Method(grid_name(divergence, share), preset, divergence, share, settings)


def rewarded_method(alpha: float) -> Method:
    """(1 - alpha) reward - alpha KL(student || teacher), the reward ROUGE-L of the references.

    At 1 nothing is rewarded, and everything else stays.
    """
    rewarded = {"divergence": "negative_log_likelihood", "token_weights": "advantages"}
    pulls = ((rewarded, 1.0 - alpha), ({"divergence": "reverse_kl"}, alpha))
    terms = [{**term, "weight": weight} for term, weight in pulls if weight]
    settings: dict[str, object] = {"objective.terms": terms}
    if alpha == 1.0:
        settings["objective.reward.function"] = None
    return Method("gkd_rl", "gkd_rl", "reverse_kl", 1.0, settings)


def methods_of(grid: str) -> dict[str, Method]:
    """Every method of a grid by its name: those that lie on none, then its points."""
    plain = (
        Method("supervised_ft", "baseline", "negative_log_likelihood", 0.0),
        Method("seq_kd", "seq_kd", "negative_log_likelihood", 0.0),
        Method("imitkd", "imitkd", "forward_kl", None),
    )
    points = (_grid_method(divergence, share) for divergence, share in GRIDS[grid])
    return {method.name: method for method in (*plain, *points)}
