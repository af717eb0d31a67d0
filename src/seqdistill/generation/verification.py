"""Compares a converted model with the live one, and refuses it beyond a limit.

A wrong conversion still translates plausibly, so only numbers can tell. Knows no engine's classes:
it receives what both sides say of the same tokens, which are those of `verified_pairs`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from seqdistill.core.errors import EngineError, ModelError
from seqdistill.generation.scoring import Prediction


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
    "int8_float32": Tolerance(mean_nats=0.1, max_nats=2.0),
    "int8_float16": Tolerance(mean_nats=0.1, max_nats=2.0),
    "int8_bfloat16": Tolerance(mean_nats=0.15, max_nats=2.5),
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

    num_tokens: int
    argmax_share: float
    """Positions at which both hold the same token for the likeliest, in [0, 1]."""
    mean_nats: float
    max_nats: float

    @property
    def sentence(self) -> str:
        """As it is shown on the screen."""
        return (
            f"{self.argmax_share:.1%} of {self.num_tokens:,} positions have the same likeliest "
            f"token; log-probabilities {self.mean_nats:.2g} nats apart on average, "
            f"{self.max_nats:.2g} at most"
        )


def require_agreement(
    live: Sequence[Sequence[Prediction]],
    converted: Sequence[Sequence[Prediction]],
    *,
    compute_type: str,
) -> Agreement:
    """How far the converted model lies from the live one.

    At each position the larger of two differences counts: of the log-probability of the token that
    is there, and of the likeliest token's, so that other choices than the live model's are seen.

    Raises EngineError beyond `TOLERANCES[compute_type]`, naming the difference, and ModelError
    where the live model itself says no numbers.
    """
    both = [
        positions
        for live_row, converted_row in zip(live, converted, strict=True)
        for positions in zip(live_row, converted_row, strict=True)
    ]
    if any(math.isnan(ours.log_prob) for ours, _ in both):
        raise ModelError(
            "The model must give every token a probability, but some of them are NaN; its weights "
            "are damaged or its training diverged"
        )
    differences = [_nats_apart(ours, theirs) for ours, theirs in both]
    found = Agreement(
        num_tokens=len(differences),
        argmax_share=sum(ours.best_id == theirs.best_id for ours, theirs in both) / len(both),
        mean_nats=sum(differences) / len(differences),
        max_nats=max(differences),
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


def _nats_apart(ours: Prediction, theirs: Prediction) -> float:
    """NaN where either side says one, which `max` alone would forget."""
    of_token = abs(ours.log_prob - theirs.log_prob)
    of_best = abs(ours.best_log_prob - theirs.best_log_prob)
    return math.nan if math.isnan(of_token + of_best) else max(of_token, of_best)
