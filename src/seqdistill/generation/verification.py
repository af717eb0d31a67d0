"""Compares a converted model with the live one on real sentences, and refuses it beyond a limit.

A wrong conversion still translates plausibly, so only numbers can tell. Knows no engine's classes:
it receives the log-probabilities that both sides give to the same tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from seqdistill.core.errors import EngineError, ModelError
from seqdistill.generation.model_facts import ModelFacts
from seqdistill.generation.scoring import IdPair


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How far log-probabilities of single tokens may lie apart, in nats."""

    mean_nats: float
    max_nats: float


TOLERANCES = {
    "float32": Tolerance(mean_nats=1e-3, max_nats=1e-3),
    "float16": Tolerance(mean_nats=0.02, max_nats=0.5),
    "bfloat16": Tolerance(mean_nats=0.05, max_nats=1.0),
    "int8": Tolerance(mean_nats=0.1, max_nats=2.0),
}
"""Limits by compute type.

Measured on a trained 11 M-parameter mBART over 7,787 tokens of real sentences: float32 1.8e-6 on
average and 1.3e-5 at most, int8 0.015 and 0.12. A wrong conversion can be as close as rounding to
int8 (a Marian model whose pad row has moved, by CTranslate2's own loader: 0.04 and 0.1), so every
conversion is held to float32's limit first.
"""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far the two lay apart, over `num_tokens` tokens."""

    mean_nats: float
    max_nats: float
    num_tokens: int


def scored_pairs(pairs: Sequence[IdPair], facts: ModelFacts) -> list[tuple[list[int], list[int]]]:
    """The pairs as both sides score them: each target ends with an end token, none is too long.

    An encoder-decoder's with the first of them, which CTranslate2 adds to what it scores.

    Raises ModelError when nothing is left to compare.
    """
    limit = facts.max_positions
    fitted: list[tuple[list[int], list[int]]] = []
    for source, target in pairs:
        finished, causal = facts.is_finished(target), facts.kind == "causal"
        end = target[-1] if finished and causal else facts.end_id
        whole = ([*source], [*(target[:-1] if finished else target), end])
        taken = sum(map(len, whole)) if causal else max(len(whole[0]), facts.length(whole[1]))
        if source and (limit is None or taken <= limit):
            fitted.append(whole)
    if not fitted:
        raise ModelError(
            "A converted model must be compared with the live one on at least one sentence pair "
            f"that fits its {limit} positions, got none among {len(pairs)}; give some as verify_on"
        )
    return fitted


def require_agreement(
    live: Sequence[Sequence[float]],
    converted: Sequence[Sequence[float]],
    *,
    compute_type: str,
) -> Agreement:
    """How far the converted model lies from the live one.

    Raises EngineError beyond `TOLERANCES[compute_type]`, naming the difference.
    """
    differences = [
        abs(a - b)
        for live_row, converted_row in zip(live, converted, strict=True)
        for a, b in zip(live_row, converted_row, strict=True)
    ]
    found = Agreement(
        mean_nats=sum(differences) / len(differences),
        max_nats=max(differences),
        num_tokens=len(differences),
    )
    limit = TOLERANCES[compute_type]
    # Written so that a NaN on either side is refused.
    if not (found.mean_nats <= limit.mean_nats and found.max_nats <= limit.max_nats):
        raise EngineError(
            f"The converted model must give every token the live model's log-probability within "
            f"{limit.max_nats} nats ({limit.mean_nats} on average) at compute_type {compute_type}; "
            f"over {found.num_tokens} tokens it is off by up to {found.max_nats:.3g} "
            f"({found.mean_nats:.3g} on average)"
        )
    return found
