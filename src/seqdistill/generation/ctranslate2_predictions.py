"""What a CTranslate2 model says of given tokens, as its decoding computes it.

Tokens are forced on the decoder one after another through its cache of keys and values, so that a
wrong cache shows as a wrong layer does. Judges nothing: `verification` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ctranslate2 import DataType

from seqdistill.core.errors import EngineError
from seqdistill.generation.conversion import ConvertedModel, as_engine_error
from seqdistill.generation.model_facts import ModelFacts
from seqdistill.generation.scoring import IdPair, Prediction, predictions_of


def predictions(
    workers: Any,
    converted: ConvertedModel,
    short: Sequence[IdPair],
    long: Sequence[IdPair],
    facts: ModelFacts,
) -> list[list[Prediction]]:
    """What the model says at every target token of `short` and then `long`, one list a pair.

    Raises EngineError where CTranslate2 fails or reads other tokens than it is given.
    """
    with as_engine_error("this model"):
        if facts.kind == "seq2seq":
            rows = _translated(workers, converted, short, facts)
            rows += _translated(workers, converted, long, facts) if long else []
        else:
            rows = [_scored(workers, pair) for pair in short]
            rows += [_continued(workers, converted, pair) for pair in long]
    return [
        predictions_of(logits, target)
        for logits, (_, target) in zip(rows, [*short, *long], strict=True)
    ]


def _translated(
    workers: Any, converted: ConvertedModel, pairs: Sequence[IdPair], facts: ModelFacts
) -> list[torch.Tensor]:
    """Logits at each target token of an encoder-decoder."""
    results = workers.translate_batch(
        [converted.strings([*source]) for source, _ in pairs],
        target_prefix=[converted.strings([*target[:-1]]) for _, target in pairs],
        beam_size=1,
        max_input_length=0,
        max_decoding_length=max(len(target) for _, target in pairs),
        end_token=[],
        return_logits_vocab=True,
    )
    rows = []
    for (_, target), result in zip(pairs, results, strict=True):
        read = converted.ids(result.hypotheses[0][: len(target) - 1])
        # The strings must come back as the ids they were made from.
        if read != tuple(target[:-1]):
            raise EngineError(
                "The converted model must read the tokens it is given, but it read others: "
                "the vocabulary does not fit"
            )
        rows.append(_stacked(result.logits[0][: len(target)]))
    return rows


def _scored(workers: Any, pair: IdPair) -> torch.Tensor:
    """Logits at each target token of a decoder-only model that reads all at once."""
    source, target = pair
    view = workers.forward_batch([[*source, *target[:-1]]])
    return torch.from_numpy(np.array(view.to(DataType.float32)))[0, len(source) - 1 :]


def _continued(workers: Any, converted: ConvertedModel, pair: IdPair) -> torch.Tensor:
    """Logits at each target token of a decoder-only model that reads the prompt, then writes."""
    prompt, target = pair
    results = workers.generate_batch(
        [converted.strings([prompt[-1], *target[:-1]])],
        static_prompt=converted.strings([*prompt[:-1]]),
        cache_static_prompt=False,
        beam_size=1,
        max_length=len(target),
        end_token=[],
        return_logits_vocab=True,
    )
    return _stacked(results[0].logits[0][: len(target)])


def _stacked(steps: Sequence[Any]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.array(step.to(DataType.float32)) for step in steps]))
