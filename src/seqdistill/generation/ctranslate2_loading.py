"""Loads a live model into CTranslate2 and proves that it is the same model, whole or in passing.

Decodes nothing: `ctranslate2_engine` does, with the workers that are made here.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import ctranslate2
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdistill.core.batch import Kind
from seqdistill.core.errors import EngineError
from seqdistill.generation.conversion import (
    ConvertedModel,
    as_engine_error,
    convert,
    detached_cpu_copy,
    with_weights_of,
)
from seqdistill.generation.ctranslate2_predictions import predictions
from seqdistill.generation.model_facts import ModelFacts, facts_of
from seqdistill.generation.scoring import IdPair, token_predictions
from seqdistill.generation.verification import (
    NO_LONGER,
    NUM_SHORT,
    Agreement,
    Reach,
    long_pairs,
    positions_taken,
    require_agreement,
    short_pairs,
)
from seqdistill.models.loading import check_finite
from seqdistill.models.modalities import modality_of

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class VerifiedModel:
    """A converted and verified model with its workers."""

    facts: ModelFacts
    converted: ConvertedModel
    workers: Any
    agreement: Agreement
    """How far the converted model lay from the live one when its weights were last taken."""
    longest: int
    """Positions that the longest sequence took on which the two were compared."""
    refreshes: int = 0


@dataclasses.dataclass(frozen=True)
class ModelLoader:
    """Makes CTranslate2 models of the live one, with one tokenizer and one arithmetic."""

    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    compute_type: str
    threads: int
    device: torch.device
    verify_on: Sequence[IdPair] = ()
    reach: Reach = NO_LONGER
    sentences: int = NUM_SHORT

    def load(self, model: PreTrainedModel) -> VerifiedModel:
        """Converts `model` and compares it on every pair, in float32 first.

        Raises EngineError when it cannot be converted or the two disagree, and ModelError for
        weights that are no numbers.
        """
        if not modality_of(model).reads_text:
            raise EngineError(
                "CTranslate2 must be given models that read token ids, but "
                f"{type(model).__name__} reads {model.main_input_name}"
            )
        check_finite(model)
        facts = facts_of(model, self.tokenizer, kind=self.kind)
        disposable = detached_cpu_copy(model)
        short = short_pairs(self.verify_on, facts, count=self.sentences)
        pairs = [*short, *long_pairs(short, facts, disposable.config, self.reach)]
        live = token_predictions(disposable, pairs, facts=facts)
        exact, converted = convert(
            disposable, self.tokenizer, facts, compute_type=self.compute_type
        )
        del disposable
        if exact is not converted:
            checked = self.workers(exact, 1, "float32")
            require_agreement(
                live, predictions(checked, exact, pairs, facts), compute_type="float32"
            )
        workers = self.workers(converted, self.threads, self.compute_type)
        agreement = require_agreement(
            live,
            predictions(workers, converted, pairs, facts),
            compute_type=self.compute_type,
        )
        longest = max(positions_taken(pair, facts) for pair in pairs)
        _log.info(
            "CTranslate2 %s model verified on %d tokens, up to position %d: at most %.2g nats from "
            "the live one",
            self.compute_type,
            agreement.num_tokens,
            longest,
            agreement.max_nats,
        )
        return VerifiedModel(facts, converted, workers, agreement, longest)

    def refreshed(self, model: PreTrainedModel, earlier: VerifiedModel) -> VerifiedModel:
        """`earlier` with the weights that `model` has now, compared on one sentence.

        Raises EngineError when the two disagree.
        """
        facts = facts_of(model, self.tokenizer, kind=self.kind)
        if facts != earlier.facts:
            return self.load(model)
        disposable = detached_cpu_copy(model)
        pairs = short_pairs(self.verify_on, facts)
        pair = pairs[earlier.refreshes % len(pairs)]
        live = token_predictions(disposable, [pair], facts=facts)
        converted = with_weights_of(
            disposable,
            self.tokenizer,
            facts,
            compute_type=self.compute_type,
            converted=earlier.converted,
        )
        workers = self.workers(converted, self.threads, self.compute_type)
        agreement = require_agreement(
            live,
            predictions(workers, converted, [pair], facts),
            compute_type=self.compute_type,
        )
        _log.debug("refreshed weights are at most %.2g nats from the live", agreement.max_nats)
        return dataclasses.replace(
            earlier,
            converted=converted,
            workers=workers,
            agreement=agreement,
            refreshes=earlier.refreshes + 1,
        )

    def workers(self, converted: ConvertedModel, count: int, compute_type: str) -> Any:
        """A pool of `count` workers, on CPUs of one thread each. Raises EngineError as CTranslate2
        does."""
        engine = ctranslate2.Translator if self.kind == "seq2seq" else ctranslate2.Generator
        with as_engine_error("this model"):
            return engine(
                "in memory",
                device=self.device.type,
                device_index=self.device.index or 0,
                compute_type=compute_type,
                inter_threads=count,
                intra_threads=1,
                max_queued_batches=-1,
                files=converted.files,
            )
