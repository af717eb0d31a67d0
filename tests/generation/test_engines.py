"""What both engines owe the contract: the model's own distribution, honest scores, order."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from seqdistill.core.errors import DataError, RecipeError
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.generation.decoding import Decoding, SequenceGenerator
from seqdistill.generation.transformers_engine import TransformersGenerator

from .conftest import CAUSAL, END, PAD, SEQ2SEQ, Tiny, build_tiny
from .test_sampling import plain_log_probs


def with_ctranslate2(tiny: Tiny) -> SequenceGenerator:
    return CTranslate2Generator(
        tiny.model, tiny.tokenizer, kind=tiny.kind, verify_on=tiny.verify_on, threads=2
    )


def with_transformers(tiny: Tiny) -> SequenceGenerator:
    return TransformersGenerator(tiny.model, tiny.tokenizer, kind=tiny.kind)


@functools.cache
def ready(engine: Engine, name: str) -> tuple[Tiny, SequenceGenerator]:
    """A model with its engine, built once: for tests that only read."""
    tiny = build_tiny(name)
    return tiny, engine(tiny)


Engine = Callable[[Tiny], SequenceGenerator]
both_engines = pytest.mark.parametrize("engine", [with_ctranslate2, with_transformers])
every_model = pytest.mark.parametrize("name", SEQ2SEQ + CAUSAL)
one_of_each_kind = pytest.mark.parametrize("name", ["mbart", "llama"])


def naive_log_prob(tiny: Tiny, source: list[int], written: tuple[int, ...]) -> float:
    """The sum over `written` of its tokens' log-probabilities, one forward pass a token."""
    return sum(
        float(plain_log_probs(tiny, source, [*written[:t]])[written[t]])
        for t in range(len(written))
    )


def naive_greedy(tiny: Tiny, source: list[int], max_new_tokens: int) -> tuple[int, ...]:
    written: list[int] = []
    while len(written) < max_new_tokens and written[-1:] != [END]:
        written.append(int(plain_log_probs(tiny, source, written).argmax()))
    return tuple(written)


@every_model
@both_engines
def test_beam_of_one_is_greedy_with_the_models_own_log_prob(engine: Engine, name: str) -> None:
    tiny, generator = ready(engine, name)
    answers = generator.generate(tiny.sources, Decoding(beam_size=1, max_new_tokens=9))
    for source, (best,) in zip(tiny.sources, answers, strict=True):
        assert best.token_ids == naive_greedy(tiny, source, 9)
        assert best.log_prob == pytest.approx(
            naive_log_prob(tiny, source, best.token_ids), abs=1e-3
        )


@every_model
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_engines_agree_on_the_beam(name: str, length_penalty: float) -> None:
    decoding = Decoding(beam_size=4, n_best=4, max_new_tokens=9, length_penalty=length_penalty)
    tiny, generator = ready(with_ctranslate2, name)
    fast = generator.generate(tiny.sources, decoding)
    plain = ready(with_transformers, name)[1].generate(tiny.sources, decoding)
    for left, right in zip(fast, plain, strict=True):
        assert left[0].token_ids == right[0].token_ids
        assert left[0].log_prob == pytest.approx(right[0].log_prob, abs=1e-3)


@one_of_each_kind
@both_engines
def test_n_best_is_sorted_distinct_and_truthful(engine: Engine, name: str) -> None:
    tiny, generator = ready(engine, name)
    decoding = Decoding(beam_size=5, n_best=5, max_new_tokens=7, length_penalty=0.5)
    flags = set()
    for source, answers in zip(
        tiny.sources, generator.generate(tiny.sources, decoding), strict=True
    ):
        scores = [answer.log_prob / len(answer.token_ids) ** 0.5 for answer in answers]
        assert scores == sorted(scores, reverse=True)
        assert len({answer.token_ids for answer in answers}) == 5
        for answer in answers:
            truth = naive_log_prob(tiny, source, answer.token_ids)
            assert answer.log_prob == pytest.approx(truth, abs=1e-3)
            assert answer.finished == (answer.token_ids[-1] == END)
            assert answer.finished or len(answer.token_ids) == 7
            assert END not in answer.token_ids[:-1]
            flags.add(answer.finished)
    assert flags == {True, False}, "the test must see finished and unfinished hypotheses"


@one_of_each_kind
@both_engines
def test_top_k_and_top_p_leave_the_likeliest_symbols_only(engine: Engine, name: str) -> None:
    tiny, generator = ready(engine, name)
    source = tiny.sources[0]
    log_probs = plain_log_probs(tiny, source, [])
    likeliest = set(log_probs.topk(3).indices.tolist())
    order = log_probs.argsort(descending=True)
    mass_before = log_probs[order].exp().cumsum(0) - log_probs[order].exp()
    nucleus = set(order[mass_before < 0.5].tolist())
    top_k = generator.generate([source] * 300, Decoding(mode="sample", top_k=3, max_new_tokens=1))
    top_p = generator.generate([source] * 300, Decoding(mode="sample", top_p=0.5, max_new_tokens=1))
    assert {answer.token_ids[0] for (answer,) in top_k} == likeliest
    assert {answer.token_ids[0] for (answer,) in top_p} == nucleus


@one_of_each_kind
@both_engines
def test_samples_repeat_with_the_seed_and_differ_without(engine: Engine, name: str) -> None:
    tiny, generator = ready(engine, name)
    decoding = Decoding(mode="sample", n_best=3, max_new_tokens=9, batch_tokens=12)
    first = generator.generate(tiny.sources, decoding, seed=1)
    assert first == generator.generate(tiny.sources, decoding, seed=1)
    assert first != generator.generate(tiny.sources, decoding, seed=2)
    # Two workers must not draw the same stream: equal sources, different samples.
    twins = generator.generate(
        [tiny.sources[0]] * 2, Decoding(mode="sample", max_new_tokens=9, batch_tokens=1)
    )
    assert twins[0] != twins[1]


@every_model
@both_engines
def test_hypotheses_do_not_depend_on_the_batch(engine: Engine, name: str) -> None:
    tiny, generator = ready(engine, name)
    together = generator.generate(tiny.sources, Decoding(beam_size=3, max_new_tokens=7))
    seen: list[int] = []
    one_by_one = Decoding(beam_size=3, max_new_tokens=7, batch_tokens=1)
    alone = generator.generate(tiny.sources, one_by_one, on_progress=seen.append)
    assert seen == [1] * len(tiny.sources)
    assert generator.generate([], one_by_one) == []
    for left, right in zip(together, alone, strict=True):
        assert left[0].token_ids == right[0].token_ids
        assert left[0].log_prob == pytest.approx(right[0].log_prob, abs=1e-3)


@one_of_each_kind
@both_engines
def test_an_end_token_that_also_pads_still_ends(engine: Engine, name: str) -> None:
    tiny = build_tiny(name)
    usual = engine(tiny).generate(tiny.sources, Decoding(beam_size=4, max_new_tokens=9))
    for pad in (END, None):
        again = build_tiny(name)
        again.model.config.pad_token_id = pad
        answers = engine(again).generate(again.sources, Decoding(beam_size=4, max_new_tokens=9))
        assert [a[0].token_ids for a in answers] == [u[0].token_ids for u in usual]
    assert PAD != END


@one_of_each_kind
@both_engines
def test_lengths_beyond_the_positions_are_refused_by_name(engine: Engine, name: str) -> None:
    _, generator = ready(engine, name)
    with pytest.raises(DataError, match=r"40 positions.*number 2, .* has 41 tokens"):
        generator.generate([[4, END], [5] * 41], Decoding(max_new_tokens=2))
    with pytest.raises(DataError, match="number 1 has none"):
        generator.generate([[]], Decoding(max_new_tokens=2))
    with pytest.raises((RecipeError, DataError), match="max_new_tokens"):
        generator.generate([[4, END]], Decoding(max_new_tokens=41))
    # The longest that fits, fits.
    source = [5] * 38
    ((answer,),) = generator.generate([source], Decoding(max_new_tokens=2))
    assert 1 <= len(answer.token_ids) <= 2
