"""What both engines owe the contract: the model's own distribution, honest scores, order."""

from __future__ import annotations

import functools
import math

import pytest

from seqdistill.core.errors import DataError, RecipeError
from seqdistill.generation.decoding import SequenceGenerator
from seqdistill.recipe.sequences_schema import Decoding

from .enumeration import greedy, plain_log_probs, probabilities, require_same_distribution
from .families import (
    END,
    POSITIONS,
    Tiny,
    both_engines,
    build_tiny,
    every_model,
    one_of_each_kind,
    small,
)


@functools.cache
def ready(engine: str, name: str) -> tuple[Tiny, SequenceGenerator]:
    """A model with its engine, built once: for tests that only read."""
    tiny = build_tiny(name)
    return tiny, tiny.generator(engine, **({"threads": 2} if engine == "ctranslate2" else {}))


def forbid_everything(tiny: Tiny) -> None:
    """A generation config whose author chose otherwise, which must not leak into samples.

    Guards against top_k, top_p and penalties inherited from it (TRL #6337, #4695).
    """
    inherited = tiny.model.generation_config
    inherited.top_k, inherited.top_p, inherited.repetition_penalty = 1, 0.1, 5.0
    inherited.temperature, inherited.min_new_tokens = 0.1, 3


@pytest.mark.parametrize(
    ("engine", "name", "rows", "temperature"),
    [
        ("transformers", "mbart", 9, 1.7),
        ("transformers", "llama", 5, 1.0),
        ("ctranslate2", "mbart", 5, 1.0),
        ("ctranslate2", "llama", 9, 1.7),
    ],
)
def test_generated_samples_follow_the_distribution_and_are_scored_without_temperature(
    engine: str, name: str, rows: int, temperature: float
) -> None:
    """Rows beyond the shared ones are padding: what is written is as if they were cut off."""
    tiny = small(name, rows=rows)
    forbid_everything(tiny)
    decoding = Decoding(mode="sample", sampling_temperature=temperature, max_new_tokens=3)
    source, size = tiny.sources[0], None if rows == 5 else 5
    answers = tiny.generator(engine, vocab_size=size).generate([source] * 3000, decoding, seed=5)
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
    tiny = small(name, rows=9)
    decoding = Decoding(beam_size=5, n_best=3, length_penalty=0.0, max_new_tokens=2)
    for source in tiny.sources:
        probs = probabilities(tiny, source, longest=2)
        ((*found,),) = tiny.generator(engine, vocab_size=5).generate([source], decoding)
        assert found[0].token_ids == max(probs, key=lambda written: probs[written])
        for one in found:
            assert math.exp(one.log_prob) == pytest.approx(probs[one.token_ids], rel=1e-3)


def naive_log_prob(tiny: Tiny, source: list[int], written: tuple[int, ...]) -> float:
    """The sum over `written` of its tokens' log-probabilities, one forward pass a token."""
    return sum(
        float(plain_log_probs(tiny, source, [*written[:t]])[written[t]])
        for t in range(len(written))
    )


@every_model
@both_engines
def test_beam_of_one_is_greedy_with_the_models_own_log_prob(engine: str, name: str) -> None:
    tiny, generator = ready(engine, name)
    answers = generator.generate(tiny.sources, Decoding(beam_size=1, max_new_tokens=9))
    for source, (best,) in zip(tiny.sources, answers, strict=True):
        assert [*best.token_ids] == greedy(tiny, source, 9)
        assert best.log_prob == pytest.approx(
            naive_log_prob(tiny, source, best.token_ids), abs=1e-3
        )


@every_model
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_engines_agree_on_the_beam(name: str, length_penalty: float) -> None:
    decoding = Decoding(beam_size=4, n_best=4, max_new_tokens=9, length_penalty=length_penalty)
    tiny, fast = ready("ctranslate2", name)
    plain = ready("transformers", name)[1].generate(tiny.sources, decoding)
    for left, right in zip(fast.generate(tiny.sources, decoding), plain, strict=True):
        assert left[0].token_ids == right[0].token_ids
        assert left[0].log_prob == pytest.approx(right[0].log_prob, abs=1e-3)


@one_of_each_kind
@both_engines
def test_n_best_is_sorted_distinct_and_truthful(engine: str, name: str) -> None:
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
def test_top_k_and_top_p_leave_the_likeliest_symbols_only(engine: str, name: str) -> None:
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
def test_samples_repeat_with_the_seed_and_differ_without(engine: str, name: str) -> None:
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
def test_hypotheses_do_not_depend_on_the_batch(engine: str, name: str) -> None:
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
def test_an_end_token_that_also_pads_still_ends(engine: str, name: str) -> None:
    tiny, generator = ready(engine, name)
    usual = generator.generate(tiny.sources, Decoding(beam_size=4, max_new_tokens=9))
    for pad in (END, None):
        again = build_tiny(name)
        again.model.config.pad_token_id = pad
        found = again.generator(engine).generate(
            tiny.sources, Decoding(beam_size=4, max_new_tokens=9)
        )
        assert [a[0].token_ids for a in found] == [u[0].token_ids for u in usual]


@one_of_each_kind
@both_engines
def test_lengths_beyond_the_positions_are_refused_by_name(engine: str, name: str) -> None:
    _, generator = ready(engine, name)
    with pytest.raises(DataError, match=r"96 positions.*number 2, .* has 97 tokens"):
        generator.generate([[4, END], [5] * 97], Decoding(max_new_tokens=2))
    with pytest.raises(DataError, match="number 1 has none"):
        generator.generate([[]], Decoding(max_new_tokens=2))
    with pytest.raises((RecipeError, DataError), match="max_new_tokens"):
        generator.generate([[4, END]], Decoding(max_new_tokens=POSITIONS + 1))
    # The longest that fits, fits.
    ((answer,),) = generator.generate([[5] * 94], Decoding(max_new_tokens=2))
    assert 1 <= len(answer.token_ids) <= 2
