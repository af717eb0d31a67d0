"""Divergences between two next-token distributions, as pure functions on log-probabilities.

Student first, teacher second; one value in nats for every position. P is the teacher, Q the
student. No masks, no means, no temperatures, no state: `reduction` and `fused` have those. Inside,
everything is fp32 (fp64 for fp64), whatever comes in.

Logits are refused: rows must be log-probabilities (`log_softmax`), which one pass over them checks;
`python -O` and torch.compile leave the check out, and the fused forms, which normalize by
themselves, have none.

Shared by all: 0 log 0 = 0, so that symbols of probability zero, -inf as a logarithm included, give
neither NaN nor a NaN gradient; +inf comes out only where theory says so. Rounding cannot push a
value past its theoretical bounds, and the gradient passes through that correction unchanged.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqdistill.core.families import JensenShannon, Skew

Scale = Literal["raw", "gradient"]

NEGLIGIBLE_LOG_PROB = -1e4
"""exp() of this is exactly zero even in fp64, and sums and differences with it stay finite."""

SUM_TOLERANCE, SUM_TOLERANCE_BF16 = 0.05, 0.2
"""How far the sum of a row's probabilities may be from 1: more than the rounding to half precision
does to log-probabilities over any vocabulary (bf16: normalized in it, too), less than logits do."""


def forward_kl(
    student_log_probs: Float[Tensor, "*batch vocab"],
    teacher_log_probs: Float[Tensor, "*batch vocab"],
) -> Float[Tensor, "*batch"]:
    """Forward divergence KL(P || Q) in nats: the student must cover whatever the teacher does.

    Zero exactly when the two agree. A teacher probability of zero costs nothing; a student
    probability of zero where the teacher has mass costs +inf.

    Source: Hinton et al. 2015, sec. 2 (T = 1); word-level KD of Kim and Rush 2016, sec. 3.1, less
    the teacher's entropy, which has no gradient.
    """
    student, teacher = checked_pair(student_log_probs, teacher_log_probs)
    return within(kl(teacher, student))


def reverse_kl(
    student_log_probs: Float[Tensor, "*batch vocab"],
    teacher_log_probs: Float[Tensor, "*batch vocab"],
) -> Float[Tensor, "*batch"]:
    """Reverse divergence KL(Q || P) in nats: the student must not say what the teacher would not.

    A student probability of zero costs nothing; student mass where the teacher has none costs
    +inf, and its gradient is infinite too.

    Source: Gu et al. 2024 (MiniLLM), sec. 2.1, for one token.
    """
    student, teacher = checked_pair(student_log_probs, teacher_log_probs)
    return within(kl(student, teacher))


def jensen_shannon(
    student_log_probs: Float[Tensor, "*batch vocab"],
    teacher_log_probs: Float[Tensor, "*batch vocab"],
    beta: float,
    scale: Scale = "raw",
) -> Float[Tensor, "*batch"]:
    """Generalized Jensen-Shannon divergence in nats: beta KL(P || M) + (1 - beta) KL(Q || M).

    M = beta P + (1 - beta) Q. Always finite: at most the entropy of (beta, 1 - beta), which is
    log 2 at beta = 0.5. The raw value and its gradient vanish at both ends: JSD / beta tends to
    KL(P || Q) as beta tends to 0, JSD / (1 - beta) to KL(Q || P) as beta tends to 1. With
    `scale="gradient"` the value is divided by beta (1 - beta): the limits are then forward_kl and
    reverse_kl themselves, factor 1, and for every beta in between the value agrees with both KLs
    to second order in P - Q. So one learning rate serves every beta; the bound is divided too. Of
    fp32 numbers its relative error is about 1e-7 / min(beta, 1 - beta), since the raw value is that
    much smaller than the logarithms it is made of: nearer to the ends take fp64, or the ends.

    At the ends themselves it is forward_kl (beta 0) and reverse_kl (beta 1), whatever `scale`.

    Raises ValueError unless 0 <= beta <= 1.

    Source: Agarwal et al. 2024 (GKD), eq. 1; the scaled form is ours.
    """
    JensenShannon(beta=beta, scale=scale)
    if beta in (0.0, 1.0):
        return (reverse_kl if beta else forward_kl)(student_log_probs, teacher_log_probs)
    student, teacher = map(_not_infinite, checked_pair(student_log_probs, teacher_log_probs))
    mixture = _log_mixture(teacher, student, beta)
    raw = beta * kl(teacher, mixture) + (1.0 - beta) * kl(student, mixture)
    return within(raw, jensen_shannon_bound(beta)) * jensen_shannon_factor(beta, scale)


def skew_forward_kl(
    student_log_probs: Float[Tensor, "*batch vocab"],
    teacher_log_probs: Float[Tensor, "*batch vocab"],
    alpha: float,
) -> Float[Tensor, "*batch"]:
    """Skew divergence KL(P || alpha P + (1 - alpha) Q) in nats: forward KL that cannot explode.

    At most -log(alpha). Tends to forward_kl as alpha tends to 0.

    Raises ValueError unless 0 < alpha < 1.

    Source: Ko et al. 2024 (DistiLLM), sec. 3.1, SKL; they use alpha = 0.1.
    """
    Skew(alpha=alpha)
    student, teacher = map(_not_infinite, checked_pair(student_log_probs, teacher_log_probs))
    return within(kl(teacher, _log_mixture(teacher, student, alpha)), -math.log(alpha))


def skew_reverse_kl(
    student_log_probs: Float[Tensor, "*batch vocab"],
    teacher_log_probs: Float[Tensor, "*batch vocab"],
    alpha: float,
) -> Float[Tensor, "*batch"]:
    """Skew divergence KL(Q || (1 - alpha) P + alpha Q) in nats: reverse KL that cannot explode.

    At most -log(alpha). Tends to reverse_kl as alpha tends to 0. The gradient flows through the
    student on both sides (released DistiLLM-2 code detaches the mixture; the formula does not).

    Raises ValueError unless 0 < alpha < 1.

    Source: Ko et al. 2024 (DistiLLM), sec. 3.1, SRKL; they use alpha = 0.1.
    """
    Skew(alpha=alpha)
    student, teacher = map(_not_infinite, checked_pair(student_log_probs, teacher_log_probs))
    return within(kl(student, _log_mixture(student, teacher, alpha)), -math.log(alpha))


def total_variation(
    student_log_probs: Float[Tensor, "*batch vocab"],
    teacher_log_probs: Float[Tensor, "*batch vocab"],
) -> Float[Tensor, "*batch"]:
    """Total variation distance 0.5 sum |P - Q|, between 0 and 1 (a probability, not nats).

    1 minus it is the chance that a draft by the student is accepted in speculative sampling. The
    gradient at P = Q, where the distance has a kink, is 0.

    Source: Wen et al. 2023 (f-distill), sec. 3.
    """
    student, teacher = checked_pair(student_log_probs, teacher_log_probs)
    return within(0.5 * (teacher.exp() - student.exp()).abs().sum(dim=-1), 1.0)


def neg_log_acceptance(
    student_log_probs: Float[Tensor, "*batch vocab"],
    teacher_log_probs: Float[Tensor, "*batch vocab"],
) -> Float[Tensor, "*batch"]:
    """-log sum min(P, Q) in nats: of the chance that speculative sampling accepts a drafted token.

    It is -log(1 - total_variation). With a the acceptance, sum min(P, Q), and s the student's mass
    on the symbols of which it says too little, the absolute gradient for the logits sums to
    2 s (1 - s) / a; that of total variation to 2 s (1 - s). So where both are small, as of a
    student that has not learned yet, this one learns and total variation stalls. Where the student
    is sure of one symbol and the teacher gives this more than s, both stall; forward_kl does not.
    The gradient at P = Q, where there is a kink, is 0.

    Logarithms are added, never probabilities: an overlap of e^-500 costs 500 nats, in fp32 too, and
    any two softmaxes of finite logits overlap. Only where no symbol at all has mass under both is
    it +inf, with a gradient of 0; training stops at such a loss, as at an infinite forward_kl.

    Source: Samarin et al. 2026 (LK losses); there, as in vLLM's speculators, probabilities are
    added and the sum is kept above a small number, below which nothing is learned.
    """
    student, teacher = checked_pair(student_log_probs, teacher_log_probs)
    smaller = torch.minimum(student, teacher)
    nowhere = smaller.isneginf().all(dim=-1)
    values = -smaller.masked_fill(nowhere.unsqueeze(-1), 0.0).logsumexp(dim=-1)
    return within(values.masked_fill(nowhere, math.inf))


def cross_entropy(
    student_log_probs: Float[Tensor, "*batch vocab"],
    teacher_log_probs: Float[Tensor, "*batch vocab"],
) -> Float[Tensor, "*batch"]:
    """Cross-entropy -sum P log Q in nats: forward_kl plus the teacher's entropy.

    The gradient for the student is that of forward_kl. Zero only where both are sure of the same
    symbol; +inf where the student has no mass and the teacher has.

    Source: Kim and Rush 2016, sec. 3.1 (word-level KD).
    """
    student, teacher = checked_pair(student_log_probs, teacher_log_probs)
    probs = teacher.exp()
    return within(-(probs * torch.where(probs == 0.0, 0.0, student)).sum(dim=-1))


def negative_log_likelihood(
    student_log_probs: Float[Tensor, "*batch vocab"], target_ids: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """-log Q(target) in nats, for one right answer instead of a teacher.

    +inf where the student has no mass on the target.
    """
    student = checked(student_log_probs, "student_log_probs")
    return within(-student.gather(-1, target_ids.long().unsqueeze(-1)).squeeze(-1))


def jensen_shannon_factor(beta: float, scale: Scale) -> float:
    """What multiplies the raw Jensen-Shannon divergence: 1, or 1 / (beta (1 - beta))."""
    return 1.0 / (beta * (1.0 - beta)) if scale == "gradient" else 1.0


def jensen_shannon_bound(beta: float) -> float:
    """The largest raw Jensen-Shannon divergence in nats: the entropy of (beta, 1 - beta)."""
    return -beta * math.log(beta) - (1.0 - beta) * math.log1p(-beta)


def checked_pair(student_log_probs: Tensor, teacher_log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Both as `checked` gives them."""
    return (
        checked(student_log_probs, "student_log_probs"),
        checked(teacher_log_probs, "teacher_log_probs"),
    )


def checked(log_probs: Tensor, name: str) -> Tensor:
    """Log-probabilities in the precision that divergences work in.

    Raises ValueError when rows do not sum to 1. A row with NaN passes: its divergence is NaN.
    """
    exact = at_least_fp32(log_probs)
    if not __debug__ or torch.compiler.is_compiling():
        return exact
    tolerance = SUM_TOLERANCE_BF16 if log_probs.dtype == torch.bfloat16 else SUM_TOLERANCE
    sums = exact.detach().exp().sum(dim=-1)
    wrong = sums[(sums - 1.0).abs() > tolerance]
    if wrong.numel():
        raise ValueError(
            f"{name} must be log-probabilities, whose exponentials sum to 1 in every row (within "
            f"{tolerance:g}), but {wrong.numel()} of {sums.numel()} rows do not, the first sums to "
            f"{float(wrong[0]):.4g}; give log_softmax(dim=-1) of logits, and leave padding out"
        )
    return exact


def at_least_fp32(log_probs: Tensor) -> Tensor:
    """The same numbers in fp32, or as they are in fp64: the precision that divergences work in."""
    return log_probs if log_probs.dtype == torch.float64 else log_probs.float()


def _not_infinite(log_probs: Tensor) -> Tensor:
    """Log-probabilities without -inf, for functions in which a zero can never cost anything.

    The clamp changes no probability and no gradient: both are exactly zero down there.
    """
    return log_probs.clamp(min=NEGLIGIBLE_LOG_PROB)


def kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second). Symbols without mass in `first` are cut out before the product, not
    after it: 0 * inf would still reach the gradient."""
    probs = first.exp()
    no_mass = probs == 0.0
    ratio = torch.where(no_mass, 0.0, first) - torch.where(no_mass, 0.0, second)
    return (probs * ratio).sum(dim=-1)


def _log_mixture(first: Tensor, second: Tensor, share: float) -> Tensor:
    """log(share * first + (1 - share) * second)."""
    return torch.logaddexp(first + math.log(share), second + math.log1p(-share))


def within(values: Tensor, largest: float = math.inf) -> Tensor:
    """`values` between 0 and `largest`; the gradient is as if nothing had been clamped."""
    with torch.no_grad():
        correction = values.clamp(0.0, largest) - values
        correction = torch.where(values.isfinite(), correction, torch.zeros_like(correction))
    return values + correction
