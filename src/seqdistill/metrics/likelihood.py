"""What a model's own probabilities say: perplexity and the mass of its best hypothesis.

Plain numbers in, plain numbers out. Does not run models: the log-probabilities come from scoring.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from seqdistill.metrics.score import SummedStatistics, mean_statistics


def perplexity(total_nats: float, num_targets: int) -> float:
    """exp(negative log-likelihood in nats / number of scored tokens): 1 is certainty.

    End-of-sequence tokens count, as they must be predicted too. Perplexities of models with
    different vocabularies do not compare: their tokens are not the same pieces of text. Infinite
    where some target has probability zero, or where the mean is beyond what a float can hold.

    Raises ValueError when nothing was scored.
    """
    if num_targets < 1:
        raise ValueError(f"perplexity needs at least one scored token, got {num_targets}")
    try:
        return math.exp(total_nats / num_targets)
    except OverflowError:
        return math.inf


def perplexity_statistics(nats: Sequence[float], num_targets: Sequence[int]) -> SummedStatistics:
    """Rows of (nats, scored tokens), one per segment, for intervals and paired tests."""
    if len(nats) != len(num_targets) or not nats:
        raise ValueError(
            "every segment needs its nats and its number of tokens, "
            f"got {len(nats)} and {len(num_targets)}"
        )
    rows = np.column_stack([nats, num_targets]).astype(np.float64)

    def score_of_sums(sums: Float[np.ndarray, " statistics"]) -> float:
        return perplexity(float(sums[0]), int(sums[1]))

    return SummedStatistics("perplexity", "exp(nats/token)|eos:scored", rows, score_of_sums)


def mode_share_statistics(log_probs: Sequence[float]) -> SummedStatistics:
    """Rows of (p(y_hat | x), 1): the mean mass, in [0, 1], a model gives its own best output.

    `log_probs` are log p of each sentence's best hypothesis (beam search's), end of sequence
    included, in nats, not divided by length. High for models whose distribution is peaked: Kim
    and Rush explain with it why students of Seq-KD lose so little without beam search.

    Raises ValueError for no sentences, and for a log-probability above zero by more than the
    rounding of float32 sums: it was normalized, or is a score.

    Source: Kim and Rush 2016, sec. 5 and table 1, column p(t = y_hat).
    """
    if not log_probs:
        raise ValueError("mode share needs at least one sentence, got none")
    values = np.asarray(log_probs, dtype=np.float64)
    if np.isnan(values).any() or float(values.max()) > 1e-3:
        raise ValueError(
            f"log-probabilities must be numbers of at most 0, got {float(values.max())}; "
            "pass the sum of the tokens' log-probabilities, not a beam score"
        )
    shares = np.exp(np.minimum(values, 0.0))
    return mean_statistics("mode_share", "p(y_hat)|eos:scored", shares.tolist())


def mean_by_position(
    values: Sequence[Float[np.ndarray, " _"]],
) -> tuple[Float[np.ndarray, " positions"], Int[np.ndarray, " positions"]]:
    """Means over sequences of their first, second, third ... value, and how many have such a one.

    Fewer sequences reach later positions, and other ones: a change along the curve is one of
    sequences as well. Raises ValueError for no value at all.
    """
    lengths = np.asarray([len(sequence) for sequence in values], dtype=np.int64)
    if not lengths.any():
        raise ValueError("means by position need at least one value, got none")
    positions = np.concatenate([np.arange(length) for length in lengths])
    counts = np.bincount(positions)
    return np.bincount(positions, weights=np.concatenate(values)) / counts, counts
