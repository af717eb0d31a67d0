"""Every divergence by name: its plain function, its closed form, what it must be told.

The shared property suite and the objective read this; a divergence that is not here does not
exist for a recipe.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from seqdistill.objectives import adaptive_divergences, divergences, manual_gradients
from seqdistill.objectives.divergences import Scale

ParameterName = Literal["beta", "alpha", "share", "scale", "head_mass"]


@dataclasses.dataclass(frozen=True)
class Parameters:
    """What divergences may be told; each reads its own and ignores the rest."""

    beta: float | None = None
    """jensen_shannon: the teacher's share of the mixture."""
    alpha: float | None = None
    """Skew divergences: the share of the distribution that is mixed in."""
    share: float | None = None
    """interpolated_forward_kl: the teacher's share of the target."""
    scale: Scale = "raw"
    """jensen_shannon: the paper's value, or one whose gradient is continuous toward the ends."""
    head_mass: float = 0.5
    """adaptive_kl: how much of the teacher's probability its likeliest symbols must have."""


@dataclasses.dataclass(frozen=True)
class Divergence:
    """A plain function of student log-probabilities and what `needs` says, and its parameters.

    `closed_form` is the same on rows of logits, None where there is no teacher.
    `one_right_symbol` marks likelihoods: temperatures are none of their business.
    """

    function: Callable[..., Tensor]
    needs: Literal["teacher_log_probs", "target_ids"]
    closed_form: Callable[..., Tensor] | None = None
    required_parameters: tuple[ParameterName, ...] = ()
    optional_parameters: tuple[ParameterName, ...] = ()
    checks: Mapping[ParameterName, Callable[[float], None]] = dataclasses.field(
        default_factory=dict
    )
    """What raises ValueError for a parameter out of range."""
    one_right_symbol: bool = False


DIVERGENCES: dict[str, Divergence] = {
    "negative_log_likelihood": Divergence(
        divergences.negative_log_likelihood, "target_ids", one_right_symbol=True
    ),
    "cross_entropy": Divergence(
        divergences.cross_entropy, "teacher_log_probs", manual_gradients.cross_entropy
    ),
    "forward_kl": Divergence(
        divergences.forward_kl, "teacher_log_probs", manual_gradients.forward_kl
    ),
    "reverse_kl": Divergence(
        divergences.reverse_kl, "teacher_log_probs", manual_gradients.reverse_kl
    ),
    "jensen_shannon": Divergence(
        divergences.jensen_shannon,
        "teacher_log_probs",
        manual_gradients.jensen_shannon,
        ("beta",),
        ("scale",),
        {"beta": divergences.check_beta},
    ),
    "skew_forward_kl": Divergence(
        divergences.skew_forward_kl,
        "teacher_log_probs",
        manual_gradients.skew_forward_kl,
        ("alpha",),
        checks={"alpha": functools.partial(divergences.check_alpha, end="forward_kl")},
    ),
    "skew_reverse_kl": Divergence(
        divergences.skew_reverse_kl,
        "teacher_log_probs",
        manual_gradients.skew_reverse_kl,
        ("alpha",),
        checks={"alpha": functools.partial(divergences.check_alpha, end="reverse_kl")},
    ),
    "total_variation": Divergence(
        divergences.total_variation, "teacher_log_probs", manual_gradients.total_variation
    ),
    "adaptive_kl": Divergence(
        adaptive_divergences.adaptive_kl,
        "teacher_log_probs",
        manual_gradients.adaptive_kl,
        optional_parameters=("head_mass",),
        checks={"head_mass": adaptive_divergences.check_head_mass},
    ),
    "interpolated_forward_kl": Divergence(
        adaptive_divergences.interpolated_forward_kl,
        "teacher_log_probs",
        manual_gradients.interpolated_forward_kl,
        ("share",),
        checks={"share": adaptive_divergences.check_share},
    ),
    "teacher_mode_likelihood": Divergence(
        adaptive_divergences.teacher_mode_likelihood,
        "teacher_log_probs",
        manual_gradients.teacher_mode_likelihood,
        one_right_symbol=True,
    ),
}


def closed_form(name: str, parameters: Parameters) -> manual_gradients.ClosedForm:
    """The closed form of a divergence from a teacher, with its parameters filled in.

    Raises ValueError for an unknown name, or a parameter missing or out of range.
    """
    known = {name: entry for name, entry in DIVERGENCES.items() if entry.closed_form is not None}
    divergence = known.get(name)
    if divergence is None or divergence.closed_form is None:
        raise ValueError(f"divergence must be one of {', '.join(known)}; got {name!r}")
    told = {
        parameter: getattr(parameters, parameter)
        for parameter in (*divergence.required_parameters, *divergence.optional_parameters)
    }
    for parameter in divergence.required_parameters:
        if told[parameter] is None or math.isnan(told[parameter]):
            raise ValueError(
                f"{name} needs {parameter}, a number between 0 and 1; got {told[parameter]}"
            )
    for parameter, check in divergence.checks.items():
        check(told[parameter])
    return functools.partial(divergence.closed_form, **told)
