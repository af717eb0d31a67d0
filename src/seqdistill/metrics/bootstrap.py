"""How sure a corpus score is, and whether one system is better: by resampling segments.

Works for any metric that is a function of summed per-segment statistics. A resample is a row of
counts, so all resamples are one matrix product.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from seqdistill.metrics.score import Score, SummedStatistics

# Resamples held at once: 256 rows x 2,000 segments x 8 bytes = 4 MB.
CHUNK = 256


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """A system set against a baseline on the same segments; differences in the metric's unit."""

    metric: str
    """Name of the metric."""
    test: str
    """Which test: `paired bootstrap` or `paired approximate randomization`."""
    delta: float
    """Score of the system minus score of the baseline."""
    p_value: float
    """How often chance alone shows such a difference; each test says how it counts."""
    num_samples: int
    """Resamples or trials drawn; p_value is never smaller than 1 / (num_samples + 1)."""


@dataclasses.dataclass(frozen=True)
class PairedBootstrap(PairedTest):
    """A paired bootstrap, which also says how large the difference may be."""

    low: float
    """Lower end of the percentile interval of the difference."""
    high: float
    """Upper end of the same."""
    confidence: float
    """Mass of that interval."""
    win_share: float
    """Share of resamples in which the system scores strictly higher."""


def resampled_sums(
    rows: Float[np.ndarray, "segments statistics"],
    *,
    num_resamples: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, "resamples statistics"]:
    """Summed statistics of corpora of the same size, their segments drawn with replacement.

    Source: Efron 1979; for BLEU, Koehn 2004, sec. 3.
    """
    num_segments = rows.shape[0]
    sums = np.empty((num_resamples, rows.shape[1]))
    for start in range(0, num_resamples, CHUNK):
        size = min(CHUNK, num_resamples - start)
        drawn = generator.integers(num_segments, size=(size, num_segments))
        # (size, segments) of indices -> (size, segments) of how often each segment was drawn
        drawn += num_segments * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * num_segments)
        sums[start : start + size] = counts.reshape(size, num_segments).astype(np.float64) @ rows
    return sums


def percentile_interval(
    values: Float[np.ndarray, " resamples"], *, confidence: float
) -> tuple[float, float]:
    """The (low, high) between which the middle `confidence` of the resampled values lie."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def with_interval(
    statistics: SummedStatistics,
    *,
    num_resamples: int,
    confidence: float,
    generator: np.random.Generator,
) -> Score:
    """The corpus score with its percentile bootstrap interval."""
    sums = resampled_sums(statistics.rows, num_resamples=num_resamples, generator=generator)
    low, high = percentile_interval(_scores(statistics, sums), confidence=confidence)
    return dataclasses.replace(statistics.score(), low=low, high=high, confidence=confidence)


def paired_bootstrap(
    system: SummedStatistics,
    baseline: SummedStatistics,
    *,
    num_resamples: int,
    confidence: float,
    generator: np.random.Generator,
) -> PairedBootstrap:
    """The difference in score, its percentile interval, and sacrebleu's paired-bootstrap p-value.

    Both systems are scored on the same resamples. With d the observed difference and d_i that of
    resample i, p = (1 + #{i: |d_i| - mean_j |d_j| >= |d|}) / (1 + resamples). This is sacrebleu's
    definition (and that of Moses). Koehn 2004 counts lost resamples instead: 1 - win_share. Where
    a difference is clear both are one-sided, about half the p of a two-sided test such as
    `paired_approximate_randomization`.

    Differs from sacrebleu in counting ties (>= where it has >): a system compared with itself has
    p = 1 here and 1 / (1 + resamples) there.

    Source: Koehn 2004, sec. 4; sacrebleu 2, significance.py.
    """
    _check_comparable(system, baseline)
    sums = resampled_sums(
        np.hstack([system.rows, baseline.rows]), num_resamples=num_resamples, generator=generator
    )
    width = system.rows.shape[1]
    differences = _scores(system, sums[:, :width]) - _scores(baseline, sums[:, width:])
    delta = system.score().value - baseline.score().value
    low, high = percentile_interval(differences, confidence=confidence)
    sizes = np.abs(differences)
    return PairedBootstrap(
        metric=system.name,
        test="paired bootstrap",
        delta=delta,
        p_value=_p_value(sizes - sizes.mean(), abs(delta)),
        num_samples=num_resamples,
        low=low,
        high=high,
        confidence=confidence,
        win_share=float(np.mean(differences > 0.0)),
    )


def paired_approximate_randomization(
    system: SummedStatistics,
    baseline: SummedStatistics,
    *,
    num_trials: int,
    generator: np.random.Generator,
) -> PairedTest:
    """The difference in score and the two-sided p-value of exchanging outputs between systems.

    Were the two systems the same, it would not matter who wrote which segment. Each trial swaps
    the outputs of every segment with probability 1/2; p = (1 + #{|d_i| >= |d|}) / (1 + trials).
    sacrebleu counts > instead of >=; see `paired_bootstrap`.

    Source: Noreen 1989; Riezler and Maxwell 2005, sec. 3.
    """
    _check_comparable(system, baseline)
    num_segments = system.rows.shape[0]
    system_sums, baseline_sums = system.rows.sum(axis=0), baseline.rows.sum(axis=0)
    exchange = baseline.rows - system.rows
    sizes: list[Float[np.ndarray, " trials"]] = []
    for start in range(0, num_trials, CHUNK):
        size = min(CHUNK, num_trials - start)
        swapped = generator.integers(2, size=(size, num_segments)).astype(np.float64)
        moved = swapped @ exchange  # (trials, statistics)
        sizes.append(
            np.abs(_scores(system, system_sums + moved) - _scores(baseline, baseline_sums - moved))
        )
    delta = system.score().value - baseline.score().value
    return PairedTest(
        metric=system.name,
        test="paired approximate randomization",
        delta=delta,
        p_value=_p_value(np.concatenate(sizes), abs(delta)),
        num_samples=num_trials,
    )


def _scores(
    statistics: SummedStatistics, sums: Float[np.ndarray, "resamples statistics"]
) -> Float[np.ndarray, " resamples"]:
    return np.asarray([statistics.score_of_sums(row) for row in sums], dtype=np.float64)


def _p_value(values: Float[np.ndarray, " samples"], observed: float) -> float:
    # + 1: the observed corpus is itself one of the equally likely ones (Noreen 1989).
    return (int(np.sum(values >= observed)) + 1) / (len(values) + 1)


def _check_comparable(system: SummedStatistics, baseline: SummedStatistics) -> None:
    if system.signature != baseline.signature or system.rows.shape != baseline.rows.shape:
        raise ValueError(
            "a paired test needs the same metric on the same segments for both systems, got "
            f"{system.rows.shape[0]} segments of {system.name} ({system.signature}) and "
            f"{baseline.rows.shape[0]} of {baseline.name} ({baseline.signature})"
        )
