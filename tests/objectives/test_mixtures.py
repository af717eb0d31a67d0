"""Several teachers in one loss: mixtures and routes, beside one teacher and whole fp64 logits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tests.objectives.worlds import TERM_NAMES, VOCAB, World, of_targets, term, world
from torch import Tensor

from seqdistill.core.batch import SequenceBatch
from seqdistill.core.families import DIVERGENCES
from seqdistill.core.head import Head, MixedHead
from seqdistill.core.scores import DenseScores, MixedScores, NoScores, TeacherScores
from seqdistill.objectives import chunked
from seqdistill.objectives.chunked import Blocking, MixedPass
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.testing.world import rollouts

SOFT = [name for name in DIVERGENCES if not DIVERGENCES[name].takes_targets]
FEW = ["forward_kl", "reverse_kl", "total_variation"]
TEMPERATURE = 1.7


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four positions a chunk, two a slice."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(chunked, "SLICE_ELEMENTS", 2 * VOCAB)
    monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", 4 * VOCAB)


def other_teacher() -> DenseScores:
    """Another one, of another width, with a scale, a bias and a cap."""
    generator = torch.Generator().manual_seed(77)
    hidden = torch.randn(4, 7, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCAB, 5, generator=generator, dtype=torch.float64)
    bias = torch.randn(VOCAB, generator=generator, dtype=torch.float64)
    return DenseScores(hidden, Head(weight, bias, 0.8, 3.0))


def mixed(
    members: Sequence[DenseScores], weights: Sequence[float], geometric: bool = False
) -> MixedScores:
    hidden = torch.cat([member.hidden for member in members], dim=-1)
    return MixedScores(hidden, MixedHead(tuple(m.head for m in members), tuple(weights), geometric))


def routed(members: Sequence[DenseScores], places: Sequence[int]) -> MixedScores:
    heads = MixedHead(tuple(member.head for member in members))
    hidden = torch.zeros(4, 7, max(heads.widths) + 1, dtype=torch.float64)
    for row, place in enumerate(places):
        found = members[place].hidden[row]
        hidden[row, :, : found.shape[-1]] = found
        hidden[row, :, -1] = place
    return MixedScores(hidden, heads)


def value_and_gradients(name: str, here: World, scores: TeacherScores) -> list[Tensor]:
    """The total, its gradients, and every part that is logged."""
    temperature = 1.0 if name in ("advantages", "sequence_reverse_kl") else TEMPERATURE
    objective = WeightedObjective(
        [term(name)],
        reduction="sum",
        loss_temperature=temperature,
        monitors=("teacher_entropy", "student_topk_overlap", "teacher_topk_overlap"),
    )
    objective.begin_update(1, 9, logged=True)
    loss, parts = objective(here.states, scores, here.batch)
    head = here.states.head
    assert head.bias is not None
    leaves = (here.states.hidden, head.weight, head.bias)
    return [
        loss.total.detach(),
        *torch.autograd.grad(loss.total, leaves),
        *(part.total.double() for part in parts.values()),
    ]


@pytest.mark.parametrize("geometric", [False, True])
@pytest.mark.parametrize("name", TERM_NAMES)
def test_twice_the_same_teacher_and_weights_of_one_and_none_are_that_teacher(
    name: str, geometric: bool
) -> None:
    here = rollouts()
    expected = value_and_gradients(name, here, here.scores)
    for members, weights in (
        ((here.scores, here.scores), (0.25, 0.75)),
        ((here.scores, other_teacher()), (1.0, 0.0)),
        ((other_teacher(), here.scores), (0.0, 1.0)),
    ):
        got = value_and_gradients(name, here, mixed(members, weights, geometric))
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("geometric", [False, True])
@pytest.mark.parametrize("name", SOFT)
def test_a_mixture_equals_that_of_whole_log_probabilities(name: str, geometric: bool) -> None:
    here, weights = world(), (0.3, 0.7)
    members = (here.scores, other_teacher())
    chosen = term(name).divergence
    temperature = 1.0 if chosen.member.one_right_symbol else TEMPERATURE
    log_probs = [(m.head.logits(m.hidden) / temperature).log_softmax(-1) for m in members]
    whole = torch.stack(log_probs)
    parts = torch.tensor(weights, dtype=torch.float64)[:, None, None, None]
    blend = (parts * whole).sum(0) if geometric else (parts * whole.exp()).sum(0).log()
    teacher = blend.log_softmax(-1)
    student, _ = here.log_probs(temperature)
    if chosen.member.of_chunks:
        student, teacher = (of_targets(each, here) for each in (student, teacher))
    state = chosen.member.new_state(chosen.parameters)
    arguments = chosen.arguments() if state is None else state.arguments()
    values = chosen.member.function(student, teacher, **arguments)
    expected = values[here.batch.target_mask].sum()
    head = here.states.head
    assert head.bias is not None
    leaves = (here.states.hidden, head.weight, head.bias)
    wanted = [expected.detach(), *torch.autograd.grad(expected, leaves)]
    got = value_and_gradients(name, here, mixed(members, weights, geometric))
    torch.testing.assert_close(got[:4], wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", TERM_NAMES)
def test_rows_by_route_equal_each_teachers_rows_alone(name: str) -> None:
    here, other = rollouts(), other_teacher()
    places = (1, 0, 0, 1)
    got = value_and_gradients(name, here, routed((here.scores, other), places))
    summed: list[Tensor] | None = None
    for row, place in enumerate(places):
        part = here.rows(slice(row, row + 1))
        scores = (here.scores, other)[place]
        alone = DenseScores(scores.hidden[row : row + 1], scores.head)
        total, *rest = value_and_gradients(name, part, alone)
        whole = torch.zeros_like(here.states.hidden)
        whole[row : row + 1] = rest[0]
        found = [total, whole, *rest[1:]]
        summed = found if summed is None else [a + b for a, b in zip(summed, found, strict=True)]
    assert summed is not None
    torch.testing.assert_close(got[:4], summed[:4], rtol=1e-9, atol=1e-10)
    # The monitors, which come last, are sums over tokens, too.
    torch.testing.assert_close(got[-3:], summed[-3:], rtol=1e-9, atol=1e-10)


def test_no_more_than_a_slice_is_mixed_at_a_time() -> None:
    here = world()
    scores = mixed((here.scores, other_teacher()), (0.5, 0.5))
    hidden = scores.hidden[here.batch.target_mask]
    blocking = Blocking.of(hidden, VOCAB, None)
    mixing = MixedPass(hidden, scores.head, dtype=torch.float64, temperature=1.0, blocking=blocking)
    assert blocking == Blocking(4, 2)
    assert mixing.rows(0, 2).shape == (2, VOCAB)
    assert all(one._product.shape == (4, VOCAB) for _, one in mixing._passes)


def test_a_symbol_that_one_teacher_excludes_is_excluded_by_the_geometric_mean_alone() -> None:
    here, other = world(), other_teacher()
    assert other.head.bias is not None
    other.head.bias[3] = -torch.inf
    uncapped = DenseScores(other.hidden, Head(other.head.weight, other.head.bias))
    hidden = here.batch.target_mask
    for geometric in (False, True):
        scores = mixed((here.scores, uncapped), (0.5, 0.5), geometric)
        blocking = Blocking(4, 4)
        rows = MixedPass(
            scores.hidden[hidden],
            scores.head,
            dtype=torch.float64,
            temperature=1.0,
            blocking=blocking,
        ).rows(0, 4)
        assert bool((rows[:, 3] == -torch.inf).all()) is geometric
        assert not rows.isnan().any()


def test_rows_of_a_batch_are_a_batch() -> None:
    here = rollouts()
    told = here.told(extras={"x": torch.arange(4.0)}, teacher=here.batch).batch
    part = told.rows(torch.tensor([3, 1]))
    assert part.example_ids == ("3", "1") and part.origins == ("reference", "teacher")
    assert part.extras["x"].tolist() == [3.0, 1.0]
    assert isinstance(part.teacher, SequenceBatch)
    for batch in (part, part.teacher):
        assert torch.equal(batch.target_ids, told.target_ids[[3, 1]])
        assert torch.equal(batch.target_mask, told.target_mask[[3, 1]])
    assert not isinstance(here.scores, NoScores)
