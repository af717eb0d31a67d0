"""The objective: what it adds up and counts, what it logs and refuses.

Every setting's formula, in value and gradient, is held by tests/jobs/test_built_objectives.py.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from scipy.special import entr, rel_entr
from tests.objectives.worlds import TERM_NAMES, VOCAB, World, mean, only, plain_mean, term, world
from torch import Tensor

from seqdistill.core.batch import StudentStates
from seqdistill.core.errors import RecipeError, UserError
from seqdistill.core.families import (
    DIVERGENCES,
    TOKEN_WEIGHTS,
    InterpolatedForwardKL,
    TokenWeight,
)
from seqdistill.core.origins import Origin
from seqdistill.core.registry import Chosen
from seqdistill.core.schedules import Schedule
from seqdistill.core.scores import DenseScores, NoScores
from seqdistill.core.terms import Monitor, Reduction, Term, term_findings
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.adaptive_divergences import InterpolationShare
from seqdistill.objectives.divergences import jensen_shannon
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.objectives.observation import Observation
from seqdistill.objectives.reduction import reduce, reduction_count, reduction_weights

NLL, FKL, TAID = (
    term(n) for n in ("negative_log_likelihood", "forward_kl", "interpolated_forward_kl")
)
POLICY = TOKEN_WEIGHTS.choose("advantages")
WRITERS: tuple[Origin, ...] = ("teacher", "student", "reference", "student")
MONITORS: tuple[Monitor, ...] = get_args(Monitor)
every_reduction = pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])


@pytest.mark.parametrize(
    ("reduction", "total", "count"),
    [("token", 16.0, 4.0), ("sequence", 2.0 + 10.0, 2.0), ("sum", 16.0, 2.0)],
)
def test_each_reduction_is_what_its_name_says_and_reads_nothing_else(
    reduction: Reduction, total: float, count: float
) -> None:
    nan = math.nan
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, nan, nan], [nan, nan, nan]]).requires_grad_()
    mask = ~values.isnan()
    found = reduce(values, mask, reduction)
    assert (found.total.item(), found.count.item()) == (total, count)
    assert found.count == reduction_count(mask, reduction)
    weights = reduction_weights(mask, reduction)
    (gradient,) = torch.autograd.grad(found.total, values)
    assert torch.equal(gradient, weights) and (weights[~mask] == 0.0).all()
    nothing = reduce(values, torch.zeros_like(mask), reduction)
    assert nothing.total == nothing.count == 0.0
    assert reduce(values.double(), mask, reduction).total.dtype == torch.float64
    assert reduce(values.bfloat16(), mask, reduction).total.dtype == torch.float32


@every_reduction
@pytest.mark.parametrize("name", DIVERGENCES)
def test_every_term_equals_a_naive_loop(name: str, reduction: Reduction) -> None:
    one, here = term(name, weight=Schedule(1.4, 0.7)), world()
    temperature = 1.0 if one.divergence.member.one_right_symbol else 2.0
    objective = WeightedObjective([one], reduction=reduction, loss_temperature=temperature)
    expected = plain_mean(one, here, reduction, temperature)
    assert mean(objective, here) == pytest.approx(1.4 * expected, rel=1e-6), "before any update"
    objective.begin_update(3, 3, logged=False)
    total, parts = objective(here.states, here.scores, here.batch)
    assert total.detached().mean == pytest.approx(0.7 * expected, rel=1e-6)
    assert set(parts) - {name} <= {"interpolation_share", "beta"}
    assert parts[name].mean == pytest.approx(expected, rel=1e-6), "logs are unweighted nats"
    assert not parts[name].total.requires_grad
    assert not objective.needs_eval_states
    assert objective.needs_teacher == (name != "negative_log_likelihood")
    if not objective.needs_teacher:
        alone, _ = objective(here.states, NoScores(), here.batch)
        assert alone.total == total.total, "no teacher is asked"


def test_terms_of_one_name_are_added_and_numbered_and_logged_in_plain_nats() -> None:
    here = world()
    terms = [term("jensen_shannon", beta=0.2), NLL, term("jensen_shannon", beta=0.8)]
    objective = WeightedObjective(terms, reduction="token", loss_temperature=3.0)
    _, parts = objective(here.states, here.scores, here.batch)
    assert list(parts) == ["jensen_shannon", "negative_log_likelihood", "jensen_shannon_2"]
    values = [plain_mean(one, here, "token", 3.0) for one in terms]
    assert [part.mean for part in parts.values()] == pytest.approx(values, rel=1e-6)
    assert mean(objective, here) == pytest.approx(9 * (values[0] + values[2]) + values[1])


def test_autocast_does_not_round_what_is_logged() -> None:
    here = world()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, parts = WeightedObjective([FKL], reduction="token")(
            StudentStates(here.states.hidden.float(), here.states.head), here.scores, here.batch
        )
    assert parts["forward_kl"].mean == pytest.approx(loss.detached().mean, rel=1e-6)


def test_a_batch_without_targets_counts_nothing() -> None:
    here = world((0, 0, 3)).rows(slice(0, 2))
    objective = WeightedObjective([NLL, FKL], reduction="token")
    total, parts = objective(here.states, here.scores, here.batch)
    assert total.total == total.count == parts["forward_kl"].count == 0.0


@every_reduction
def test_the_loss_does_not_depend_on_the_split_into_micro_batches(reduction: Reduction) -> None:
    """TRL #4719, ms-swift #10165: means of means. All terms at once, writers and importance weights
    too, and policy gradients where they may be."""
    generator = torch.Generator().manual_seed(9)
    here = world().told(
        origins=("student", "teacher", "student", "reference"),
        advantages=torch.randn(4, generator=generator),
        sampled_log_probs=-torch.rand(4, 7, generator=generator, dtype=torch.float64),
    )
    names = {"token": list(DIVERGENCES), "sequence": [*DIVERGENCES, "advantages"]}
    terms = [term(name) for name in names.get(reduction, TERM_NAMES)]
    terms += [term("reverse_kl", token_weights=["importance"])]
    terms += [term("forward_kl", token_weights=[only("student")])]
    chosen = WeightedObjective(terms, reduction=reduction)
    weight = here.states.head.weight
    whole, whole_parts = chosen(here.states, here.scores, here.batch)
    (expected,) = torch.autograd.grad(whole.total / whole.count, weight)
    for cuts in ((0, 1, 4), (0, 2, 3, 4)):
        total, parts = TokenSum.zero(), dict.fromkeys(whole_parts, TokenSum.zero())
        for first, last in itertools.pairwise(cuts):
            piece = here.rows(slice(first, last))
            loss, named = chosen(piece.states, piece.scores, piece.batch)
            total = total + loss
            parts = {name: parts[name] + part for name, part in named.items()}
        (found,) = torch.autograd.grad(total.total / total.count, weight)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
        for name, part in parts.items():
            assert part.mean == pytest.approx(whole_parts[name].mean, rel=1e-6), name


@pytest.mark.parametrize("name", TERM_NAMES)
def test_padding_is_never_read_and_receives_no_gradient(name: str) -> None:
    """TRL #7024: MiniLLM's mask was true everywhere, so padding was scored."""
    here = world().told(advantages=torch.tensor([1.0, -2.0, 0.5, 1.0]))
    objective = WeightedObjective([term(name)], reduction="sum")
    clean, hole = mean(objective, here), ~here.batch.target_mask
    here.states.hidden.data[hole] = torch.nan
    here.scores.hidden[hole] = torch.nan
    here.batch.target_ids[hole] = here.states.head.vocab_size + 5
    total, _ = objective(here.states, here.scores, here.batch)
    assert total.detached().mean == clean
    (gradient,) = torch.autograd.grad(total.total, here.states.hidden)
    assert (gradient[hole] == 0.0).all() and gradient.isfinite().all()


@pytest.mark.parametrize("name", [name for name in TERM_NAMES if term(name).asks_teacher])
def test_soft_terms_refuse_scores_that_are_not_dense(name: str) -> None:
    here, objective = world(), WeightedObjective([term(name)], reduction="sum")
    with pytest.raises(RecipeError, match=rf"{name} needs .* teacher.scores to dense"):
        objective(here.states, NoScores(), here.batch)


def test_padded_rows_of_the_student_head_are_known_to_hard_targets_and_entropy_only() -> None:
    here, kept = world(), VOCAB - 4
    here = here.told(target_ids=here.batch.target_ids.clamp(max=kept - 1))
    smaller = DenseScores(here.scores.hidden, here.scores.head.cut(kept))
    cut = StudentStates(here.states.hidden, here.states.head.cut(kept))
    weight = here.states.head.weight
    for terms in ([FKL], [FKL, term("sequence_reverse_kl")]):
        soft = WeightedObjective(terms, reduction="sum")
        whole, narrow = (soft(states, smaller, here.batch)[0] for states in (here.states, cut))
        assert whole.total == narrow.total
        gradients = [torch.autograd.grad(total.total, weight)[0] for total in (whole, narrow)]
        torch.testing.assert_close(*gradients)
        assert (gradients[0][kept:] == 0.0).all()
    both = WeightedObjective([NLL, FKL], reduction="token", monitors=MONITORS)
    both.begin_update(1, 1, logged=True)
    _, parts = both(here.states, smaller, here.batch)
    mask = here.batch.target_mask
    q = here.states.head.logits(here.states.hidden)[mask].detach()
    p = smaller.head.logits(smaller.hidden)[mask].softmax(-1).numpy()
    expected = {
        "negative_log_likelihood": plain_mean(NLL, here, "token"),
        "student_entropy": entr(q.softmax(-1).numpy()).sum(-1).mean(),
        "teacher_entropy": entr(p).sum(-1).mean(),
        "teacher_reverse_kl": rel_entr(q[:, :kept].softmax(-1).numpy(), p).sum(-1).mean(),
    }
    assert {name: parts[name].mean for name in expected} == pytest.approx(expected, rel=1e-6)
    fewer = DenseScores(here.scores.hidden, here.scores.head.cut(3))
    with pytest.raises(RecipeError, match=r"targets that the teacher scores, ids below 3"):
        WeightedObjective([term("sequence_reverse_kl")], reduction="sum")(
            here.states, fewer, here.batch
        )


@every_reduction
def test_terms_by_writer_log_their_own_sequences_and_share_one_count(reduction: Reduction) -> None:
    """DistiLLM-2: skew KL on the teacher's sequences, skew reverse KL on the student's."""
    here = world().told(origins=WRITERS)
    rows = {"teacher": (0,), "student": (1, 3), "teacher_mixed": ()}
    names = ("skew_forward_kl", "skew_reverse_kl", "forward_kl")
    terms = [term(n, token_weights=[only(w)]) for n, w in zip(names, rows, strict=True)]  # type: ignore[arg-type]
    whole, parts = WeightedObjective(terms, reduction=reduction)(
        here.states, here.scores, here.batch
    )
    total = torch.zeros((), dtype=torch.float64)
    for name, own_rows in zip(names, rows.values(), strict=True):
        own, alone = TokenSum.zero(), WeightedObjective([term(name)], reduction=reduction)
        for row in own_rows:
            piece = here.rows(slice(row, row + 1))
            own = own + alone(piece.states, piece.scores, piece.batch)[0].detached()
        assert parts[name].count == own.count
        torch.testing.assert_close(parts[name].total.double(), own.total.double())
        total = total + own.total
    everything, _ = WeightedObjective([FKL], reduction=reduction)(
        here.states, here.scores, here.batch
    )
    assert whole.count == everything.count, "one count, that of the whole batch"
    torch.testing.assert_close(whole.total.detach(), total)


def test_what_a_batch_does_not_say_is_refused_with_the_cause() -> None:
    here = world()
    for given, sentence in (
        (term("forward_kl", token_weights=[only("student")]), r"student, .* got a batch without"),
        (term("advantages"), r"without advantages: no reward was computed"),
    ):
        with pytest.raises(RecipeError, match=sentence):
            WeightedObjective([given], reduction="sum")(here.states, here.scores, here.batch)


@pytest.mark.parametrize(
    ("name", "settings", "word"),
    [
        ("skew_forward_kl", {"alpha": Schedule(0.0, 0.5)}, "alpha"),
        ("jensen_shannon", {"beta": 1.5}, "beta"),
        ("interpolated_forward_kl", {"start_fraction": 1.1}, "start_fraction"),
        ("interpolated_forward_kl", {"step": 1.1}, "step"),
        ("interpolated_forward_kl", {"momentum": 1.0}, "momentum"),
        ("sequence_reverse_kl", {"discount": 0.0}, "discount"),
        ("origin", {"origins": ("pupil",)}, "origins"),
        ("reverse_kls", {}, "Did you mean 'reverse_kl'"),
    ],
)
def test_impossible_parameters_are_refused(name: str, settings: dict[str, Any], word: str) -> None:
    family = TOKEN_WEIGHTS if name in TOKEN_WEIGHTS else DIVERGENCES
    with pytest.raises(RecipeError, match=word):
        family.choose(name, **settings)


def likelihood(*weights: str) -> Term:
    return Term.of("negative_log_likelihood", token_weights=weights)


@pytest.mark.parametrize(
    ("terms", "settings", "word"),
    [
        ([term("forward_kl", weight=-1.0)], {}, "at least 0"),
        ([term("forward_kl", weight=Schedule(1.0, -1.0))], {}, "at least 0"),
        ([term("forward_kl", weight=0.0)], {}, "greater than 0"),
        ([NLL], {"loss_temperature": 2.0}, "loss_temperature"),
        ([term("sequence_reverse_kl"), FKL], {"loss_temperature": 2.0}, "loss_temperature"),
        ([term("sequence_reverse_kl")], {"reduction": "token"}, "reduction"),
        ([term("sequence_reverse_kl")], {"reduction": "sequence"}, "reduction"),
        ([term("advantages")], {"reduction": "token"}, "reduction"),
        ([term("forward_kl", token_weights=[POLICY])], {}, "divergence"),
        ([term("reverse_kl", token_weights=["importance", "importance"])], {}, "once"),
        ([likelihood("advantages", "sequence_reverse_kl")], {}, "two terms"),
    ],
)
def test_terms_that_do_not_go_together_are_refused(
    terms: list[Term], settings: dict[str, Any], word: str
) -> None:
    given: dict[str, Any] = {"reduction": "sum", "loss_temperature": 1.0} | settings
    assert any(word in key + sentence for key, sentence in term_findings(terms, **given))


def test_an_extra_is_one_number_a_sequence_and_other_shapes_are_refused() -> None:
    rates = torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    here = world().told(extras={"rate": rates})
    seen = Observation(here.states, here.scores, here.batch)
    of_rate = TokenWeight("of_rate", lambda seen: seen.extra("rate"))
    found = seen.weights(Chosen(of_rate, of_rate.parameters()))
    assert torch.equal(found, rates[:, None].expand(here.batch.target_mask.shape))
    flat = TokenWeight("flat", lambda seen: seen.target_mask[0].double())
    with pytest.raises(RecipeError, match=r"flat must .* \(batch, time\)"):
        seen.weights(Chosen(flat, flat.parameters()))
    torn = TokenWeight("torn", lambda seen: dict[str, Tensor]()["pass_rate"])
    with pytest.raises(
        UserError, match=r"'torn' .* raised KeyError: .* at \S+objective\.py:\d+; fix"
    ):
        seen.weights(Chosen(torn, torn.parameters()))
    with pytest.raises(RecipeError, match=r"'other' .* data\.extra_columns"):
        seen.extra("other")


@dataclasses.dataclass(frozen=True)
class FirstTokens:
    num: int


@pytest.fixture
def first_tokens() -> Iterator[Chosen[TokenWeight]]:
    """A weight that keeps the first tokens of each sequence and counts those alone."""

    def weigh(seen: Observation, num: int) -> Tensor:
        return (torch.arange(seen.target_mask.shape[1]) < num) * torch.ones(seen.target_mask.shape)

    name = "first_tokens"
    TOKEN_WEIGHTS.add(name, weigh, parameters=FirstTokens, leaves_count=True)
    yield TOKEN_WEIGHTS.choose(name, num=2)
    del TOKEN_WEIGHTS._members[name]


@every_reduction
def test_a_weight_that_leaves_the_count_is_as_if_the_rest_were_masked(
    reduction: Reduction, first_tokens: Chosen[TokenWeight]
) -> None:
    here, counted = world(), term("forward_kl", token_weights=[first_tokens])
    shorter = here.told(target_mask=here.batch.target_mask & (torch.arange(7) < 2))
    plain = WeightedObjective([FKL], reduction=reduction)
    expected, _ = plain(shorter.states, shorter.scores, shorter.batch)
    objective = WeightedObjective([counted], reduction=reduction)
    found, parts = objective(here.states, here.scores, here.batch)
    assert (found.total.item(), found.count) == (expected.total.item(), expected.count)
    assert parts["forward_kl"].mean == pytest.approx(expected.detached().mean)
    _, sentence = next(term_findings([counted, FKL], reduction, 1.0))
    assert "one count" in sentence


def logged(terms: list[Term], monitors: tuple[Monitor, ...] = MONITORS) -> WeightedObjective:
    objective = WeightedObjective(terms, reduction="token", monitors=monitors)
    objective.begin_update(10, 100, logged=True)
    return objective


def test_monitors_change_neither_loss_nor_gradient_and_have_none() -> None:
    here, terms = world(), [NLL, term("jensen_shannon", beta=0.3)]
    totals = []
    for monitors in ((), MONITORS):
        loss, parts = logged(terms, monitors)(here.states, here.scores, here.batch)
        (gradient,) = torch.autograd.grad(loss.total, here.states.head.weight)
        totals.append((loss.total.detach(), gradient))
        assert list(parts) == ["negative_log_likelihood", "jensen_shannon", *monitors]
        assert not any(part.total.requires_grad for part in parts.values())
    assert all(torch.equal(one, other) for one, other in zip(*totals, strict=True))
    _, parts = logged([NLL])(here.states, NoScores(), here.batch)
    assert list(parts) == ["negative_log_likelihood", "student_entropy"], "no teacher was asked"


def test_monitors_tell_of_the_student_as_it_writes() -> None:
    """That is with its dropout off."""
    here, objective = world(), logged([NLL])
    quiet = StudentStates(here.states.hidden.detach() * 0.5 + 0.2, here.states.head)
    assert objective.needs_eval_states
    loss, parts = objective(here.states, here.scores, here.batch, quiet)
    _, expected = objective(quiet, here.scores, here.batch)
    assert all(parts[name].mean == expected[name].mean for name in MONITORS)
    assert loss.total == objective(here.states, here.scores, here.batch)[0].total
    objective.begin_update(11, 100, logged=False)
    assert not objective.needs_eval_states, "nobody looks at this update"


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
def test_a_term_is_told_for_own_sequences_and_others_per_token(reduction: Reduction) -> None:
    """The first that compares everywhere; the loss is what it is without."""
    mine = ("reference", "student", "teacher", "teacher_mixed")
    here = world().told(origins=mine)
    weighed = term("forward_kl", token_weights=[only("student")])
    terms = [NLL, weighed, term("reverse_kl", weight=0.3), term("forward_kl")]
    objective = WeightedObjective(terms, reduction=reduction, by_origin=True)
    total, parts = objective(here.states, here.scores, here.batch)
    for name, numbers in (("divergence_own", (1, 3)), ("divergence_others", (0, 2))):
        each = [here.rows(slice(number, number + 1)) for number in numbers]
        counts = [part.batch.num_targets for part in each]
        values = [plain_mean(terms[2], part, "token") for part in each]
        expected = sum(n * value for n, value in zip(counts, values, strict=True))
        assert parts[name].count == sum(counts)
        assert float(parts[name].total) == pytest.approx(expected, rel=1e-6)
    plain, others = WeightedObjective(terms, reduction=reduction)(
        here.states, here.scores, here.batch
    )
    assert total.total == plain.total
    assert parts.keys() - others.keys() == {"divergence_own", "divergence_others"}
    nobody = here.told(origins=("teacher",) * 4)
    _, parts = objective(nobody.states, nobody.scores, nobody.batch)
    assert parts["divergence_own"].count == 0.0, "there all the same: processes add by place"


@pytest.mark.parametrize("mine", ["student", "teacher_mixed"])
def test_monitors_count_only_what_the_student_had_a_hand_in(mine: str) -> None:
    """Beside a teacher too: all that MiniLLM's student writes is teacher-mixed."""
    here, objective = world(), logged([NLL])
    mixed = here.told(origins=("reference", "student", "teacher", mine))
    own = here.rows(slice(1, 2)), here.rows(slice(3, 4))
    _, parts = objective(mixed.states, mixed.scores, mixed.batch)
    alone = [objective(part.states, part.scores, part.batch)[1] for part in own]
    for name in MONITORS:
        assert parts[name].count == sum(part.batch.num_targets for part in own)
        assert parts[name].total == pytest.approx(sum(float(p[name].total) for p in alone))
    nobody = here.told(origins=("reference",) * 4)
    _, parts = objective(nobody.states, nobody.scores, nobody.batch)
    assert not any(float(parts[name].count) for name in MONITORS)


def test_strange_losses_move_the_target_nowhere_strange() -> None:
    share = InterpolationShare(InterpolatedForwardKL())
    for update, loss in enumerate((1.0, math.nan, 1e-300, 1e300, 0.0, 0.0, 1.0), start=1):
        share.learn(loss, update, 100_000)
        assert 0.4 <= share.share <= 1.0
    single = InterpolationShare(InterpolatedForwardKL())
    single.learn(1.0, 1, 1)
    assert single.share == 1.0


def train(objective: WeightedObjective, here: World, first: int, last: int) -> list[float]:
    """Updates that move the student; the losses of the term."""
    losses = []
    for update in range(first, last + 1):
        objective.begin_update(update, 100_000, logged=False)
        _, parts = objective(here.states, here.scores, here.batch)
        objective.end_update({name: part.detached() for name, part in parts.items()})
        here.states.hidden.data.mul_(0.9)
        losses.append(parts["interpolated_forward_kl"].mean)
    return losses


def test_a_moving_target_resumed_equals_uninterrupted() -> None:
    whole, first, second = (WeightedObjective([TAID], reduction="token") for _ in range(3))
    expected, here = train(whole, world(), 1, 8), world()
    train(first, here, 1, 4)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert train(second, here, 5, 8) == expected[4:]
    assert second.state_dict() == whole.state_dict()
    share = second.state_dict()["interpolated_forward_kl.share"]
    assert share > 0.4 + 0.6 * 8 / (100_000 - 1), "the adaptive step must have been taken"


def test_beta_follows_what_both_models_have_in_common_by_its_rule() -> None:
    objective = WeightedObjective(
        [term("adaptive_jensen_shannon", within=(0.2, 0.6), time_constant=4.0)], reduction="token"
    )
    here, common, seen = world(), 0.4, []
    # Of a symbol that both give a probability, and else a symbol each, they share that probability.
    shares = (1.0, 0.25, 0.7, 1.0, 1.0, None, *[0.0] * 6)
    for update, shared in enumerate(shares, start=1):
        beta = min(max(common, 0.2), 0.6)
        objective.begin_update(update, len(shares), logged=False)
        _, parts = objective(here.states, here.scores, here.batch)
        assert parts["beta"].mean == pytest.approx(beta)
        assert parts["adaptive_jensen_shannon"].mean == pytest.approx(
            plain_mean(term("jensen_shannon", beta=beta, scale="gradient"), here, "token"), rel=1e-6
        )
        told = TokenSum.zero()
        if shared is not None:
            p = torch.tensor([shared, 1.0 - shared, 0.0]).log()
            q = torch.tensor([shared, 0.0, 1.0 - shared]).log()
            told = TokenSum(5.0 * jensen_shannon(q, p, beta, "gradient"), torch.tensor(5.0))
            common += (shared - common) / 4.0
        objective.end_update({"adaptive_jensen_shannon": told})
        again = WeightedObjective(
            [term("adaptive_jensen_shannon", within=(0.2, 0.6), time_constant=4.0)],
            reduction="token",
        )
        again.load_state_dict(json.loads(json.dumps(objective.state_dict())))
        assert again.state_dict() == objective.state_dict()
        seen.append(beta)
    assert min(seen) == 0.2 and max(seen) == 0.6


def test_two_moving_targets_have_two_states() -> None:
    terms = [TAID, term("interpolated_forward_kl", start_fraction=0.8)]
    objective, here = WeightedObjective(terms, reduction="token"), world()
    _, parts = objective(here.states, here.scores, here.batch)
    assert parts["interpolation_share"].mean == 0.4
    assert parts["interpolation_share_2"].mean == pytest.approx(0.8)
    assert parts["interpolated_forward_kl_2"].mean == pytest.approx(
        plain_mean(terms[1], here, "token")
    )
    other = WeightedObjective(terms, reduction="token")
    other.load_state_dict(objective.state_dict() | {"interpolated_forward_kl_2.share": 0.9})
    state = other.state_dict()
    assert state["interpolated_forward_kl.share"] == 0.4
    assert state["interpolated_forward_kl_2.share"] == 0.9
