"""From a recipe's decoding sections to engines and their settings."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from transformers import PreTrainedModel

from seqdistill.core.errors import EngineError, with_hint
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.generation.decoding import Decoding, SequenceGenerator
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.generation.verification import reach_of
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.sequences_schema import DecodingSection

_LOG = logging.getLogger(__name__)
_NUM_OFFERED = 64
"""Of these, those that fit the model are taken until there are enough."""
Made = TypeVar("Made")

TRANSFORMERS = "transformers float32"
"""What `engine_name` says of the transformers engine."""


def build_decoding(section: DecodingSection) -> Decoding:
    """The settings of one generation."""
    names = [field.name for field in dataclasses.fields(Decoding)]
    return Decoding(**{name: getattr(section, name) for name in names})


def verification_pairs(
    examples: Sequence[EncodedExample],
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The first examples with targets: a converted model is compared on a few of them."""
    first = EncodedDataset.of(examples).answered(_NUM_OFFERED)
    return [(example.source_ids, example.target_ids) for example in first]


def engine_name(generator: SequenceGenerator) -> str:
    """The program that decodes and its arithmetic, such as "ctranslate2 int8"."""
    if isinstance(generator, CTranslate2Generator):
        return f"ctranslate2 {generator.compute_type}"
    return TRANSFORMERS


def may_fall_back(engine: str, compute_type: str = "float32") -> bool:
    """Whether transformers takes over where CTranslate2 cannot run a model.

    Not where another arithmetic was asked for, which transformers would not keep.
    """
    return engine == "auto" and compute_type == "float32"


def remedy_of(engine_key: str, compute_type: str = "float32") -> str:
    """What to do about a model that CTranslate2 cannot run; `engine_key` chose it."""
    without = "" if compute_type == "float32" else f" without compute_type {compute_type}"
    return f"use {engine_key}=transformers{without}"


def made_by_ctranslate2(
    make: Callable[[], Made], *, engine: str, engine_key: str, compute_type: str = "float32"
) -> Made | None:
    """What `make` makes of CTranslate2; None where transformers is to take its place.

    So it is where `engine` says so, and for `auto`, with a line of the log that says why, where
    CTranslate2 cannot run the model. Else that raises EngineError, which names `engine_key`.
    """
    if engine == "transformers":
        return None
    try:
        with with_hint(remedy_of(engine_key, compute_type)):
            return make()
    except EngineError as error:
        if not may_fall_back(engine, compute_type):
            raise
        _LOG.warning("%s: auto takes transformers, which is slower. %s", engine_key, error.problem)
        return None


def build_generator(
    pair: LoadedModel,
    *,
    engine: str,
    engine_key: str,
    compute_type: str,
    threads: int | None,
    examples: Sequence[EncodedExample],
    max_new_tokens: int,
    vocab_size: int | None = None,
) -> SequenceGenerator:
    """An engine with the model's present weights, for ids below `vocab_size`; None means all.

    `examples` are what it is to decode: a conversion is compared with the model on the first of
    them and at the length of the longest with `max_new_tokens` beside it. `auto` is CTranslate2
    where that agrees, else transformers, said in one line of the log.

    `engine_key` is the setting that chose the engine. Raises EngineError, which names it, for a
    model that CTranslate2 cannot run.
    """
    fast = made_by_ctranslate2(
        lambda: CTranslate2Generator(
            pair.model,
            pair.tokenizer,
            kind=pair.kind,
            compute_type=compute_type,
            threads=threads,
            verify_on=verification_pairs(examples),
            reach=reach_of(examples, max_new_tokens),
            vocab_size=vocab_size,
        ),
        engine=engine,
        engine_key=engine_key,
        compute_type=compute_type,
    )
    return fast or TransformersGenerator(
        pair.model, pair.tokenizer, kind=pair.kind, vocab_size=vocab_size
    )


def generator_factory(
    pair: LoadedModel,
    *,
    engine: str,
    engine_key: str,
    compute_type: str,
    threads: int | None,
    examples: Sequence[EncodedExample],
    max_new_tokens: int,
) -> Callable[[PreTrainedModel], SequenceGenerator]:
    """Makes, again and again while the student trains, a generator with its present weights.

    Where `auto` has once taken transformers it stays.
    """
    wanted = engine

    def make(model: PreTrainedModel) -> SequenceGenerator:
        nonlocal wanted
        generator = build_generator(
            LoadedModel(model, pair.tokenizer, pair.name),
            engine=wanted,
            engine_key=engine_key,
            compute_type=compute_type,
            threads=threads,
            examples=examples,
            max_new_tokens=max_new_tokens,
        )
        wanted = "transformers" if engine_name(generator) == TRANSFORMERS else wanted
        return generator

    return make
