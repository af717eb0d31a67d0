"""What each position of a term counts: a factor without a gradient, (batch, time).

Policy gradients weigh -log q(y_t), so that their gradients are those of expectations over
sequences. P is the teacher, Q the student, p~ the distribution that a token was drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from seqdistill.core.origins import Origin
from seqdistill.objectives.observation import Observation


def uniform(seen: Observation) -> Float[Tensor, "batch time"]:
    """1 everywhere: what a term has without token weights."""
    return torch.ones(seen.target_mask.shape, device=seen.target_mask.device)


def by_origin(seen: Observation, origins: Sequence[Origin]) -> Float[Tensor, "batch time"]:
    """1 for sequences of these origins, 0 for others.

    DistiLLM-2 pulls the teacher's by one skew KL and the student's by the other.
    """
    return seen.of_origins(origins).to(torch.float32)


def advantages(seen: Observation) -> Float[Tensor, "batch time"]:
    """The advantage of its sequence for every token: weighing -log q(y_t), REINFORCE.

    The advantage is a reward less a baseline and a constant for the gradient. The expectation over
    y ~ Q of the gradient is minus that of the expected reward, whatever the baseline, as long as
    that does not depend on y.

    Source: Williams 1992; with a distillation term beside it, Agarwal et al. 2024 (GKD), sec. 3.
    """
    return seen.advantages.detach().expand(seen.target_mask.shape)


def importance(seen: Observation) -> Float[Tensor, "batch time"]:
    """w_t = q(y_t) / p~(y_t) of each token; 1 where nothing says what it was drawn from.

    The exact weight of a prefix is the product of its tokens' weights, whose variance grows with
    its length; that of the token alone is the paper's approximation. So with teacher-mixed
    sampling the expectation is that of an approximate gradient, and with p~ = q that of the exact
    one.

    Source: Gu et al. 2024 (MiniLLM), sec. 2.2, teacher-mixed sampling; the code leaves it out.
    """
    student, sampled = seen.student_log_probs, seen.sampled_log_probs
    if sampled is None:
        return torch.ones_like(student)
    return (student - sampled.to(student.dtype)).exp()


def sequence_reverse_kl(
    seen: Observation,
    estimator: Literal["paper", "released"] = "paper",
    length_normalized: bool = True,
    discount: float = 1.0,
    clip: float | None = None,
) -> Float[Tensor, "batch time"]:
    """w_t R_{t+1} for every position: weighing -log q(y_t), the long-range part of KL(Q || P).

    See `returns` for R. With `clip` = c a weight is 0 where PPO's clipped objective is flat: where
    w_t > 1 + c and R > 0, or w_t < 1 - c and R < 0.
    """
    ahead = returns(
        seen.teacher_log_probs - seen.student_log_probs,
        seen.target_mask,
        estimator=estimator,
        length_normalized=length_normalized,
        discount=discount,
    )
    weights = (ratio := importance(seen)) * ahead
    if clip is not None:
        too_likely = (ratio > 1.0 + clip) & (ahead > 0.0)
        too_unlikely = (ratio < 1.0 - clip) & (ahead < 0.0)
        weights = weights.masked_fill(too_likely | too_unlikely, 0.0)
    return torch.where(seen.target_mask, weights, 0.0)


def returns(
    log_ratios: Float[Tensor, "batch time"],
    target_mask: Bool[Tensor, "batch time"],
    *,
    estimator: Literal["paper", "released"],
    length_normalized: bool,
    discount: float,
) -> Float[Tensor, "batch time"]:
    """R_{t+1} = sum over t' > t of log p(y_t') / q(y_t'); an empty sum, 0, at the last position.

    The gradient of the KL between whole sequences, over y ~ Q, is the expectation of sum_t [grad
    KL(Q_t || P_t) - R_{t+1} grad log q(y_t)]: the first part, exact over the vocabulary, is the
    term `reverse_kl`, weighed by `importance` where p~ is not Q.

    With `discount` = g the log-ratio of t' counts g^(t' - first) times, `first` being the position
    where the return starts, wherever that lies in the batch. With `length_normalized` R_{t+1} is
    divided by the number of positions after t (0 stays 0 at the last).

    `estimator="released"` starts the return at t, divided by the positions from t on: what the
    single-step term says is then said a second time, as a sample of it (the expectation of its
    gradient is grad KL(Q_t || P_t) once more). The released code also drops w_t from the
    single-step term, which here is `reverse_kl` without `importance`, and keeps it in the
    clipped ratio, as here. Its discount is 0.95. Its whitening of returns, which ties each
    sequence's gradient to its neighbours in a batch, its scaling of rewards and its mean over
    tokens are left out.

    A token that the teacher cannot say makes the returns before it -inf.

    Source: Gu et al. 2024 (MiniLLM), sec. 2.2; the differences of the released code: issues 255,
    264 and 265 of microsoft/LMOps.
    """
    sums = _sum_from_here_on(torch.where(target_mask, log_ratios, 0.0), discount)
    lengths = _sum_from_here_on(target_mask.to(sums.dtype))
    if estimator == "paper":
        sums, lengths = (functional.pad(each[:, 1:], (0, 1)) for each in (sums, lengths))
    return sums / lengths.clamp(min=1) if length_normalized else sums


def _sum_from_here_on(values: Tensor, discount: float = 1.0) -> Tensor:
    sums = [torch.zeros_like(values[:, 0])]
    for value in reversed(values.unbind(dim=1)):
        sums.append(value + discount * sums[-1])
    return torch.stack(sums[:0:-1], dim=1)
