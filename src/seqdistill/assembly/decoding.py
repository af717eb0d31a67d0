"""From a recipe's decoding sections to engines and their settings."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from seqdistill.core.errors import EngineError, with_hint
from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.generation.decoding import SequenceGenerator
from seqdistill.generation.scoring import IdPair
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.generation.verification import Reach, reach_of
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.schema import Recipe

_LOG = logging.getLogger(__name__)
_NUM_OFFERED = 64
"""Of these, those that fit the model are taken until there are enough."""

TRANSFORMERS = "transformers float32"
"""What `engine_name` says of the transformers engine."""


@dataclasses.dataclass(frozen=True)
class EngineChoice:
    """The engine that was asked for, and the setting that asked: errors name it."""

    name: str
    """`ctranslate2`, `transformers`, or `auto`: CTranslate2 where it computes the same."""
    key: str
    compute_type: str = "float32"
    threads: int | None = None

    @property
    def may_fall_back(self) -> bool:
        """Whether transformers takes over where CTranslate2 cannot run a model.

        Not where another arithmetic was asked for, which transformers would not keep.
        """
        return self.name == "auto" and self.compute_type == "float32"

    @property
    def remedy(self) -> str:
        """What to do about a model that CTranslate2 cannot run."""
        other = self.compute_type != "float32"
        without = f" without compute_type {self.compute_type}" if other else ""
        return f"use {self.key}=transformers{without}"


def evaluation_engine(recipe: Recipe) -> EngineChoice:
    """What decodes dev and test."""
    section = recipe.evaluation
    return EngineChoice(
        section.engine, "evaluation.engine", section.compute_type, recipe.training.threads
    )


def labelling_engine(recipe: Recipe) -> EngineChoice:
    """What the teacher decodes with."""
    section = recipe.sequences.decoding
    return EngineChoice(
        section.engine, "sequences.decoding.engine", section.compute_type, section.threads
    )


def rollout_engine(recipe: Recipe) -> EngineChoice:
    """What the student samples with while it trains."""
    engine = recipe.sequences.rollouts.engine
    return EngineChoice(engine, "sequences.rollouts.engine", threads=recipe.training.threads)


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


def converted(
    pair: LoadedModel,
    engine: EngineChoice,
    *,
    verify_on: Sequence[IdPair],
    reach: Reach,
    vocab_size: int | None,
) -> CTranslate2Generator | None:
    """CTranslate2 with the model's present weights; None where transformers is to take its place.

    Raises EngineError, which names the setting, where CTranslate2 must run the model and cannot.
    """
    if engine.name == "transformers":
        return None
    try:
        with with_hint(engine.remedy):
            return CTranslate2Generator(
                pair.model,
                pair.tokenizer,
                kind=pair.kind,
                compute_type=engine.compute_type,
                threads=engine.threads,
                verify_on=verify_on,
                reach=reach,
                vocab_size=vocab_size,
            )
    except EngineError as error:
        if not engine.may_fall_back:
            raise
        _LOG.warning("%s: auto takes transformers, which is slower. %s", engine.key, error.problem)
        return None


def build_generator(
    pair: LoadedModel,
    engine: EngineChoice,
    *,
    examples: Sequence[EncodedExample],
    max_new_tokens: int,
    vocab_size: int | None = None,
) -> SequenceGenerator:
    """An engine with the model's present weights, for ids below `vocab_size`; None means all.

    `examples` are what it is to decode: a conversion is compared with the model on the first of
    them and at the length of the longest with `max_new_tokens` beside it. Raises EngineError for a
    model that CTranslate2 must run and cannot.
    """
    fast = converted(
        pair,
        engine,
        verify_on=verification_pairs(examples),
        reach=reach_of(examples, max_new_tokens),
        vocab_size=vocab_size,
    )
    return fast or TransformersGenerator(
        pair.model, pair.tokenizer, kind=pair.kind, vocab_size=vocab_size
    )


def generator_factory(
    pair: LoadedModel,
    engine: EngineChoice,
    *,
    examples: Sequence[EncodedExample],
    max_new_tokens: int,
) -> Callable[[PreTrainedModel], SequenceGenerator]:
    """Makes, again and again while the student trains, a generator with its present weights.

    Where `auto` has once taken transformers it stays.
    """

    def make(model: PreTrainedModel) -> SequenceGenerator:
        nonlocal engine
        now = LoadedModel(model, pair.tokenizer, pair.name)
        generator = build_generator(now, engine, examples=examples, max_new_tokens=max_new_tokens)
        if engine_name(generator) == TRANSFORMERS:
            engine = dataclasses.replace(engine, name="transformers")
        return generator

    return make
