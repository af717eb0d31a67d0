"""The divergences used most with the gradient for the student's logits written out, in place.

Optimizations of what autograd gives: tests hold both together. With Q the softmax of the logits
z, a derivative u_i = (dD / d log q_i) / q_i gives dD/dz = q (u - sum q u).
Everything is overwritten.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from seqdistill.objectives.divergences import Scale, jensen_shannon_bound, jensen_shannon_factor


@dataclasses.dataclass(frozen=True)
class SoftRows:
    """Both models' distributions over a few rows, each (rows, vocab), and one buffer to work in.

    A function of them gives (rows, 1) values in nats and leaves the gradient of every row's value
    in `student_log_probs`.
    """

    student_log_probs: Tensor
    student_probs: Tensor
    teacher_log_probs: Tensor
    teacher_probs: Tensor
    scratch: Tensor

    @classmethod
    def of(
        cls, student_logits: Tensor, teacher_logits: Tensor, buffers: tuple[Tensor, ...]
    ) -> SoftRows:
        """Normalizes both logits in place and fills the buffers with their probabilities."""
        student_probs, teacher_probs, scratch = (b[: student_logits.shape[0]] for b in buffers)
        _normalize(student_logits, student_probs)
        _normalize(teacher_logits, teacher_probs)
        return cls(student_logits, student_probs, teacher_logits, teacher_probs, scratch)


def forward_kl(rows: SoftRows) -> Tensor:
    """KL(P || Q); gradient q - p."""
    ratio = rows.teacher_log_probs.sub_(rows.student_log_probs)
    values = _expectation(rows.teacher_probs, ratio)
    torch.sub(rows.student_probs, rows.teacher_probs, out=rows.student_log_probs)
    return _within(values, rows)


def cross_entropy(rows: SoftRows) -> Tensor:
    """-sum P log Q; gradient q - p."""
    values = -_expectation(rows.teacher_probs, rows.student_log_probs)
    torch.sub(rows.student_probs, rows.teacher_probs, out=rows.student_log_probs)
    return _within(values, rows)


def reverse_kl(rows: SoftRows) -> Tensor:
    """KL(Q || P); gradient q (log(q/p) - KL)."""
    ratio = rows.student_log_probs.sub_(rows.teacher_log_probs)
    values = _expectation(rows.student_probs, ratio)
    _subtract_mean(rows, values)
    return _within(values, rows)


def jensen_shannon(rows: SoftRows, beta: float, scale: Scale) -> Tensor:
    """beta KL(P || M) + (1 - beta) KL(Q || M); gradient (1 - beta) q (log(q/m) - KL(Q || M))."""
    if beta in (0.0, 1.0):
        return reverse_kl(rows) if beta else forward_kl(rows)
    mixture = _mixture(rows.student_probs, rows.teacher_probs, beta, rows.scratch).log_()
    of_student = _expectation(rows.student_probs, rows.student_log_probs.sub_(mixture))
    of_teacher = _expectation(rows.teacher_probs, rows.teacher_log_probs.sub_(mixture))
    _subtract_mean(rows, of_student)
    factor = jensen_shannon_factor(beta, scale)
    rows.student_log_probs.mul_((1.0 - beta) * factor)
    values = of_teacher.mul_(beta).add_(of_student, alpha=1.0 - beta)
    return _within(values, rows, jensen_shannon_bound(beta)) * factor


def skew_forward_kl(rows: SoftRows, alpha: float) -> Tensor:
    """KL(P || M), M = alpha P + (1 - alpha) Q; gradient (1 - alpha) q (sum q p/m - p/m)."""
    mixture = _mixture(rows.student_probs, rows.teacher_probs, alpha, rows.scratch)
    gradient = torch.div(rows.teacher_probs, mixture, out=rows.student_log_probs)
    values = _expectation(rows.teacher_probs, rows.teacher_log_probs.sub_(mixture.log_()))
    gradient.mul_(rows.student_probs)
    _subtract_mean(rows, gradient.sum(dim=-1, keepdim=True))
    gradient.mul_(alpha - 1.0)
    return _within(values, rows, -math.log(alpha))


def skew_reverse_kl(rows: SoftRows, alpha: float) -> Tensor:
    """KL(Q || M), M = (1 - alpha) P + alpha Q; gradient q (u - sum q u).

    u = log(q/m) - alpha q/m; a constant in u would cancel.
    """
    mixture = _mixture(rows.teacher_probs, rows.student_probs, alpha, rows.scratch)
    # The teacher's two buffers are free once the mixture is known.
    log_mixture = torch.log(mixture, out=rows.teacher_log_probs)
    gradient = rows.student_log_probs.sub_(log_mixture)
    values = _expectation(rows.student_probs, gradient)
    shares = torch.div(rows.student_probs, mixture, out=mixture)
    gradient.addcmul_(shares, rows.student_probs, value=-alpha)
    _subtract_mean(rows, gradient.sum(dim=-1, keepdim=True))
    return _within(values, rows, -math.log(alpha))


def entropy(logits: Tensor) -> Tensor:
    """H(Q) of rows of logits, (rows, 1); what is left there is no gradient."""
    _normalize(logits, probs := torch.empty_like(logits))
    values = -_expectation(probs, logits)
    return values.clamp_(min=0.0).masked_fill_(probs[:, :1].isnan(), math.nan)


def _normalize(logits: Tensor, probs: Tensor) -> None:
    """Writes softmax(logits) to `probs` and turns `logits` into their logarithms in place.

    log sum exp z = max z - log max softmax(z), so the exponentials are taken once.
    """
    torch.softmax(logits, dim=-1, out=probs)
    largest = logits.amax(dim=-1, keepdim=True)
    logits.sub_(largest.sub_(probs.amax(dim=-1, keepdim=True).log_()))


def _expectation(probs: Tensor, logs: Tensor) -> Tensor:
    """sum probs * logs, leaving the products in `logs`.

    With finite or -inf logits a NaN can only be 0 * inf or 0 * (inf - inf), which are 0 here; a
    probability above zero times inf stays inf. Rows with true NaN are marked by `_within`.
    """
    values = logs.mul_(probs).sum(dim=-1, keepdim=True)
    # To look first saves a pass; where looking means waiting for a GPU, it does not.
    if logs.is_cuda or not values.isfinite().all():
        logs.nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf)
        torch.sum(logs, dim=-1, keepdim=True, out=values)
    return values


def _subtract_mean(rows: SoftRows, mean: Tensor) -> None:
    """gradient -= q * mean, where the gradient holds q u and `mean` is sum q u."""
    rows.student_log_probs.addcmul_(rows.student_probs, mean, value=-1.0)


def _mixture(low: Tensor, high: Tensor, share: float, out: Tensor) -> Tensor:
    """(1 - share) low + share high, kept above zero so that its logarithm is finite."""
    torch.lerp(low, high, share, out=out)
    return out.clamp_(min=torch.finfo(out.dtype).tiny)


def _within(values: Tensor, rows: SoftRows, largest: float = math.inf) -> Tensor:
    """Values inside their theoretical bounds; NaN where a model's logits were NaN.

    One NaN logit makes its whole row of probabilities NaN, so one column tells.
    """
    broken = rows.student_probs[:, :1].isnan() | rows.teacher_probs[:, :1].isnan()
    return values.clamp(0.0, largest).masked_fill_(broken, math.nan)
