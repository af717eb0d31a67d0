"""A teacher of other tokens: what its chunks are compared with, against loops and identities."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from tests.jobs import naive
from tests.objectives.worlds import VOCAB, World, only, term, world
from torch import Tensor

from seqdistill.core.batch import StudentStates
from seqdistill.core.errors import RecipeError
from seqdistill.core.head import Head
from seqdistill.core.scores import ChunkScores, TeacherScores
from seqdistill.core.terms import Reduction, Term
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives import chunked
from seqdistill.objectives.across_tokenizers import chunk_likelihood, uld
from seqdistill.objectives.objective import WeightedObjective

CROSSING = pytest.mark.parametrize("name", ["uld", "chunk_likelihood"])
EACH_REDUCTION = pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
OTHER_VOCAB, OTHER_DIM = 31, 5


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four positions a chunk of the walk, two a slice."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(chunked, "SLICE_ELEMENTS", 2 * VOCAB)
    monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", 4 * VOCAB)


# Of each row the chunks: student's [start, stop), teacher's [start, stop); the teacher's rows have
# 4, 3, 9 and 2 positions. The third row has positions that are in no chunk.
CHUNKS = (
    ((0, 2, 0, 1), (2, 3, 1, 2), (3, 5, 2, 4)),
    ((0, 2, 0, 3),),
    ((0, 1, 0, 4), (3, 6, 5, 8), (6, 7, 8, 9)),
    (),
)
OTHER_LENGTHS = (4, 3, 9, 2)


def in_chunks(here: World) -> ChunkScores:
    """A teacher of 31 symbols and the chunks above."""
    generator = torch.Generator().manual_seed(21)
    size = sum(OTHER_LENGTHS)
    hidden = torch.randn(size, OTHER_DIM, generator=generator, dtype=torch.float64)
    weight = torch.randn(OTHER_VOCAB, OTHER_DIM, generator=generator, dtype=torch.float64)
    ids = torch.randint(OTHER_VOCAB, (size,), generator=generator)
    chunk_of, others = torch.full(here.batch.target_mask.shape, -1), torch.full((size,), -1)
    count, first = 0, 0
    for row, (chunks, length) in enumerate(zip(CHUNKS, OTHER_LENGTHS, strict=True)):
        for a, b, c, d in chunks:
            chunk_of[row, a:b] = others[first + c : first + d] = count
            count += 1
        first += length
    return ChunkScores(hidden, Head(weight), ids, others, chunk_of)


def naive_parts(here: World, scores: ChunkScores, settings: dict[str, Any], heat: float) -> Tensor:
    """The value at every chunk's first position, (batch, time), in Python's own order."""
    found = torch.zeros(here.batch.target_mask.shape, dtype=torch.float64)
    first = 0
    own = (here.states.head.logits(here.states.hidden) / heat).log_softmax(-1)
    others = (scores.head.logits(scores.hidden) / heat).log_softmax(-1)
    for row, (chunks, length) in enumerate(zip(CHUNKS, OTHER_LENGTHS, strict=True)):
        for a, b, c, d in chunks:
            ids = here.batch.target_ids[row]
            log_q = torch.stack([own[row, t, ids[t]] for t in range(a, b)]).sum()
            log_p = sum(float(others[first + t, scores.target_ids[first + t]]) for t in range(c, d))
            if settings["divergence"] == "uld":
                q = [*own[row, a].exp(), *torch.zeros(OTHER_VOCAB - VOCAB, dtype=torch.float64)]
                p = sorted(others[first + c].exp().tolist(), reverse=True)
                ranked = sorted(q, key=lambda each: -float(each.detach()))
                value = torch.stack([(x - y).abs() for x, y in zip(ranked, p, strict=True)]).sum()
            else:
                value = naive.of_chunk(settings, log_q, torch.tensor(log_p, dtype=torch.float64))
            found[row, a] = value
        first += length
    return found


def learned(
    terms: list[Term], here: World, scores: TeacherScores, **settings: Any
) -> tuple[TokenSum, dict[str, TokenSum], list[Tensor]]:
    objective = WeightedObjective(terms, **{"reduction": "token", **settings})
    total, parts = objective(here.states, scores, here.batch)
    head = here.states.head
    assert head.bias is not None
    leaves = (here.states.hidden, head.weight, head.bias)
    gradients = torch.autograd.grad(total.total, leaves, materialize_grads=True)
    return total.detached(), parts, list(gradients)


@EACH_REDUCTION
@pytest.mark.parametrize(
    "settings",
    [
        {"divergence": "uld"},
        {"divergence": "chunk_likelihood"},
        {"divergence": "chunk_likelihood", "of": "reverse_kl", "chunk_temperature": 3.0},
        {"divergence": "chunk_likelihood", "of": "total_variation", "chunk_temperature": 1.0},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
@pytest.mark.parametrize("heat", [1.0, 2.0])
def test_a_term_equals_a_naive_loop_over_chunks(
    settings: dict[str, Any], reduction: Reduction, heat: float
) -> None:
    here = world()
    scores = in_chunks(here)
    values = naive_parts(here, scores, settings, heat)
    lengths = here.batch.target_mask.sum(1, keepdim=True)
    weights = (1.0 / lengths if reduction == "sequence" else torch.ones(4, 1)).double()
    expected = (0.7 * weights * values).sum()
    head = here.states.head
    assert head.bias is not None
    leaves = (here.states.hidden, head.weight, head.bias)
    wanted = torch.autograd.grad(expected, leaves)
    given = {key: value for key, value in settings.items() if key != "divergence"}
    one = Term.of(settings["divergence"], weight=0.7, **given)
    total, parts, gradients = learned(
        [one], here, scores, reduction=reduction, loss_temperature=heat
    )
    torch.testing.assert_close(total.total, expected.detach(), rtol=1e-9, atol=1e-12)
    assert total.count == (15 if reduction == "token" else 4), "every counting token, or sequence"
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-12)
    own = parts[settings["divergence"]]
    assert own.count == (7 if reduction == "token" else 3), "its own mean is over chunks"
    assert parts["aligned_fraction"].mean == pytest.approx(12 / 15)
    assert parts["tokens_per_chunk"].mean == pytest.approx(12 / 7)


def permuted(here: World) -> ChunkScores:
    """The teacher of the same world with the same tokens under other ids."""
    mask = here.batch.target_mask
    order = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(3))
    head = Head(here.scores.head.weight[order])
    chunk_of = torch.full(mask.shape, -1)
    chunk_of[mask] = numbers = torch.arange(int(mask.sum()))
    ids = order.argsort()[here.batch.target_ids[mask]]
    return ChunkScores(here.scores.hidden[mask], head, ids, numbers, chunk_of)


@EACH_REDUCTION
@CROSSING
def test_the_same_tokens_under_other_ids_are_the_same_teacher(
    name: str, reduction: Reduction
) -> None:
    here = world()
    terms = [term(name, weight=0.3), term("negative_log_likelihood")]
    wanted, parts, gradients = learned(terms, here, here.scores, reduction=reduction)
    total, found, others = learned(terms, here, permuted(here), reduction=reduction)
    torch.testing.assert_close(total.total, wanted.total, rtol=1e-12, atol=1e-14)
    assert total.count == wanted.count
    assert found[name].mean == pytest.approx(parts[name].mean, rel=1e-12)
    torch.testing.assert_close(others, gradients, rtol=1e-10, atol=1e-13)
    assert found["aligned_fraction"].mean == found["tokens_per_chunk"].mean == 1.0


def test_where_chunks_are_tokens_their_likelihoods_are_those_of_tokens() -> None:
    """With a high temperature T^2 x the divergence tends to a function of their differences."""
    q, p = torch.tensor([-0.5, -2.0]).double(), torch.tensor([-0.7, -1.0]).double()
    heat = 1e7
    found = heat * chunk_likelihood(q, p, chunk_temperature=heat)
    torch.testing.assert_close(found, p * torch.log(q / p) + p - q + 0.0, rtol=1e-5, atol=1e-9)


@CROSSING
def test_micro_batches_add_up_and_weights_leave_sequences_out(name: str) -> None:
    here = world().told(origins=("student", "teacher", "student", "reference"))
    scores = in_chunks(here)
    terms = [term(name), term(name, token_weights=[only("student")], weight=0.5)]
    whole, parts, gradients = learned(terms, here, scores, reduction="sequence")
    bounds = list(itertools.accumulate(OTHER_LENGTHS, initial=0))
    total, summed = TokenSum.zero(), [torch.zeros_like(each) for each in gradients]
    sums = dict.fromkeys(parts, TokenSum.zero())
    for first, last in ((0, 1), (1, 3), (3, 4)):
        rows = slice(first, last)
        there = slice(bounds[first], bounds[last])
        before = int(scores.chunk_of[:first].max()) + 1 if first else 0
        own = scores.chunk_of[rows]
        others = scores.teacher_chunk_of[there]
        piece = ChunkScores(
            scores.hidden[there],
            scores.head,
            scores.target_ids[there],
            torch.where(others >= 0, others - before, -1),
            torch.where(own >= 0, own - before, -1),
        )
        one = here.rows(rows)
        objective = WeightedObjective(terms, reduction="sequence")
        found, each = objective(one.states, piece, one.batch)
        total = total + found.detached()
        head = here.states.head
        assert head.bias is not None
        leaves = (here.states.hidden, head.weight, head.bias)
        for place, gradient in enumerate(
            torch.autograd.grad(found.total, leaves, materialize_grads=True)
        ):
            summed[place] += gradient
        sums = {key: sums[key] + part.detached() for key, part in each.items()}
    torch.testing.assert_close(total.total, whole.total)
    torch.testing.assert_close(summed, gradients)
    assert {key: part.mean for key, part in sums.items()} == pytest.approx(
        {key: part.mean for key, part in parts.items()}
    )
    alone = learned([term(name, token_weights=[only("reference")])], here, scores)
    assert alone[0].total == 0.0 and alone[1][name].count == 0.0, "that row has no chunk"


@CROSSING
def test_what_is_in_no_chunk_is_not_read(name: str) -> None:
    here = world()
    scores = in_chunks(here)
    wanted, *_ = learned([term(name)], here, scores)
    outside = scores.chunk_of < 0
    hidden = here.states.hidden.masked_fill(outside[..., None], torch.nan)
    others = scores.hidden.masked_fill(scores.teacher_chunk_of[:, None] < 0, torch.nan)
    poisoned = World(here.batch, StudentStates(hidden, here.states.head), here.scores)
    got, *_ = learned([term(name)], poisoned, dataclasses.replace(scores, hidden=others))
    assert got.total == wanted.total


def test_a_divergence_of_symbols_is_refused() -> None:
    here = world()
    with pytest.raises(RecipeError, match=r"reverse_kl needs a teacher whose tokens are the st"):
        learned([term("reverse_kl")], here, in_chunks(here))


def test_uld_does_not_see_which_word_it_is() -> None:
    """The paper's loss is at its minimum where the student is sure of another word."""
    sure = torch.tensor([[0.0, -30.0, -30.0], [-30.0, -30.0, 0.0]]).double().log_softmax(-1)
    assert uld(sure[:1], sure[1:]) == pytest.approx(0.0, abs=1e-12)
    one = torch.tensor([[0.0, -torch.inf]]).double()
    even = torch.full((1, 1000), 1e-3).double().log()
    assert float(uld(one, even)) == pytest.approx(2.0 - 2.0 / 1000)
    assert torch.equal(uld(one, even), uld(even, one))
