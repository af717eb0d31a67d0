"""Every sequence over a tiny vocabulary with its probability, and a test of samples against it.

The oracle knows no cache, no padding and no sampler: one plain forward pass a prefix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from scipy.stats import chi2

from seqdistill.core.completions import Completions
from seqdistill.recipe.sequences_schema import Decoding

from .families import END, Tiny

Next = Callable[[list[int]], torch.Tensor]
"""A prefix -> log-probabilities of its next token."""


def plain_log_probs(tiny: Tiny, source: list[int], written: list[int]) -> torch.Tensor:
    """log p(. | source, written) of one unpadded forward pass, dropout off."""
    with torch.no_grad():
        if tiny.kind == "seq2seq":
            read = torch.tensor([[tiny.model.config.decoder_start_token_id, *written]])
            logits = tiny.model(input_ids=torch.tensor([source]), decoder_input_ids=read).logits
        else:
            logits = tiny.model(input_ids=torch.tensor([source + written])).logits
    last: torch.Tensor = logits[0, -1].double()
    if tiny.model.config.pad_token_id == last.numel() - 1:
        last[-1] = -torch.inf  # marian-mute-pad: its last symbol is no output
    return last.log_softmax(-1)


def cut(log_probs: torch.Tensor, decoding: Decoding) -> torch.Tensor:
    """The log-probabilities at the temperature, top_k and top_p of `decoding`."""
    log_probs = (log_probs / decoding.sampling_temperature).log_softmax(-1)
    ordered = log_probs.sort(descending=True)
    before = ordered.values.exp().cumsum(0) - ordered.values.exp()
    kept = before < decoding.top_p - 1e-12
    if decoding.top_k:
        kept[decoding.top_k :] = False
    out = torch.full_like(log_probs, -torch.inf)
    out[ordered.indices[kept]] = log_probs[ordered.indices[kept]]
    return out.log_softmax(-1)


def greedy(tiny: Tiny, source: list[int], longest: int, *, size: int | None = None) -> list[int]:
    """The likeliest ids below `size`, one forward pass a token."""
    written: list[int] = []
    while len(written) < longest and written[-1:] != [END]:
        written.append(int(plain_log_probs(tiny, source, written)[:size].argmax()))
    return written


def probabilities(
    tiny: Tiny, source: list[int], *, longest: int = 3, temperature: float = 1.0, size: int = 5
) -> dict[tuple[int, ...], float]:
    """Of every sequence of up to so many ids below `size` under the softmax over these."""

    def next_log_probs(written: list[int]) -> torch.Tensor:
        return (plain_log_probs(tiny, source, written)[:size] / temperature).log_softmax(-1)

    return every_sequence(next_log_probs, longest=longest)


def every_sequence(next_log_probs: Next, *, longest: int) -> dict[tuple[int, ...], float]:
    """The probability of every sequence that can be written: ended by `END`, or cut."""
    growing: dict[tuple[int, ...], float] = {(): 0.0}
    done: dict[tuple[int, ...], float] = {}
    for _ in range(longest):
        longer: dict[tuple[int, ...], float] = {}
        for written, log_prob in growing.items():
            for token, step in enumerate(next_log_probs([*written]).double().tolist()):
                if step > -math.inf:
                    (done if token == END else longer)[(*written, token)] = log_prob + step
        growing = longer
    probs = {written: math.exp(log_prob) for written, log_prob in (done | growing).items()}
    assert abs(sum(probs.values()) - 1.0) < 1e-5
    return probs


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


def tokens(samples: Sequence[Sample]) -> list[tuple[int, ...]]:
    return [sample.token_ids for sample in samples]


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


def require_drawn_from(
    samples: Sequence[Sample],
    probs: dict[tuple[int, ...], float],
    *,
    least_degrees: int = 8,
    told: bool = True,
) -> None:
    """Samples follow these probabilities and, where `told`, their log-probabilities say so."""
    require_same_distribution(tokens(samples), probs, least_degrees=least_degrees)
    for sample in samples[:50] if told else []:
        assert sample.log_probs is not None
        found = math.exp(sum(sample.log_probs))
        assert found == pytest.approx(probs[sample.token_ids], rel=1e-3)
