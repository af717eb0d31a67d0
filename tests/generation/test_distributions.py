"""Samplers and engines write the model's own distribution over whole sequences, by enumeration.

Of a head of five rows, and of one of nine of which five are shared: rows beyond are padding, and
what is written is as if they were cut off.
"""

from __future__ import annotations

import math

import pytest

from seqdistill.core.errors import ModelError
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator, CTranslate2Sampler
from seqdistill.generation.decoding import Decoding, SequenceGenerator
from seqdistill.generation.sampling import Sampler, TransformersSampler
from seqdistill.generation.transformers_engine import TransformersGenerator

from .conftest import END, Tiny, build_tiny
from .enumeration import listed, require_same_distribution
from .test_sampling import plain_log_probs, tokens
from .test_sampling import probabilities as of_every_sequence

ROWS, SHARED = 9, 5
one_of_each_kind = pytest.mark.parametrize("name", ["mbart", "llama"])
both_engines = pytest.mark.parametrize("engine", ["transformers", "ctranslate2"])


def small(name: str, *, rows: int = ROWS) -> Tiny:
    """A model with a tokenizer of five symbols, and sentences of these in two lengths."""
    tiny = build_tiny(name, vocab_size=rows, num_names=SHARED)
    end = [END] if tiny.kind == "seq2seq" else []
    sources = [[4, 3, 3, *end], [3, *end]]
    return Tiny(tiny.model, tiny.tokenizer, tiny.kind, sources, [([4, 3, END], [4, 3, END])])


def sampler(engine: str, tiny: Tiny, decoding: Decoding, vocab_size: int | None) -> Sampler:
    if engine == "transformers":
        return TransformersSampler(
            tiny.model, tiny.tokenizer, kind=tiny.kind, decoding=decoding, vocab_size=vocab_size
        )
    fast = generator(engine, tiny, vocab_size)
    assert isinstance(fast, CTranslate2Generator)
    return CTranslate2Sampler(tiny.model, fast, decoding)


def generator(engine: str, tiny: Tiny, vocab_size: int | None) -> SequenceGenerator:
    if engine == "transformers":
        return TransformersGenerator(
            tiny.model, tiny.tokenizer, kind=tiny.kind, vocab_size=vocab_size
        )
    return CTranslate2Generator(
        tiny.model,
        tiny.tokenizer,
        kind=tiny.kind,
        vocab_size=vocab_size,
        verify_on=tiny.verify_on,
        threads=1,
    )


def probabilities(
    tiny: Tiny, source: list[int], *, temperature: float = 1.0, longest: int = 3
) -> dict[tuple[int, ...], float]:
    """Of every sequence of up to so many ids under the softmax over the shared rows."""
    return of_every_sequence(tiny, source, longest=longest, temperature=temperature, size=SHARED)


def forbid_everything(tiny: Tiny) -> None:
    """A generation config whose author chose otherwise, which must not leak into samples.

    Guards against top_k, top_p and penalties inherited from it (TRL #6337, #4695).
    """
    inherited = tiny.model.generation_config
    inherited.top_k, inherited.top_p, inherited.repetition_penalty = 1, 0.1, 5.0
    inherited.temperature, inherited.min_new_tokens = 0.1, 3


both_heads = pytest.mark.parametrize(
    ("rows", "temperature"), [(SHARED, 1.0), (ROWS, 1.7)], ids=["whole", "padded"]
)


@both_heads
@one_of_each_kind
@both_engines
def test_rollouts_follow_the_distribution_and_so_do_their_log_probs(
    engine: str, name: str, rows: int, temperature: float
) -> None:
    """Prompts of two lengths in one batch: padding must not move either distribution."""
    tiny = small(name, rows=rows)
    forbid_everything(tiny)
    decoding = Decoding(mode="sample", sampling_temperature=temperature, max_new_tokens=3)
    long, short = tiny.sources
    size = None if rows == SHARED else SHARED
    samples = listed(sampler(engine, tiny, decoding, size).sample([long, short] * 2500, seed=11))
    for source, found in ((long, samples[::2]), (short, samples[1::2])):
        probs = probabilities(tiny, source, temperature=temperature)
        require_same_distribution(tokens(found), probs)
        for sample in found[:50] if engine == "transformers" else []:
            assert sample.log_probs is not None
            assert math.exp(sum(sample.log_probs)) == pytest.approx(
                probs[sample.token_ids], rel=1e-3
            )


@both_heads
@one_of_each_kind
@both_engines
def test_generated_samples_follow_the_distribution_and_are_scored_without_temperature(
    engine: str, name: str, rows: int, temperature: float
) -> None:
    tiny = small(name, rows=rows)
    forbid_everything(tiny)
    decoding = Decoding(mode="sample", sampling_temperature=temperature, max_new_tokens=3)
    source, size = tiny.sources[0], None if rows == SHARED else SHARED
    answers = generator(engine, tiny, size).generate([source] * 3000, decoding, seed=5)
    require_same_distribution(
        [sample.token_ids for (sample,) in answers],
        probabilities(tiny, source, temperature=temperature),
    )
    plain = probabilities(tiny, source)
    for (sample,) in answers[:50]:
        assert math.exp(sample.log_prob) == pytest.approx(plain[sample.token_ids], rel=1e-3)


@pytest.mark.parametrize("name", ["mbart", "t5", "llama", "gpt2"])
@both_engines
def test_a_beam_as_wide_as_the_space_finds_the_likeliest_sequences_of_shared_ids(
    engine: str, name: str
) -> None:
    """Two steps of a beam of five see every sequence of five ids."""
    tiny = small(name)
    decoding = Decoding(beam_size=SHARED, n_best=3, length_penalty=0.0, max_new_tokens=2)
    for source in tiny.sources:
        probs = probabilities(tiny, source, longest=2)
        ((*found,),) = generator(engine, tiny, SHARED).generate([source], decoding)
        assert found[0].token_ids == max(probs, key=lambda written: probs[written])
        for one in found:
            assert math.exp(one.log_prob) == pytest.approx(probs[one.token_ids], rel=1e-3)


@one_of_each_kind
@both_engines
def test_greedy_rollouts_are_the_likeliest_shared_ids(engine: str, name: str) -> None:
    tiny = small(name)
    decoding = Decoding(mode="beam", beam_size=1, max_new_tokens=6)
    for source, sample in zip(
        tiny.sources,
        listed(sampler(engine, tiny, decoding, SHARED).sample(tiny.sources, seed=0)),
        strict=True,
    ):
        written: list[int] = []
        while len(written) < 6 and written[-1:] != [END]:
            written.append(int(plain_log_probs(tiny, source, written)[:SHARED].argmax()))
        assert sample.token_ids == tuple(written)


@both_engines
def test_an_end_token_that_would_be_no_output_is_refused(engine: str) -> None:
    tiny = small("llama")
    with pytest.raises(ModelError, match="end token of what is written must be one id below"):
        generator(engine, tiny, END)
