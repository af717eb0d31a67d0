"""From a recipe's decoding sections to engines and their settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from seqdistill.core.errors import engine_remedy
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.generation.decoding import Decoding, SequenceGenerator
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.sequences_schema import DecodingSection

# Enough real sentences to notice a wrong conversion, few enough to cost nothing.
_NUM_VERIFIED = 8


def build_decoding(section: DecodingSection) -> Decoding:
    """The settings of one generation."""
    return Decoding(
        mode=section.mode,
        beam_size=section.beam_size,
        n_best=section.n_best,
        length_penalty=section.length_penalty,
        sampling_temperature=section.sampling_temperature,
        top_k=section.top_k,
        top_p=section.top_p,
        max_new_tokens=section.max_new_tokens,
        batch_tokens=section.batch_tokens,
    )


def verification_pairs(
    examples: Sequence[EncodedExample],
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The first few examples with targets, on which a converted model is compared."""
    pairs = [(e.source_ids, e.target_ids) for e in examples if e.target_ids]
    return pairs[:_NUM_VERIFIED]


def build_generator(
    pair: LoadedModel,
    *,
    engine: str,
    engine_key: str,
    compute_type: str,
    threads: int | None,
    verify_on: Sequence[EncodedExample],
    vocab_size: int | None = None,
) -> SequenceGenerator:
    """An engine with the model's present weights, for ids below `vocab_size`; None means all.

    `engine_key` is the setting that chose the engine. Raises EngineError, which names it, for a
    model that CTranslate2 cannot run.
    """
    if engine == "transformers":
        return TransformersGenerator(
            pair.model, pair.tokenizer, kind=pair.kind, vocab_size=vocab_size
        )
    with engine_remedy(f"use {engine_key}=transformers"):
        return CTranslate2Generator(
            pair.model,
            pair.tokenizer,
            kind=pair.kind,
            compute_type=compute_type,
            threads=threads,
            verify_on=verification_pairs(verify_on),
            vocab_size=vocab_size,
        )


def generator_factory(
    pair: LoadedModel,
    *,
    engine: str,
    engine_key: str,
    compute_type: str,
    threads: int | None,
    verify_on: Sequence[EncodedExample],
) -> Callable[[PreTrainedModel], SequenceGenerator]:
    """Makes, again and again while the student trains, a generator with its present weights."""

    def make(model: PreTrainedModel) -> SequenceGenerator:
        live = LoadedModel(model, pair.tokenizer, pair.name)
        return build_generator(
            live,
            engine=engine,
            engine_key=engine_key,
            compute_type=compute_type,
            threads=threads,
            verify_on=verify_on,
        )

    return make
