"""Policy gradients: what the likelihood of every sampled token is weighed with.

Their gradients are those of expectations over sequences, so every token weighs 1 and totals are
divided by sequences. Weights come from detached log-probabilities (nats) of the sampled tokens and
from rewards; the loss they weigh, -log q(y_t), is `fused`'s. Who sampled, and what a reward is, is
not known here.

P is the teacher, Q the student, p~ the distribution that a token was drawn from.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqdistill.core.head import Head
from seqdistill.objectives.chunked_head import detached_head
from seqdistill.objectives.fused import fused_negative_log_likelihood

Estimator = Literal["paper", "released"]

POLICY_GRADIENTS = ("sequence_reverse_kl", "reward")
"""Terms that are no divergence of two distributions at one position."""


def target_log_probs(
    hidden: Float[Tensor, "positions dim"], head: Head, target_ids: Int[Tensor, " positions"]
) -> Float[Tensor, " positions"]:
    """The log-probability (nats) of every target, without a gradient, in chunks of positions."""
    weights = hidden.new_ones(hidden.shape[0])
    loss = fused_negative_log_likelihood(
        hidden.detach(), detached_head(head), target_ids, weights=weights
    )
    return -loss.values


def importance_weights(
    student_log_probs: Float[Tensor, "*batch"], sampled_log_probs: Float[Tensor, "*batch"] | None
) -> Float[Tensor, "*batch"]:
    """w_t = q(y_t) / p~(y_t) of each token; 1 where nobody says what it was drawn from.

    The exact weight of a prefix is the product of its tokens' weights, whose variance grows with
    its length; that of the token alone is the paper's approximation. So with teacher-mixed
    sampling the expectation is that of an approximate gradient, and with p~ = q that of the exact
    one.

    Source: Gu et al. 2024 (MiniLLM), sec. 2.2, teacher-mixed sampling.
    """
    if sampled_log_probs is None:
        return torch.ones_like(student_log_probs)
    return (student_log_probs - sampled_log_probs.to(student_log_probs.dtype)).exp()


def sequence_reverse_kl_weights(
    student_log_probs: Float[Tensor, "batch time"],
    teacher_log_probs: Float[Tensor, "batch time"],
    target_mask: Bool[Tensor, "batch time"],
    importance: Float[Tensor, "batch time"],
    *,
    estimator: Estimator = "paper",
    discount: float = 1.0,
    length_normalized: bool = False,
    clip: float | None = None,
) -> Float[Tensor, "batch time"]:
    """w_t R_{t+1} for every position: weighing -log q(y_t), the long-range part of KL(Q || P).

    R_{t+1} = sum over t' > t of log p(y_t') / q(y_t'). The gradient of the KL between whole
    sequences, over y ~ Q, is the expectation of sum_t [grad KL(Q_t || P_t) - R_{t+1} grad log
    q(y_t)]: the first part, exact over the vocabulary, is the term `reverse_kl`, with
    `importance_weighted` where p~ is not Q. At the last position R is an empty sum, 0.

    With `discount` = g the log-ratio of t' counts g^(t' - first) times, `first` being the position
    where the return starts, wherever that lies in the batch. With `length_normalized` R_{t+1} is
    divided by the number of positions after t (0 stays 0 at the last). With `clip` = c a weight is
    0 where PPO's clipped objective is flat: where w_t > 1 + c and R > 0, or w_t < 1 - c and R < 0.

    `estimator="released"` starts the return at t, divided by the positions from t on: what the
    single-step term says is then said a second time, as a sample of it (the expectation of its
    gradient is grad KL(Q_t || P_t) once more). The released code also drops w_t from the
    single-step term, which here is `reverse_kl` without `importance_weighted`, and keeps it in the
    clipped ratio, as here. Its discount is 0.95. Its whitening of returns, which ties each
    sequence's gradient to its neighbours in a batch, its scaling of rewards and its mean over
    tokens are left out.

    A token that the teacher cannot say makes the returns before it -inf.

    Source: Gu et al. 2024 (MiniLLM), sec. 2.2; the differences of the released code: issues 255,
    264 and 265 of microsoft/LMOps.
    """
    log_ratios = torch.where(target_mask, teacher_log_probs - student_log_probs, 0.0)
    returns = _sum_from_here_on(log_ratios, discount)
    lengths = _sum_from_here_on(target_mask.to(returns.dtype))
    if estimator == "paper":
        returns, lengths = _of_the_next(returns), _of_the_next(lengths)
    if length_normalized:
        returns = returns / lengths.clamp(min=1)
    weights = importance * returns
    if clip is not None:
        too_likely = (importance > 1.0 + clip) & (returns > 0.0)
        too_unlikely = (importance < 1.0 - clip) & (returns < 0.0)
        weights = weights.masked_fill(too_likely | too_unlikely, 0.0)
    return torch.where(target_mask, weights, 0.0)


def reward_weights(
    advantages: Float[Tensor, " batch"], target_mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """The advantage of its sequence for every token: weighing -log q(y_t), REINFORCE.

    The advantage is a reward less a baseline and a constant for the gradient. The expectation over
    y ~ Q of the gradient is minus that of the expected reward, whatever the baseline, as long as
    that does not depend on y.

    Source: Williams 1992; with a distillation term beside it, Agarwal et al. 2024 (GKD), sec. 3.
    """
    return torch.where(target_mask, advantages.detach().unsqueeze(1), 0.0)


def _sum_from_here_on(values: Tensor, discount: float = 1.0) -> Tensor:
    sums = [torch.zeros_like(values[:, 0])]
    for value in reversed(values.unbind(dim=1)):
        sums.append(value + discount * sums[-1])
    return torch.stack(sums[:0:-1], dim=1)


def _of_the_next(values: Tensor) -> Tensor:
    """What stands at the next position; 0 at the last."""
    return torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
