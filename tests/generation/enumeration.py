"""Every sequence over a tiny vocabulary with its probability, and a test of samples against it.

The oracle knows no cache, no padding and no sampler: one plain forward pass a prefix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from scipy.stats import chi2

from seqdistill.core.completions import Completions

Next = Callable[[list[int]], torch.Tensor]
"""A prefix -> log-probabilities of its next token."""


def every_sequence(next_log_probs: Next, *, end: int, longest: int) -> dict[tuple[int, ...], float]:
    """The probability of every sequence that can be written: ended by `end`, or cut."""
    growing: dict[tuple[int, ...], float] = {(): 0.0}
    done: dict[tuple[int, ...], float] = {}
    for _ in range(longest):
        longer: dict[tuple[int, ...], float] = {}
        for written, log_prob in growing.items():
            for token, step in enumerate(next_log_probs([*written]).double().tolist()):
                if step > -math.inf:
                    (done if token == end else longer)[(*written, token)] = log_prob + step
        growing = longer
    probs = {written: math.exp(log_prob) for written, log_prob in (done | growing).items()}
    assert abs(sum(probs.values()) - 1.0) < 1e-5
    return probs


def require_same_distribution(
    samples: Sequence[tuple[int, ...]],
    probs: dict[tuple[int, ...], float],
    *,
    least_degrees: int = 8,
) -> None:
    """Pearson's chi-square; sequences expected fewer than 5 times share a cell."""
    counts = dict.fromkeys(probs, 0)
    for sample in samples:
        assert sample in counts, f"{sample} cannot be written"
        counts[sample] += 1
    n = len(samples)
    cells = [(counts[key], prob * n) for key, prob in probs.items() if prob * n >= 5]
    rest = (n - sum(count for count, _ in cells), n - sum(expected for _, expected in cells))
    if rest[1] > 1e-6 * n:
        cells.append(rest)
    statistic = sum((count - expected) ** 2 / expected for count, expected in cells)
    degrees = len(cells) - 1
    assert degrees >= least_degrees, "the test would see too little"
    assert chi2.sf(statistic, degrees) > 1e-3, "samples are from another distribution"


class Sample(NamedTuple):
    """One completion as Python numbers."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...] | None
    finished: bool


def listed(found: Completions) -> list[Sample]:
    """A sampler's completions one by one."""
    rows, finished = found.rows(), found.finished.tolist()
    if found.log_probs is None:
        return [Sample(row, None, end) for row, end in zip(rows, finished, strict=True)]
    nats = [tuple(n[: len(row)]) for n, row in zip(found.log_probs.tolist(), rows, strict=True)]
    return [Sample(*one) for one in zip(rows, nats, finished, strict=True)]
