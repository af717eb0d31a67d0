"""What a converted model says of given tokens: what is compared with the live one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ctranslate2 import DataType, Device

from seqdistill.core.batches import padded_batches
from seqdistill.core.errors import EngineError
from seqdistill.generation.conversion import ConvertedModel, as_engine_error
from seqdistill.generation.model_facts import ModelFacts
from seqdistill.generation.scoring import IdPair, Prediction, predictions_of

# Logits of sentences that are compared together: 2 ** 26 fp32 values are 256 MiB.
_MAX_LOGITS = 2**26


def converted_predictions(
    workers: Any, converted: ConvertedModel, pairs: Sequence[IdPair], facts: ModelFacts
) -> list[list[Prediction]]:
    """What the model says at every target token of `pairs`, one list a pair.

    Tokens are forced on the decoder one after another through its cache of keys and values, so that
    a wrong cache shows as a wrong layer does. Raises EngineError where CTranslate2 fails or reads
    other tokens than it is given.
    """
    with as_engine_error("this model"):
        if facts.kind == "causal":
            return [predictions_of(_continued(workers, converted, p), p[1]) for p in pairs]
        found: list[list[Prediction]] = [[] for _ in pairs]
        lengths = [len(target) for _, target in pairs]
        for batch in padded_batches(lengths, batch_tokens=_MAX_LOGITS // facts.vocab_size):
            rows = _translated(workers, converted, [pairs[i] for i in batch], facts.prefix_ids)
            for index, row in zip(batch, rows, strict=True):
                found[index] = row
        return found


def _translated(
    workers: Any,
    converted: ConvertedModel,
    pairs: Sequence[IdPair],
    prefix_ids: tuple[int, ...],
) -> list[list[Prediction]]:
    """What an encoder-decoder says at each target token, its prefix given."""
    skipped = len(prefix_ids)
    results = workers.translate_batch(
        [converted.strings([*source]) for source, _ in pairs],
        target_prefix=[converted.strings([*prefix_ids, *target[:-1]]) for _, target in pairs],
        beam_size=1,
        max_input_length=0,
        max_decoding_length=skipped + max(len(target) for _, target in pairs),
        end_token=[],
        return_logits_vocab=True,
    )
    rows = []
    for (_, target), result in zip(pairs, results, strict=True):
        read = converted.ids(result.hypotheses[0][skipped : skipped + len(target) - 1])
        # The strings must come back as the ids they were made from.
        if read != tuple(target[:-1]):
            raise EngineError(
                "The converted model must read the tokens it is given, but it read others: "
                "the vocabulary does not fit"
            )
        steps = result.logits[0][skipped : skipped + len(target)]
        rows.append(predictions_of(_stacked(steps), target))
    return rows


def _continued(workers: Any, converted: ConvertedModel, pair: IdPair) -> torch.Tensor:
    """Logits at each target token of a decoder-only model that reads the prompt, then writes."""
    prompt, target = pair
    results = workers.generate_batch(
        [converted.strings([prompt[-1], *target[:-1]])],
        static_prompt=converted.strings([*prompt[:-1]]) or None,
        cache_static_prompt=False,
        beam_size=1,
        max_length=len(target),
        end_token=[],
        return_logits_vocab=True,
    )
    return _stacked(results[0].logits[0][: len(target)])


def _stacked(steps: Sequence[Any]) -> torch.Tensor:
    rows = [np.array(step.to_device(Device.cpu).to(DataType.float32)) for step in steps]
    return torch.from_numpy(np.stack(rows))
