"""What a CTranslate2 model says of given tokens, as its decoding computes it.

Tokens are forced on the decoder one after another through its cache of keys and values, so that a
wrong cache shows as a wrong layer does. Judges nothing: `verification` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ctranslate2 import DataType, Device

from seqdistill.core.errors import EngineError
from seqdistill.generation.conversion import ConvertedModel, as_engine_error
from seqdistill.generation.model_facts import ModelFacts
from seqdistill.generation.scoring import IdPair, Prediction, predictions_of
from seqdistill.generation.verification import MAX_SHORT

# Logits of sentences that are compared together: 2 ** 26 fp32 values are 256 MiB.
_MAX_LOGITS = 2**26


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
            size = max(1, _MAX_LOGITS // (facts.vocab_size * MAX_SHORT))
            batches = [short[i : i + size] for i in range(0, len(short), size)]
            batches += [[pair] for pair in long]
            return [
                row
                for batch in batches
                for row in _translated(workers, converted, batch, facts.prefix_ids)
            ]
        return [
            *(predictions_of(_scored(workers, pair), pair[1]) for pair in short),
            *(predictions_of(_continued(workers, converted, pair), pair[1]) for pair in long),
        ]


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


def _scored(workers: Any, pair: IdPair) -> torch.Tensor:
    """Logits at each target token of a decoder-only model that reads all at once."""
    source, target = pair
    view = workers.forward_batch([[*source, *target[:-1]]])
    return torch.from_numpy(_array(view))[0, len(source) - 1 :]


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
    return torch.from_numpy(np.stack([_array(step) for step in steps]))


def _array(view: Any) -> npt.NDArray[np.float32]:
    return np.array(view.to_device(Device.cpu).to(DataType.float32))
