"""How much a prompt helps a model to say an answer: the instruction-following difficulty (IFD)."""

from __future__ import annotations

from collections.abc import Sequence

from seqdistill.core.source import Source
from seqdistill.generation.model_facts import pair_facts, writing_below
from seqdistill.generation.scoring import token_log_probs
from seqdistill.models.loading import LoadedModel

_LEAST = 2.0**-24
"""Nats of a symbol: in fp32 a smaller surprise is none, and without a prompt L(y) may not be 0."""


def following_difficulty(
    pair: LoadedModel,
    prompts: Sequence[Source],
    answers: Sequence[Sequence[int]],
    *,
    vocab_size: int | None = None,
) -> list[float]:
    """L(y | x) / L(y) of every prompt x with its answer y: 1 where the prompt does not help.

    L is the mean nats of y's tokens; without a prompt the model reads its start token alone, or
    where it has none its end token, as an encoder does that is given nothing. Answers have a token
    at least; one that a model is wholly sure of counts 2^-24 nats a token, so that every ratio is
    finite, and 1 where the model is as sure without a prompt. Only ids below `vocab_size` count as
    symbols; None means all.

    Source: Li et al. 2024, "From Quantity to Quality", arXiv 2308.12032, eq. 3.
    """
    facts = writing_below(pair_facts(pair), vocab_size)
    start = pair.tokenizer.bos_token_id if pair.kind == "causal" else None
    nothing = (facts.end_id if start is None else int(start),)
    with_prompt, alone = (
        token_log_probs(pair.model, list(zip(given, answers, strict=True)), facts=facts)
        for given in (prompts, [nothing] * len(prompts))
    )
    return [_nats(one) / _nats(other) for one, other in zip(with_prompt, alone, strict=True)]


def _nats(log_probs: Sequence[float]) -> float:
    return max(-sum(log_probs), _LEAST * len(log_probs))
