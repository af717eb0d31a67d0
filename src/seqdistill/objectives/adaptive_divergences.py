"""Divergences that first look at both models and then hold what they saw constant.

A weight, a target or the one right symbol is chosen from the distributions of the moment; the
gradient is taken as if it had been given. Conventions are those of `divergences`. Classes move the
target of interpolated_forward_kl, and the beta of adaptive_jensen_shannon, by the mean of their
term over every update.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seqdistill.core.families import AdaptiveJensenShannon, AdaptiveKL, InterpolatedForwardKL
from seqdistill.objectives.divergences import (
    checked,
    checked_pair,
    jensen_shannon_bound,
    jensen_shannon_factor,
    kl,
    negative_log_likelihood,
    within,
)

_FIRST_RANKED = 32
"""How many of the likeliest symbols are ranked at first in search of the head."""


def adaptive_kl(
    student_log_probs: Float[Tensor, "*batch vocab"],
    teacher_log_probs: Float[Tensor, "*batch vocab"],
    head_mass: float = 0.5,
) -> Float[Tensor, "*batch"]:
    """Adaptive KL in nats: w_h KL(P || Q) + w_t KL(Q || P), each position with its own weights.

    The head is the smallest set of the teacher's likeliest symbols that has at least `head_mass`
    of its probability, the tail all others. With g the sum of |P - Q| over one of them, w_h =
    g_h / (g_h + g_t) and w_t = g_t / (g_h + g_t): the KL that is better at the part where the two
    differ more weighs more. The weights have no gradient. Zero exactly when P = Q, where the
    weights would be 0 / 0; a weight of zero silences its KL even if that is +inf. Among equally
    likely symbols at the border of the head, which of them are in it is not defined.

    Raises ValueError unless 0 < head_mass < 1.

    Source: Wu et al. 2024 (Rethinking KL divergence in KD for LLMs), AKL; they use head_mass = 0.5.
    Their code leaves the symbol that crosses `head_mass` out of the head and divides 0 by 0 at
    P = Q.
    """
    AdaptiveKL(head_mass=head_mass)
    student, teacher = checked_pair(student_log_probs, teacher_log_probs)
    with torch.no_grad():
        gap = (teacher.exp() - student.exp()).abs()
        in_head = _head(teacher, head_mass)
        of_head = torch.where(in_head, gap, 0.0).sum(dim=-1)
        of_tail = torch.where(in_head, 0.0, gap).sum(dim=-1)
        whole = (of_head + of_tail).clamp(min=torch.finfo(gap.dtype).tiny)
    forward, reverse = within(kl(teacher, student)), within(kl(student, teacher))
    return _times(of_head / whole, forward) + _times(of_tail / whole, reverse)


def interpolated_forward_kl(
    student_log_probs: Float[Tensor, "*batch vocab"],
    teacher_log_probs: Float[Tensor, "*batch vocab"],
    share: float,
) -> Float[Tensor, "*batch"]:
    """KL(P_t || Q) in nats, toward a target between the two: P_t = softmax((1-t) z_Q + t z_P).

    t = `share` goes from 0 (the target is the student itself: zero, without a pull) to 1
    (forward_kl). z are logits, for which log-probabilities do, since a softmax does not see their
    shift. The target is held constant. It has mass where both have, so the value is finite for
    t < 1; where no symbol has mass under both there is no target and the value is +inf.

    Raises ValueError unless 0 <= share <= 1.

    Source: Shing et al. 2025 (TAID), sec. 3; how t moves is `InterpolationShare`'s.
    """
    InterpolatedForwardKL(start_fraction=share)
    student, teacher = checked_pair(student_log_probs, teacher_log_probs)
    with torch.no_grad():
        # At the ends one side alone: 0 * -inf is no number.
        ends = {0.0: student, 1.0: teacher}
        target = ends[share] if share in ends else (1.0 - share) * student + share * teacher
        nowhere = target.isneginf().all(dim=-1)
        target = target.masked_fill(nowhere.unsqueeze(-1), 0.0).log_softmax(dim=-1)
    return within(kl(target, student)).masked_fill(nowhere, math.inf)


def teacher_mode_likelihood(
    student_log_probs: Float[Tensor, "*batch vocab"],
    teacher_log_probs: Float[Tensor, "*batch vocab"],
) -> Float[Tensor, "*batch"]:
    """-log Q(argmax P) in nats: the teacher's likeliest symbol as the one right answer.

    Of equally likely symbols the first of the vocabulary is the answer. +inf where the student has
    no mass on it. Not zero at P = Q: it pulls toward the mode, past the teacher.

    Source: Lin et al. 2020 (ImitKD), the hard form of the loss: the student's rollouts, relabelled.
    """
    mode = checked(teacher_log_probs, "teacher_log_probs").argmax(dim=-1)
    return negative_log_likelihood(student_log_probs, mode)


class InterpolationShare:
    """t, the teacher's share of the target: from its start to 1, sooner if the loss falls fast.

    After an update with the mean loss l: rel = (l_prev - l) / l_prev; m <- momentum m +
    (1 - momentum) rel; t <- min(1, max(t_lin, t + step sigmoid(m) (1 - t))), where t_lin goes
    linearly from the start at the first update to 1 at the last. There is no rel after the first
    update, so only t_lin moves t then; an update without sequences of its term leaves t alone but
    for t_lin; l_prev = 0 counts as rel = 0.

    Source: Shing et al. 2025 (TAID), sec. 3.2 and its released code.
    """

    def __init__(self, parameters: InterpolatedForwardKL) -> None:
        self._parameters = parameters
        self.share = parameters.start_fraction
        self.trend = 0.0
        self.previous_loss: float | None = None

    def arguments(self) -> dict[str, float]:
        """What the divergence is called with: t."""
        return {"share": self.share}

    def logged(self) -> dict[str, float]:
        """t, by its name in metrics."""
        return {"interpolation_share": self.share}

    def learn(self, loss: float, update: int, updates: int) -> None:
        """Moves t after `update`, counted from 1, of `updates`; NaN says that nothing counted."""
        given, moved = self._parameters, self.share
        if math.isfinite(loss):
            if self.previous_loss is not None:
                fall = self.previous_loss - loss
                relative = fall / self.previous_loss if self.previous_loss > 0.0 else 0.0
                self.trend = given.momentum * self.trend + (1.0 - given.momentum) * relative
                sigmoid = 0.5 * (1.0 + math.tanh(0.5 * self.trend))  # without an overflow
                moved += given.step * sigmoid * (1.0 - self.share)
            self.previous_loss = loss
        done = update / (updates - 1) if updates > 1 else 1.0
        linear = given.start_fraction + done * (1.0 - given.start_fraction)
        self.share = min(1.0, max(linear, moved))

    def state_dict(self) -> dict[str, float]:
        """t, m and l_prev, the last only once there is one."""
        state = {"share": self.share, "trend": self.trend}
        return (
            state if self.previous_loss is None else state | {"previous_loss": self.previous_loss}
        )

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go to where `state_dict` was taken."""
        self.share, self.trend = state["share"], state["trend"]
        self.previous_loss = state.get("previous_loss")


class OverlapBeta:
    """beta of the generalized Jensen-Shannon divergence: how much both models have in common.

    After an update with the mean loss l they have c = 1 - JSD / H in common, with JSD the raw
    divergence of l and H its bound, the entropy of (beta, 1 - beta): 1 where they are equal and 0
    where they never say the same (JSD is what a symbol tells about which of the two said it). Then
    m <- m + (c - m) / time_constant, from the middle of `within` on, and beta is m, kept within. So
    a student far from its teacher is to cover it, one that is near not to say what it would not. An
    update without sequences of its term leaves m alone.

    Source: ours. Agarwal et al. 2024 (GKD) find that the best beta depends on the task and leave
    open how to choose it; no public text fixes a rule.
    """

    def __init__(self, parameters: AdaptiveJensenShannon) -> None:
        self._parameters = parameters
        self.common = sum(parameters.within) / 2.0

    @property
    def beta(self) -> float:
        """What it is now."""
        low, high = self._parameters.within
        return min(max(self.common, low), high)

    def arguments(self) -> dict[str, Any]:
        """What the divergence is called with. The scale keeps the gradient's size as beta moves."""
        return {"beta": self.beta, "scale": "gradient"}

    def logged(self) -> dict[str, float]:
        """beta, by its name in metrics."""
        return {"beta": self.beta}

    def learn(self, loss: float, update: int, updates: int) -> None:
        """Moves m after an update; NaN says that nothing counted."""
        if math.isfinite(loss):
            raw = loss / jensen_shannon_factor(self.beta, "gradient")
            common = min(max(1.0 - raw / jensen_shannon_bound(self.beta), 0.0), 1.0)
            self.common += (common - self.common) / self._parameters.time_constant

    def state_dict(self) -> dict[str, float]:
        """m."""
        return {"common": self.common}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go to where `state_dict` was taken."""
        self.common = state["common"]


def _head(log_probs: Float[Tensor, "*batch vocab"], mass: float) -> Bool[Tensor, "*batch vocab"]:
    """Which symbols are the likeliest ones that together reach `mass`, in the vocabulary's order.

    A symbol belongs if those before it do not reach the mass: so the one that crosses it does.
    Ever more of the likeliest are ranked until every row has its head, since heads are short and
    sorting a vocabulary costs more than all the rest.
    """
    probs = log_probs.exp()
    num_ranked = min(_FIRST_RANKED, probs.shape[-1])
    ranked, ids = probs.topk(num_ranked, dim=-1)
    while num_ranked < probs.shape[-1] and (ranked.sum(dim=-1) < mass).any():
        num_ranked = min(8 * num_ranked, probs.shape[-1])
        ranked, ids = probs.topk(num_ranked, dim=-1)
    before = ranked.cumsum(dim=-1).roll(1, dims=-1)
    before[..., 0] = 0.0
    return torch.zeros_like(probs, dtype=torch.bool).scatter(-1, ids, before < mass)


def _times(weight: Tensor, values: Tensor) -> Tensor:
    """weight * values, where 0 * inf = 0."""
    return weight * torch.where(weight == 0.0, 0.0, values)
