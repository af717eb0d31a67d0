"""Compares a converted model with the live one, and refuses it beyond a limit.

A wrong conversion still translates plausibly, so only numbers can tell. Short real sentences find a
wrong scale or a wrong row. What depends on the length (attention windows, positions beyond those of
pretraining) shows at the lengths of the run alone, so one sequence is as long as they get, and
others cross each boundary that the configuration names.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

from seqdistill.core.errors import EngineError, ModelError
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.model_facts import ModelFacts
from seqdistill.generation.scoring import IdPair, Prediction

MAX_SHORT = 64
"""Tokens of a real sentence's source and target that are compared; the long ones are made up."""
NUM_SHORT = 8
"""Enough real sentences to notice a wrong conversion, few enough to cost nothing."""

# Tokens written at the end of a long prompt, through the engine's cache.
_NUM_AT_DEPTH = 8
# Logits of a long target: 2 ** 27 fp32 values are 512 MiB on each side.
_MAX_LOGITS = 2**27
# Where configurations say how far attention looks, or how far positions were learned.
_BOUNDARIES = ("sliding_window", "window_size", "original_max_position_embeddings")

Ids = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Reach:
    """How long the sequences of a run get, in tokens."""

    source: int = 0
    """The longest source; of decoder-only models the longest prompt."""
    new: int = 0
    """The longest output: max_new_tokens."""


NO_LONGER = Reach()
"""No longer than the sentences that are compared."""


def reach_of(examples: Sequence[EncodedExample], max_new_tokens: int) -> Reach:
    """The reach of a run that decodes the sources of these examples."""
    return Reach(int(EncodedDataset.of(examples).lengths.source.max(initial=0)), max_new_tokens)


def short_pairs(
    pairs: Sequence[IdPair], facts: ModelFacts, *, count: int = NUM_SHORT
) -> list[tuple[Ids, Ids]]:
    """The first `count` pairs that fit, cut to a few tokens, each target closed by the end token.

    Raises ModelError when nothing is left to compare.
    """
    limit = facts.max_positions
    fitted: list[tuple[Ids, Ids]] = []
    for source, target in pairs:
        if not source:
            continue
        body = target[:-1] if facts.is_finished(target) else target
        end = target[-1] if facts.is_finished(target) else facts.end_id
        cut = source if len(source) <= MAX_SHORT else (*source[: MAX_SHORT - 1], source[-1])
        whole = (tuple(cut), (*body[: MAX_SHORT - 1], end))
        if limit is None or positions_taken(whole, facts) <= limit:
            fitted.append(whole)
        if len(fitted) == count:
            break
    if not fitted:
        raise ModelError(
            "A converted model must be compared with the live one on at least one sentence pair "
            f"that fits its {limit} positions, got none among {len(pairs)}; give some as verify_on"
        )
    return fitted


def long_pairs(
    pairs: Sequence[tuple[Ids, Ids]], facts: ModelFacts, config: PreTrainedConfig, reach: Reach
) -> list[tuple[Ids, Ids]]:
    """Sequences as long as the run's, put together from `pairs`; none where they are as long.

    Of an encoder-decoder one pair of the longest source and the longest target. Of a decoder-only
    model prompts, each with a few tokens to write: one that ends where the run's longest output
    does, and one across every boundary before that.
    """
    limit = facts.max_positions
    if facts.kind == "seq2seq":
        fits = limit or max(reach.source, reach.new)
        source = min(reach.source, fits)
        target = min(reach.new, fits - len(facts.prefix_ids), _MAX_LOGITS // facts.vocab_size)
        longest = (max(len(s) for s, _ in pairs), max(len(t) for _, t in pairs))
        if source <= longest[0] and target <= longest[1]:
            return []
        source, target = max(source, longest[0]), max(target, longest[1])
        return [(_repeated([s for s, _ in pairs], source), _written(pairs, target))]
    whole = reach.source + reach.new
    whole = whole if limit is None else min(whole, limit)
    if whole <= max(positions_taken(pair, facts) for pair in pairs):
        return []
    ends = {whole, *(b + _NUM_AT_DEPTH // 2 for b in boundaries(config))}
    return [
        (_repeated([s for s, _ in pairs], end - _NUM_AT_DEPTH), _written(pairs, _NUM_AT_DEPTH))
        for end in sorted(ends)
        if _NUM_AT_DEPTH < end <= whole
    ]


def boundaries(config: PreTrainedConfig) -> set[int]:
    """Lengths at which the model begins to compute otherwise, as its configuration says."""
    text = config.get_text_config(decoder=True).to_dict()
    return {value for value in _lengths(text) if value > 0}


def _lengths(settings: Mapping[Any, object]) -> Iterator[int]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _lengths(value)
        elif name in _BOUNDARIES and isinstance(value, int):
            yield value


def positions_taken(pair: IdPair, facts: ModelFacts) -> int:
    """Positions that a pair takes."""
    source, target = pair
    if facts.kind == "seq2seq":
        return max(len(source), facts.length(target))
    return len(source) + len(target)


def _repeated(rows: Sequence[Ids], length: int) -> Ids:
    """The rows one after another and again, begun as the first and ended as the last is."""
    endless = itertools.chain.from_iterable(itertools.cycle(rows))
    ids = tuple(itertools.islice(endless, length))
    return (*ids[:-1], rows[0][-1])


def _written(pairs: Sequence[tuple[Ids, Ids]], length: int) -> Ids:
    """Targets without their ends one after another and again; they end with the end token."""
    bodies = [target[:-1] for _, target in pairs if len(target) > 1]
    end = pairs[0][1][-1:]
    return (*(_repeated(bodies, length)[:-1] if bodies else end * (length - 1)), *end)


TOLERANCES = {
    "float32": (1e-3, 1e-3),
    "float16": (0.02, 0.5),
    "bfloat16": (0.05, 1.0),
    "int8": (0.1, 2.0),
    "int8_float32": (0.1, 2.0),
    "int8_float16": (0.1, 2.0),
    "int8_bfloat16": (0.15, 2.5),
}
"""How far log-probabilities of single tokens may lie apart, on average and at most, in nats, by
compute type.

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
    mean_limit, limit = TOLERANCES[compute_type]
    # Written so that a NaN on either side is refused.
    if not (found.mean_nats <= mean_limit and found.max_nats <= limit):
        raise EngineError(
            f"The converted model must give every token the live model's log-probability within "
            f"{limit} nats ({mean_limit} on average) at compute_type {compute_type}; "
            f"over {found.num_tokens} tokens it is off by up to {found.max_nats:.3g} "
            f"({found.mean_nats:.3g} on average)"
        )
    return found


def _nats_apart(ours: Prediction, theirs: Prediction) -> float:
    """NaN where either side says one, which `max` alone would forget."""
    of_token = abs(ours.log_prob - theirs.log_prob)
    of_best = abs(ours.best_log_prob - theirs.best_log_prob)
    return math.nan if math.isnan(of_token + of_best) else max(of_token, of_best)
