"""Speculative decoding writes what the teacher alone writes, whatever drafts for it."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from seqdistill.core.errors import ModelError, UserError
from seqdistill.generation import speculative
from seqdistill.generation.decoding import Hypothesis, SequenceGenerator
from seqdistill.generation.draft_costs import DraftCosts, measured_costs
from seqdistill.generation.speculative import SpeculativeGenerator
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.sequences_schema import Decoding

from .enumeration import cut, every_sequence, plain_log_probs, require_same_distribution
from .families import END, Tiny, build_tiny, one_of_each_kind, small
from .test_sampling import moved

GREEDY = Decoding(beam_size=1, max_new_tokens=20)
SAMPLED = Decoding(mode="sample", sampling_temperature=0.7, top_k=8, max_new_tokens=20)
ONE_BY_ONE = {"batch_tokens": 1}


def loaded(tiny: Tiny, name: str) -> LoadedModel:
    return LoadedModel(tiny.model, tiny.tokenizer, name)


def drafting(teacher: Tiny, draft: Tiny, draft_tokens: int) -> SpeculativeGenerator:
    pair = loaded(teacher, "teacher"), loaded(draft, "student")
    return SpeculativeGenerator(*pair, draft_tokens=draft_tokens)


def pair_of(name: str, by: float = 0.08) -> tuple[Tiny, Tiny]:
    return build_tiny(name), moved(build_tiny(name), by)


def ids_of(found: list[list[Hypothesis]]) -> list[tuple[int, ...]]:
    return [hypothesis.token_ids for (hypothesis,) in found]


NextProbs = Callable[[tuple[int, ...]], torch.Tensor]
"""What was written -> the probabilities of the next token."""
Cell = tuple[list[list[float]], float]
"""The three uniforms of every token, and how much of all uniforms has the same outcome."""


def cells(
    next_probs: tuple[NextProbs, NextProbs],
    draft_tokens: int,
    longest: int,
    written: tuple[int, ...] = (),
    left: int = 0,
) -> Iterator[Cell]:
    """A point in each box of uniforms within which nothing changes, with the box's volume.

    `left` tokens of the round are drafted ones; the first token is the teacher's own.
    """
    if len(written) == longest or written[-1:] == (END,):
        yield [[0.5] * 3] * (longest - len(written)), 1.0
        return
    p, q = (probs(written) for probs in next_probs)
    go_on = functools.partial(cells, next_probs, draft_tokens, longest)
    options: list[tuple[list[float], float, int, int]] = []
    if not left:
        options = [([0.5, 0.5, u], mass, y, draft_tokens) for y, u, mass in intervals(q)]
    else:
        for x, drafted_by, mass in intervals(p):
            accept = min(1.0, float(q[x] / p[x]))
            options.append(([drafted_by, accept / 2, 0.5], mass * accept, x, left - 1))
            if accept < 1.0:
                tested_by = (1.0 + accept) / 2
                for y, u, rest in intervals((q - p).clamp(min=0.0)):
                    uniforms = [drafted_by, tested_by, u]
                    options.append((uniforms, mass * (1.0 - accept) * rest, y, draft_tokens))
    for uniforms, volume, token, still in options:
        for rest_of, rest in go_on((*written, token), still):
            yield [uniforms, *rest_of], volume * rest


def intervals(masses: torch.Tensor) -> list[tuple[int, float, float]]:
    """Each symbol with the middle of the uniforms that draw it, and how many these are."""
    shares = masses / masses.sum()
    upper = shares.cumsum(0)
    middles = 1.0 - (upper - shares / 2)
    return [(y, float(middles[y]), float(shares[y])) for y in shares.nonzero()[:, 0].tolist()]


@one_of_each_kind
@pytest.mark.parametrize(
    ("settings", "longest"),
    [({}, 3), ({"sampling_temperature": 1.6, "top_k": 3}, 4), ({"top_p": 0.8}, 4)],
    ids=["whole", "top_k", "top_p"],
)
def test_summed_over_all_that_chance_can_do_the_law_is_the_teachers(
    name: str, settings: dict[str, Any], longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by samples: every outcome of drafting, testing and replacing, with its probability.

    The draft has two rows more than there are symbols: nothing of them is ever written.
    """
    teacher = small(name)
    draft = moved(build_tiny(name, vocab_size=7, num_names=5), 0.3)
    source = teacher.sources[0]
    decoding = Decoding(mode="sample", max_new_tokens=longest, batch_tokens=9999, **settings)

    def probs_of(tiny: Tiny) -> NextProbs:
        @functools.cache
        def probs(written: tuple[int, ...]) -> torch.Tensor:
            return cut(plain_log_probs(tiny, source, [*written])[:5], decoding).exp()

        return probs

    p, q = probs_of(draft), probs_of(teacher)
    points = list(cells((p, q), 2, longest))
    uniforms = torch.tensor([point for point, _ in points], dtype=torch.float64)
    monkeypatch.setattr(speculative, "uniforms_of", lambda *_: uniforms)
    found = drafting(teacher, draft, 2).generate([source] * len(points), decoding)
    law: dict[tuple[int, ...], float] = defaultdict(float)
    for token_ids, (_, volume) in zip(ids_of(found), points, strict=True):
        law[token_ids] += volume
    exact = every_sequence(lambda w: q(tuple(w)).log(), longest=longest)
    assert len(points) > 3 * len(exact) > 30
    assert {w: p for w, p in law.items() if p > 1e-5} == pytest.approx(
        {w: p for w, p in exact.items() if p > 1e-5}, abs=2e-5
    )


@pytest.mark.parametrize(("name", "limits"), [("mbart", {"top_p": 0.9}), ("llama", {})])
def test_samples_are_the_teachers_and_acceptance_is_one_less_tvd(
    name: str, limits: dict[str, Any]
) -> None:
    teacher, draft = small(name), moved(small(name))
    decoding = Decoding(mode="sample", max_new_tokens=4, sampling_temperature=1.3, **limits)
    long, short = teacher.sources
    generator = drafting(teacher, draft, 2)
    samples = ids_of(generator.generate([long, short] * 1500, decoding, seed=5))
    for source, found in ((long, samples[::2]), (short, samples[1::2])):

        def next_log_probs(written: list[int], source: list[int] = source) -> torch.Tensor:
            return cut(plain_log_probs(teacher, source, written), decoding)

        require_same_distribution(found, every_sequence(next_log_probs, longest=4))
    counts = generator.counts
    assert 0.3 < counts.acceptance < 0.95
    spread = (counts.acceptance * (1 - counts.acceptance) / counts.tested) ** 0.5
    assert counts.acceptance == pytest.approx(counts.mean_overlap, abs=4 * spread)
    assert counts.tokens == sum(map(len, samples))


@pytest.mark.parametrize(
    ("name", "draft_tokens"),
    [("mbart", 1), ("t5", 4), ("marian-mute-pad", 1), ("llama", 4), ("gpt2", 1), ("gemma3", 4)],
)
def test_greedy_text_is_the_teachers(name: str, draft_tokens: int) -> None:
    """Beyond the window of those models that have one, with ends inside drafts."""
    teacher, draft = pair_of(name)
    generator = drafting(teacher, draft, draft_tokens)
    found = generator.generate(teacher.sources, GREEDY)
    plain = teacher.plain().generate(teacher.sources, GREEDY)
    assert ids_of(found) == ids_of(plain)
    for (one,), (other,) in zip(found, plain, strict=True):
        assert one.finished == other.finished
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)
    assert generator.counts.accepted > 0
    assert isinstance(generator, SequenceGenerator)


@pytest.mark.parametrize(("name", "draft_tokens"), [("mbart", 4), ("llama", 1)])
def test_a_batch_writes_what_its_rows_write_alone(name: str, draft_tokens: int) -> None:
    """Rows that wait, run ahead or leave: the caches of both models hold what was accepted."""
    teacher, draft = pair_of(name)
    for decoding in (GREEDY, SAMPLED):
        both, alone = (drafting(teacher, draft, draft_tokens) for _ in range(2))
        sources = teacher.sources * 2
        found = both.generate(sources, decoding, seed=3)
        one_by_one = decoding.model_copy(update=ONE_BY_ONE)
        assert ids_of(found) == ids_of(alone.generate(sources, one_by_one, seed=3))
        # Not only outputs, which a spoilt cache of the draft would leave what they are.
        assert both.counts.accepted == alone.counts.accepted
        assert both.counts.overlap == pytest.approx(alone.counts.overlap, abs=1e-3)


@one_of_each_kind
def test_outputs_are_cut_inside_drafts(name: str) -> None:
    teacher, draft = pair_of(name)
    whole = ids_of(teacher.plain().generate(teacher.sources, GREEDY))
    for longest in (1, 2, 3, 6):
        decoding = GREEDY.model_copy(update={"max_new_tokens": longest})
        found = drafting(teacher, draft, 4).generate(teacher.sources, decoding)
        assert ids_of(found) == [ids[:longest] for ids in whole]


@one_of_each_kind
def test_a_teacher_that_drafts_for_itself_is_always_accepted(name: str) -> None:
    teacher = build_tiny(name)
    generator = drafting(teacher, teacher, 4)
    one = GREEDY.model_copy(update={**ONE_BY_ONE, "max_new_tokens": 11})
    found = generator.generate(teacher.sources, one)
    lengths = [len(ids) for ids in ids_of(found)]
    assert max(lengths) == 11
    assert generator.counts.acceptance == 1.0
    # The first pass brings one token, each other the four of a draft and one.
    assert generator.counts.row_passes == sum(1 + -(-(n - 1) // 5) for n in lengths)
    sampled = drafting(teacher, teacher, 4)
    sampled.generate(teacher.sources, SAMPLED)
    assert sampled.counts.acceptance == 1.0
    assert sampled.counts.mean_overlap == pytest.approx(1.0, abs=1e-4)


def test_n_best_are_independent_samples_best_first() -> None:
    teacher, draft = pair_of("llama")
    decoding = SAMPLED.model_copy(update={"n_best": 3})
    done: list[int] = []
    found = drafting(teacher, draft, 2).generate(teacher.sources, decoding, on_progress=done.append)
    assert [len(row) for row in found] == [3] * len(teacher.sources)
    assert all(row == sorted(row, key=lambda h: -h.log_prob) for row in found)
    assert len({h.token_ids for row in found for h in row}) > len(found)
    assert sum(done) == len(teacher.sources)
    assert drafting(teacher, draft, 2).generate([], SAMPLED) == []


def test_the_draft_length_follows_from_what_was_measured() -> None:
    costs = DraftCosts(draft_step_s=0.1, pass_s=0.7, column_s=0.1, acceptance=0.8)
    assert costs.seconds_per_token(2) == pytest.approx((0.2 + 0.7 + 0.3) / (1 + 0.8 + 0.64))
    assert dataclasses.replace(costs, acceptance=0.0).draft_tokens == 1
    assert dataclasses.replace(costs, acceptance=1.0).draft_tokens == 16
    assert 1 < costs.draft_tokens < 8
    teacher, draft = pair_of("llama")
    pair = loaded(teacher, "teacher"), loaded(draft, "student")
    found = measured_costs(*pair, teacher.sources, SAMPLED)
    assert found.draft_step_s > 0.0 and found.pass_of(2) > 0.0 and 0.0 < found.acceptance < 1.0


def test_what_cannot_draft_or_be_drafted_for_is_refused() -> None:
    teacher = build_tiny("llama")
    for draft, said in (
        (build_tiny("mbart"), "of the teacher's kind, causal, but student is seq2seq"),
        (build_tiny("mamba"), "recurrent"),
        (build_tiny("llama", num_names=9), "'w9' has the id None in student and 9 in teacher"),
    ):
        with pytest.raises(ModelError, match=said):
            drafting(teacher, draft, 2)
    with pytest.raises(UserError, match="greedy or sampled, got a beam of 5"):
        drafting(teacher, teacher, 2).generate(teacher.sources, Decoding())
