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


_ENTROPY = "student_entropy"
_MEASURES = {
    "soft_or": (_ENTROPY, "reverse_kl"),
    "entropy": (_ENTROPY,),
    "divergence": ("reverse_kl",),
    "third_quadrant": (_ENTROPY, "forward_kl"),
}
_CLIPPED_ABOVE = 0.98
"""The quantile of the update's entropies above which all count alike: the paper's."""


def measured_for_top_tokens(
    seen: Observation, by: str, fraction: float
) -> Float[Tensor, "measures batch time"]:
    """What `top_tokens` scores by, in nats."""
    return seen.in_one_pass(*_MEASURES[by])


def top_tokens(
    measures: Float[Tensor, "measures batch time"],
    target_mask: Bool[Tensor, "batch time"],
    by: str,
    fraction: float,
) -> Float[Tensor, "batch time"]:
    """1 for the floor(fraction x length) tokens of each sequence that score highest, 0 for others.

    The batch is a whole update: over it h, the student's entropy, clipped at the 98th percentile
    (linear between two entropies), and d, KL(Q || P), are scaled to 0 ... 1 (a constant one to 0);
    log |V|, by which the paper divides entropies, is scaled away. Of equal scores the earlier token
    is taken. Of an update without a sequence that is long enough nothing is.

    Source: Xu et al. 2026 (TIP), sec. 6 and 7, arXiv 2604.14084, as its rerun spells it out. Ours:
    `entropy` takes the highest where the paper draws tokens with chances proportional to h;
    `third_quadrant` takes KL(P || Q) in nats, unscaled.
    """
    lengths = target_mask.sum(dim=1)
    kept = (fraction * lengths.double() + 1e-9).floor()  # 0.29 x 100 is 29 in decimals alone
    first, last = (values[target_mask].double() for values in (measures[0], measures[-1]))
    if by == "divergence":
        scores = last
    else:
        limit = _quantile(first, _CLIPPED_ABOVE)
        scores = entropy = _from_0_to_1(first.clamp(max=limit))
    if by == "soft_or":
        scores = entropy + (divergence := _from_0_to_1(last)) - entropy * divergence
    elif by == "third_quadrant":
        scores = last * (1.0 - entropy)
    of_all = scores.new_full(target_mask.shape, -torch.inf).masked_scatter(target_mask, scores)
    ranks = of_all.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (ranks < kept[:, None]).to(measures.dtype)


def measured_for_pass_rate(
    seen: Observation, column: str, alpha: float, beta: float, within: tuple[float, float] | None
) -> Float[Tensor, "measures batch time"]:
    """The pass rate p of each sequence's prompt, at every position."""
    return seen.extra(column).expand(seen.target_mask.shape)[None]


def pass_rate(
    measures: Float[Tensor, "measures batch time"],
    target_mask: Bool[Tensor, "batch time"],
    column: str,
    alpha: float,
    beta: float,
    within: tuple[float, float] | None,
) -> Float[Tensor, "batch time"]:
    """w(p) = p^alpha (1 - p)^beta of each sequence, divided by its mean over the sequences.

    The batch is a whole update. 0^0 is 1. `within` makes w(p) 0 for p that is not strictly between
    its ends. Where every w(p) is 0, so is every weight: nothing is learned from such an update.

    Source: PACED (2026), whose kernel is alpha = beta = 1 and whose hard filter, which it compares
    with, keeps 0.2 < p < 0.8. Assumed, since no public text says: the mean is over the sequences of
    the update that have a token, those of weight 0 included.
    """
    rates = measures[0, :, 0].double()
    kernel = rates**alpha * (1.0 - rates) ** beta
    if within is not None:
        kernel = torch.where((rates > within[0]) & (rates < within[1]), kernel, 0.0)
    mean = kernel[target_mask.any(dim=1)].mean()
    weights = kernel / mean if mean > 0.0 else torch.zeros_like(kernel)
    return weights.to(measures.dtype)[:, None].expand(target_mask.shape)


def _quantile(values: Float[Tensor, " positions"], fraction: float) -> Tensor:
    """Linear between neighbours; torch's own takes no more than 16 million values."""
    ordered, place = values.sort().values, fraction * (len(values) - 1)
    below = int(place)
    return torch.lerp(ordered[below], ordered[min(below + 1, len(values) - 1)], place - below)


def _from_0_to_1(values: Float[Tensor, " positions"]) -> Float[Tensor, " positions"]:
    low, high = values.aminmax()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)
